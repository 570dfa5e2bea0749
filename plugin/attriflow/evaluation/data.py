"""The rows of an evaluation, checked: inputs, targets, rationales."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attriflow.errors import InputError
from attriflow.evaluation.config import EvaluationConfig
from attriflow.evaluation.rationale import Rationale, parse_rationale

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Foil:
    """What a row is compared with: another target, another source (or prompt), or both."""

    target: str | None = None
    source: str | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluationData:
    """Parallel rows. `targets` None: generate; a rationale or foil None: this row has none."""

    inputs: tuple[str, ...]
    targets: tuple[str, ...] | None = None
    rationales: tuple[Rationale | None, ...] | None = None
    foils: tuple[Foil | None, ...] | None = None

    def __post_init__(self) -> None:
        """Rows are parallel and there is at least one."""
        if not self.inputs:
            raise InputError("there are no rows to evaluate")
        for name in ("targets", "rationales", "foils"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.inputs):
                raise InputError(f"{len(values)} {name} for {len(self.inputs)} inputs")

    @property
    def digest(self) -> str:
        """Says whether two evaluations had the same inputs in the same order, so that examples can be paired."""
        return hashlib.sha256(json.dumps(self.inputs).encode()).hexdigest()[:16]

    @classmethod
    def from_frame(
        cls, frame: pd.DataFrame, config: EvaluationConfig, targets: Sequence[Any] | None = None
    ) -> EvaluationData:
        """Rows of a data frame whose columns a checked config names; `targets` are given apart."""
        n = len(frame) if config.max_examples is None else config.max_examples
        inputs = _texts("input", frame[config.inputs].tolist()[:n])
        rationales = None
        if config.rationale is not None:
            column = frame[config.rationale].tolist()[:n]
            rationales = tuple(
                parse_rationale(value, text, f"row {i}: rationale")
                for i, (value, text) in enumerate(zip(column, inputs, strict=True))
            )
        return cls(
            inputs=inputs,
            targets=None if targets is None else _texts("target", list(targets)[:n]),
            rationales=rationales,
            foils=_foils(frame.iloc[:n], config),
        )


def _foils(frame: pd.DataFrame, config: EvaluationConfig) -> tuple[Foil | None, ...] | None:
    if not config.contrasted:
        return None
    columns = {"target": config.contrast_target, "source": config.contrast_source}
    out: list[Foil | None] = []
    for i in range(len(frame)):
        given = {k: _optional(f"row {i}: '{c}'", frame[c].iloc[i]) for k, c in columns.items() if c is not None}
        found = {k: v for k, v in given.items() if v is not None}
        if not found and config.needs_foils:
            raise InputError(f"row {i} has no foil, and '{config.attributed_fn}' explains every row against one")
        out.append(Foil(**found) if found else None)
    return tuple(out)


def _optional(label: str, value: Any) -> str | None:
    """A text; None for an empty cell."""
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, str):
        raise InputError(f"{label} must be a text or empty, not {value!r}")
    return value


def text_columns(frame: pd.DataFrame) -> list[str]:
    """Columns whose values are all strings."""
    return [str(c) for c in frame.columns if len(frame) and all(isinstance(v, str) for v in frame[c])]


def _texts(label: str, values: Sequence[Any]) -> tuple[str, ...]:
    for i, value in enumerate(values):
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"row {i}: the {label} must be a text that is not empty, not {value!r}")
    return tuple(str(v) for v in values)
