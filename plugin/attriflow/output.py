"""What `model.attribute` returns: a list of attributions that can be shown, aggregated, saved and joined."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from attriflow import io
from attriflow.errors import InputError
from attriflow.registry import aggregators
from attriflow.types import Attribution

if TYPE_CHECKING:
    import pandas as pd


class AttributionOutput(Sequence[Attribution]):
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
        """Attributions of both outputs."""
        if not isinstance(other, AttributionOutput):
            raise InputError(f"only another AttributionOutput can be added, not {type(other).__name__}")
        return AttributionOutput((*self, *other))

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
        shared = ("method", "options", "attributed_fn", "attributed_fn_args", "step_scores_args", "seed", "model")
        facts = {name: getattr(p[0], name) for name in (*shared, "revision", "versions", "dtype", "device")}
        totals = {
            k: sum(getattr(q, k) for q in p) for k in ("forward_rows", "forward_calls", "backward_rows", "seconds")
        }
        return {**facts, "examples": len(p), "forward_passes": totals["forward_rows"] / len(p), **totals}

    def aggregate(self, aggregator: str = "scores", **options: Any) -> AttributionOutput:
        """Apply a registered aggregator to every attribution; with "scores" and its defaults as Inseq does."""
        function = aggregators.build(aggregator, **options)
        return AttributionOutput(function(a) for a in self)

    def show(self, **options: Any) -> None:
        """Print every attribution as a table in the terminal."""
        from attriflow.views.console import show

        show(list(self), **options)

    def to_dataframe(self) -> pd.DataFrame:
        """Tidy table (see `attriflow.io.to_dataframe`)."""
        return io.to_dataframe(self)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write to one safetensors file; `attriflow.load` reads it back."""
        return io.save(self, path, overwrite=overwrite)


def load(path: str | Path) -> AttributionOutput:
    """Read attributions that were saved with `AttributionOutput.save`."""
    return AttributionOutput(io.load(path))
