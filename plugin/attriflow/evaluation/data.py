"""The rows of an evaluation, checked: inputs, targets, rationales."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from attriflow.errors import InputError, check_unicode
from attriflow.evaluation.config import EvaluationConfig
from attriflow.evaluation.rationale import Rationale, parse_rationale
from attriflow.texts.chats import Chat, chat_of, is_cell, messages_of, of_cell, text_of_chat

if TYPE_CHECKING:
    import pandas as pd

    from attriflow.model import AttributionModel
    from attriflow.types import Example


@dataclass(frozen=True, kw_only=True)
class Foil:
    """What a row is compared with: another target, another source (or prompt), or both."""

    target: str | None = None
    source: str | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluationData:
    """Parallel rows of texts or chats. `targets` None: generate; a rationale or foil None: this row has none.

    `rows` are their numbers in the data that they come from (None: all of it), `failed` the numbers of those that
    cannot be explained, with the reasons.
    """

    inputs: tuple[str | Chat, ...]
    targets: tuple[str, ...] | None = None
    rationales: tuple[Rationale | None, ...] | None = None
    foils: tuple[Foil | None, ...] | None = None
    rows: tuple[int, ...] | None = None
    failed: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Rows are parallel and there is at least one."""
        if not self.inputs:
            raise InputError("there are no rows to evaluate")
        for name in (*_PARALLEL, "rows"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.inputs):
                raise InputError(f"{len(values)} {name} for {len(self.inputs)} inputs")

    @property
    def digest(self) -> str:
        """Says whether two evaluations had the same inputs in the same order, so that examples can be paired."""
        return hashlib.sha256(json.dumps(self.inputs).encode()).hexdigest()[:16]

    @property
    def numbers(self) -> tuple[int, ...]:
        """Numbers of the rows in the data that they come from."""
        return tuple(range(len(self.inputs))) if self.rows is None else self.rows

    def without(self, wrong: Mapping[int, str]) -> EvaluationData:
        """The other rows. `wrong` has the places of rows among these, and why they cannot be explained.

        Raises:
            InputError: None is left.
        """
        if not wrong:
            return self
        numbers, good = self.numbers, [i for i in range(len(self.inputs)) if i not in wrong]
        failed = {**self.failed, **{numbers[i]: why for i, why in wrong.items()}}
        check_some(failed, len(good))
        kept: dict[str, Any] = {}
        for name in ("inputs", *_PARALLEL):
            values = getattr(self, name)
            kept[name] = None if values is None else tuple(values[i] for i in good)
        return EvaluationData(**kept, rows=tuple(numbers[i] for i in good), failed=dict(sorted(failed.items())))

    @classmethod
    def from_frame(
        cls, frame: pd.DataFrame, config: EvaluationConfig, targets: Sequence[Any] | None = None
    ) -> EvaluationData:
        """Rows of a data frame whose columns a checked config names; `targets` are given apart.

        Raises:
            InputError: No row can be used.
        """
        n = len(frame) if config.max_examples is None else min(len(frame), config.max_examples)
        if not n:
            raise InputError("there are no rows to evaluate")
        unread: Mapping[int, str] = frame.attrs.get(UNREAD, {})
        names = {config.inputs, config.rationale, config.contrast_target, config.contrast_source} - {None}
        columns = {name: frame[name].tolist()[:n] for name in names}
        good: list[tuple[str | Chat, str | None, Rationale | None, Foil | None]] = []
        rows, failed = list[int](), dict[int, str]()
        for i in range(n):
            row: dict[Any, Any] = {name: values[i] for name, values in columns.items()}
            try:
                if i in unread:
                    raise InputError(unread[i])
                given = of_cell("the input", row[config.inputs])
                target = None if targets is None else reply_of("the target", targets[i])
                evidence = None if config.rationale is None else evidence_in(given, row[config.rationale])
                good.append((given, target, evidence, _foil(row, config)))
                rows.append(i)
            except InputError as error:
                failed[i] = str(error)
        check_some(failed, len(good))
        inputs, replies, rationales, foils = zip(*good, strict=True)
        return cls(
            inputs=inputs,
            targets=None if targets is None else replies,
            rationales=None if config.rationale is None else rationales,
            foils=foils if config.contrasted else None,
            rows=tuple(rows) if failed else None,
            failed=failed,
        )


