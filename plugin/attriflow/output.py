"""What `model.attribute` returns: a list of attributions that can be shown, aggregated, saved and joined."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from attriflow import io
from attriflow.aggregation._apply import Function
from attriflow.aggregation._pipeline import Aggregator, build, run
from attriflow.doors import ShownAttributions
from attriflow.errors import InputError, NotFiniteError, NothingToExplainError
from attriflow.io.records import plain
from attriflow.types import Attribution, Example

if TYPE_CHECKING:
    import pandas as pd


class AttributionOutput(ShownAttributions, Sequence[Attribution]):
    """Attributions of one or several texts, in the order they were given."""

    def __init__(self, attributions: Iterable[Attribution]) -> None:
        """Hold attributions."""
        self.attributions = tuple(attributions)

    def __len__(self) -> int:
        """Number of attributions."""
        return len(self.attributions)

    @overload
    def __getitem__(self, index: int) -> Attribution: ...
    @overload
    def __getitem__(self, index: slice) -> AttributionOutput: ...
    def __getitem__(self, index: int | slice) -> Attribution | AttributionOutput:
        """One attribution, or several as a new output."""
        if isinstance(index, slice):
            return AttributionOutput(self.attributions[index])
        return self.attributions[index]

    def __iter__(self) -> Iterator[Attribution]:
        """Attributions in order."""
        return iter(self.attributions)

    def __add__(self, other: object) -> AttributionOutput:
        """Attributions of both outputs, whatever their settings (`merge` checks these)."""
        return AttributionOutput((*self, *_checked(other)))

    def __radd__(self, other: object) -> AttributionOutput:
        """So that `sum(outputs)` joins them."""
        return self if other == 0 else AttributionOutput((*_checked(other), *self))

    def __sub__(self, other: object) -> AttributionOutput:
        """Differences one to one (see the aggregator "pair")."""
        others = _checked(other)
        if len(self) != len(others):
            raise InputError(f"outputs are compared one to one: {len(self)} and {len(others)} attributions")
        return AttributionOutput(a - b for a, b in zip(self, others, strict=True))

    def __eq__(self, other: object) -> bool:
        """Whether the attributions are equal (see `Attribution`)."""
        return self.attributions == other.attributions if isinstance(other, AttributionOutput) else NotImplemented

    def __hash__(self) -> int:
        """Of the attributions."""
        return hash(self.attributions)

    def __repr__(self) -> str:
        """Method, number of examples, shapes."""
        shapes = ", ".join(str(tuple(a.scores.shape)) for a in self.attributions[:4])
        return f"AttributionOutput(method={self.info['method']!r}, n={len(self)}, scores={shapes})"

    @property
    def info(self) -> dict[str, Any]:
        """How the attributions were made, and what that cost.

        `forward_passes` is the number of teacher-forced sequences run per example; `forward_rows`, `forward_calls`,
        `backward_rows` and `seconds` are totals.
        """
        p = [a.provenance for a in self]
        if not p:
            return {"method": None, "examples": 0}
        shared = (
            "method", "options", "baseline_tokens", "include_eos_baseline", "attributed_fn", "attributed_fn_args",
            "contrast_force_inputs", "span_value", "aggregations", "step_scores_args", "seed", "model", "revision",
            "versions", "dtype", "device",
        )  # fmt: skip
        facts = {name: getattr(p[0], name) for name in shared}
        totals = {
            k: sum(getattr(q, k) for q in p) for k in ("forward_rows", "forward_calls", "backward_rows", "seconds")
        }
        return {**facts, "examples": len(p), "forward_passes": totals["forward_rows"] / len(p), **totals}

    def merge(self, *others: AttributionOutput) -> AttributionOutput:
        """This output and others as one (see `merge_attributions`)."""
        return merge_attributions([self, *others])

    def aggregate(
        self,
        aggregator: Aggregator = "scores",
        aggregate_fn: Function | Sequence[Function | None] | None = None,
        **options: Any,
    ) -> AttributionOutput:
        """Reduce axes, merge tokens, compare: new attributions; those held here are not changed.

        Args:
            aggregator: A name (see `list_aggregators`; by default "scores", which does as Inseq does), the name of an
                aggregation function (see `list_aggregation_functions`), which reduces the last extra axis, a callable
                `Attribution -> Attribution`, or a list of these, applied in their order. In a list, a pair adds a
                function or options: `[("scores", "mean"), ("subwords", {"aggregate_target": False})]`.
            aggregate_fn: The aggregator's function: a name or a callable; for a list of aggregators a list.
            **options: Options of the aggregators; each goes to all of them that take it.

        Raises:
            AttriflowError: A wrong name, option or value, before anything is computed.
        """
        steps = build(aggregator, aggregate_fn, options)
        return AttributionOutput(run(steps, a) for a in self)

    def weight_attributions(self, step_fn: str) -> AttributionOutput:
        """One score per token (as `aggregate()` gives it), times the value of a step score at each step."""
        return AttributionOutput(a.weight_attributions(step_fn) for a in self)

    def get_scores_dicts(
        self, aggregator: Aggregator = "scores", do_aggregation: bool = True, **options: Any
    ) -> list[dict[str, dict[tuple[int, str], dict[Any, float]]]]:
        """All scores as nested dictionaries, one per attribution, in Inseq's structure.

        Keys are "source_attributions", "target_attributions" (both NaN where a step does not see a token) and
        "step_scores"; then the generated token as (position, text); then the attributed token as (position, text), or
        the name of the step score. `pandas.DataFrame(d["source_attributions"])` is a table of one kind.

        Args:
            aggregator: What makes one score per token of several (see `aggregate`).
            do_aggregation: False: scores as they are.
            **options: Of the aggregator.
        """
        return [a.get_scores_dicts(aggregator, do_aggregation, **options) for a in self]

    def to_dataframe(self) -> pd.DataFrame:
        """Tidy table (see `attriflow.io.to_dataframe`)."""
        return io.to_dataframe(self)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write one file, in the format that its suffix says.

        Args:
            path: .safetensors (also without suffix), .json, .jsonl or .parquet, which `attriflow.load` reads back, or
                .html for a page.
            overwrite: Replace an existing file; otherwise that is an error.
        """
        if io.suffix_of(path, ".html") != ".html":
            return io.save(self, path, overwrite=overwrite)
        self.to_html(path, overwrite=overwrite)
        return Path(path)