_PARALLEL = ("targets", "rationales", "foils")
TOLD = 10
"""Failed rows that are told one by one."""
UNREAD = "attriflow.unread"
"""Attribute of data frames: number of a row -> why it could not be read. Such a row has no values."""


def say_failed(data: EvaluationData, say: Callable[[str], object]) -> None:
    """Tell of the first rows that failed, and how many there are."""
    for number, why in list(data.failed.items())[:TOLD]:
        say(f"row {number} failed: {why}")
    if len(data.failed) > TOLD:
        say(f"{len(data.failed)} rows failed, {len(data.inputs)} are explained")


def check_some(failed: Mapping[int, str], good: int) -> None:
    """Raise `InputError` when all rows failed."""
    if failed and not good:
        first = min(failed)
        who = f"none of the {len(failed)} rows can be explained; " if len(failed) > 1 else ""
        raise InputError(f"{who}row {first}: {failed[first]}")


def encoded(model: AttributionModel, data: EvaluationData, **options: Any) -> tuple[list[Example], EvaluationData]:
    """Rows as examples, and the rows that could be: one that is too long, say, fails alone. `options`: of `encode`."""

    def encode(rows: EvaluationData) -> list[Example]:
        targets = None if rows.targets is None else list(rows.targets)
        return model.encode(list(rows.inputs), targets, continuation=True, **options)

    try:
        return encode(data), data
    except InputError:
        wrong = {}
        for i in range(len(data.inputs)):
            try:
                encode(_only(data, i))
            except InputError as error:
                wrong[i] = str(error)
        if not wrong:
            raise
    kept = data.without(wrong)
    return encode(kept), kept


def _only(data: EvaluationData, i: int) -> EvaluationData:
    targets = None if data.targets is None else data.targets[i : i + 1]
    return EvaluationData(inputs=data.inputs[i : i + 1], targets=targets)


def _foil(row: Mapping[str, Any], config: EvaluationConfig) -> Foil | None:
    columns = {"target": config.contrast_target, "source": config.contrast_source}
    given = {k: _optional(f"'{c}'", row[c]) for k, c in columns.items() if c is not None}
    found = {k: v for k, v in given.items() if v is not None}
    if not found and config.contrasted and config.needs_foils:
        raise InputError(f"it has no foil, and '{config.attributed_fn}' explains every row against one")
    return Foil(**found) if found else None


def _optional(label: str, value: Any) -> str | None:
    """A text; None for an empty cell."""
    if _missing(value) or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, str):
        raise InputError(f"{label} must be a text or empty, not {value!r}"[:200])
    return value


def _missing(value: Any) -> bool:
    """None, NaN, pandas' NA and NaT."""
    missing = value is None or type(value).__name__ in ("NAType", "NaTType")
    return missing or (isinstance(value, float) and value != value)


def text_columns(frame: pd.DataFrame) -> list[str]:
    """Columns of texts or chats, those without a hole if there are any.

    One that holds numbers only is none: in a CSV file all cells are texts.
    """
    known = {str(c): [v for v in frame[c] if not _missing(v)] for c in frame.columns}
    found = [name for name, values in known.items() if _are_texts(values)]
    return [name for name in found if len(known[name]) == len(frame)] or found


def _are_texts(values: Sequence[Any]) -> bool:
    return bool(values) and all(map(is_cell, values)) and not all(isinstance(v, str) and _is_number(v) for v in values)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def evidence_in(given: str | Chat, rationale: Any, where: str = "rationale") -> Rationale | None:
    """The evidence of a row: in its text, or in the contents of its chat (see `text_of_chat`)."""
    return parse_rationale(rationale, given if isinstance(given, str) else text_of_chat(given), where)


def reply_of(label: str, value: Any) -> str:
    """A target: a text, or the content of a message (of the last one, where it is a chat)."""
    chat = None if isinstance(value, str) else chat_of(value)
    value = messages_of(chat)[-1]["content"] if chat is not None else value
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{label} must be a text that is not empty, not {value!r}"[:200])
    return check_unicode(str(value))