def merge_attributions(attributions: Sequence[Any]) -> AttributionOutput:
    """Several outputs as one.

    Args:
        attributions: `AttributionOutput`s made with the same settings.

    Raises:
        InputError: Something else, or outputs that differ in what changes scores: model, its revision or type, method,
            options, baseline, attributed function, step scores, seed, axes, in whether the target gets credit, or in
            whether it was generated.
    """
    merged = [a for output in attributions for a in _checked(output)]
    for a in merged[1:]:
        first = _settings(merged[0])
        for what, other in _settings(a).items():
            one = first[what]
            unknown_baseline = what == "baseline_ids" and not (one and other)  # as in files of earlier versions
            if one != other and not unknown_baseline:
                raise InputError(f"outputs with different settings cannot be merged: {what} is {one!r} and {other!r}")
    return AttributionOutput(merged)


def _checked(other: object) -> AttributionOutput:
    if not isinstance(other, AttributionOutput):
        raise InputError(f"expected an AttributionOutput, not {type(other).__name__}")
    return other


_SETTINGS = (
    "model", "revision", "dtype", "method", "options", "include_eos_baseline", "baseline_ids", "attributed_fn",
    "attributed_fn_args", "contrast_force_inputs", "span_value", "aggregations", "step_scores_args", "seed",
    "generated",
)  # fmt: skip
"""What changes scores, of the provenance."""


def _settings(a: Attribution) -> dict[str, Any]:
    """What must agree of two attributions; of options what a saved file would keep of them."""
    credited = any(t.segment != "source" for t in a.inputs)  # files of earlier versions do not say it
    own = {"step_scores": sorted(a.step_scores), "axes": a.axes, "attribute_target": credited}
    return {**{name: plain(getattr(a.provenance, name)) for name in _SETTINGS}, **own}


def load(path: str | Path) -> AttributionOutput:
    """Read attributions that were saved with `AttributionOutput.save` or by `attribute-dataset`."""
    return AttributionOutput(io.load(path))


def explained(
    examples: Sequence[Example], found: Sequence[Attribution | NotFiniteError | None], *, all_of_them: bool = False
) -> list[Attribution]:
    """What came of the examples of a call as attributions: without steps, and with a warning, where nothing came.

    Args:
        examples: The examples.
        found: Their attributions; errors; None where there is no step.
        all_of_them: No error is forgiven.

    Raises:
        NotFiniteError, NothingToExplainError: None of them could be explained.
    """
    like = next((a for a in found if isinstance(a, Attribution)), None)
    errors = [named(i, len(found), e) for i, e in enumerate(found) if isinstance(e, NotFiniteError)]
    if errors and (all_of_them or like is None):
        raise errors[0]
    if like is None:
        raise NothingToExplainError("no example has a step to explain")
    if errors:
        lines = "; ".join(map(str, errors))
        message = f"no steps for {len(errors)} of {len(found)} texts, the others are explained: {lines}"
        warnings.warn(message, stacklevel=4)
    return [a if isinstance(a, Attribution) else _without_steps(e, like) for e, a in zip(examples, found, strict=True)]


def named(i: int, n: int, error: NotFiniteError) -> NotFiniteError:
    """An error about one of several texts, with its index."""
    return NotFiniteError(f"text {i}: {error}") if n > 1 else error


def _without_steps(example: Example, like: Attribution) -> Attribution:
    """The attribution of an example without steps, of the form and method of another one of its call."""
    inputs = example.inputs(any(t.segment == "generated" for t in like.inputs) and bool(example.source))
    empty = like.scores.new_zeros((0, len(inputs), *like.scores.shape[2:]))
    cost: dict[str, Any] = {"forward_rows": 0.0, "forward_calls": 0.0, "backward_rows": 0.0, "seconds": 0.0}
    return Attribution(
        scores=empty,
        axes=like.axes,
        inputs=inputs,
        targets=(),
        start=example.start,
        norms=None if like.norms is None else empty[..., 0] if empty.ndim > 2 else empty,
        step_scores={name: values[:0] for name, values in like.step_scores.items()},
        provenance=dataclasses.replace(like.provenance, foil=(), foil_input="", foil_text="", **cost),
        input_text=example.input_text,
        target_text=example.target_text,
        segments=example.segments,
        turns=example.turns,
        spans=None if like.spans is None else (),
    )
