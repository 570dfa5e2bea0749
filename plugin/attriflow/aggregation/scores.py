"""Reduce the extra axes of an attribution to one score per token."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attriflow.aggregation._apply import Function, check_function, reduce
from attriflow.errors import InputError, check_choice
from attriflow.registry import aggregators
from attriflow.types import Attribution

Selection = int | tuple[int, int] | Sequence[int]
"""One index, a range `(start, end)` as a tuple, or a list of indices; negative ones count from the end."""

_EPS = 1e-12
EXTRA_AXES = ("embedding", "head", "layer")


def l1_normalize(scores: Tensor) -> Tensor:
    """Divide every step by the sum of its absolute scores; inputs a step cannot see stay NaN."""
    total = scores.abs().nansum(1, keepdim=True)
    if not bool(total.isfinite().all()):
        step = int((~total.isfinite()).flatten(1).any(-1).long().argmax())
        raise InputError(f"scores of step {step} are infinite or too large to be normalised: use normalize=False")
    return scores / total.clamp(min=_EPS)


@aggregators.register("scores")
@dataclass(frozen=True)
class ScoresAggregator:
    """One score per token: reduce embedding, head and layer axes, last axis first, then normalise each step.

    The defaults are Inseq's: L2 norm over embeddings, mean over heads and then layers, and every step divided by its
    L1 norm after each reduction. Sequence scores are reduced by the same functions and never normalised; step scores
    stay as they are.

    Attributes:
        embedding, head, layer: Function for that axis: a name (see `list_aggregation_functions`) or a callable.
        aggregate_fn: Reduce the last extra axis only, by this function. What a name such as "mean" means in place of
            an aggregator, and the second part of `("scores", "mean")`.
        select_idx: Take only these entries of an axis before it is reduced: an index (nothing is left to reduce then),
            a range `(start, end)`, a list of indices; or axis -> one of these. Without axis names, of every axis.
        normalize: Divide each step by the sum of its absolute scores over source and target together. None: yes, unless
            `rescale` is set or the method gives one plain score per token (occlusion).
        rescale: Divide by the largest absolute score of the whole attribution instead.
        vnorm_ord: Order of "vnorm".
    """

    embedding: Function = "vnorm"
    head: Function = "mean"
    layer: Function = "mean"
    aggregate_fn: Function | None = None
    select_idx: Selection | Mapping[str, Selection] | None = None
    normalize: bool | None = None
    rescale: bool = False
    vnorm_ord: float = 2

    def __post_init__(self) -> None:
        """Check functions and axis names."""
        for function in (self.embedding, self.head, self.layer):
            check_function(function)
        if self.aggregate_fn is not None:
            check_function(self.aggregate_fn)
        if isinstance(self.select_idx, Mapping):
            for axis in self.select_idx:
                check_choice("axis of select_idx", axis, EXTRA_AXES)
        if self.normalize and self.rescale:
            raise InputError("only one of normalize and rescale can be set")

    def __call__(self, attribution: Attribution) -> Attribution:
        """The attribution with axes ("step", "input"), or one axis less; the one given is not changed."""
        a = attribution
        self._say_order(a)
        scores, axes, sequence = a.scores, list(a.axes), dict(a.sequence_scores)
        plain = len(axes) == 2 and a.norms is None
        normalize = (not plain if self.normalize is None else self.normalize) and not self.rescale
        if self.aggregate_fn is not None and plain:
            raise InputError(
                f"'{a.provenance.method}' gave one score per token: there is no axis that {self.aggregate_fn!r} could "
                "reduce (gradient methods keep the embedding axis with granular=True)"
            )
        if a.norms is not None:
            scores = self._reduced(a)
        if normalize and len(axes) == 2:
            scores = l1_normalize(scores)
        for axis in reversed(a.axes[2:] if self.aggregate_fn is None else a.axes[2:][-1:]):
            axes.pop()
            scores = self._reduce(axis, scores)
            sequence = {name: self._reduce(axis, values) for name, values in sequence.items()}
            if normalize:
                scores = l1_normalize(scores)
        if self.rescale:
            largest = scores.abs().nan_to_num(nan=0.0, posinf=torch.inf).amax()
            if not bool(largest.isfinite()):
                raise InputError("there are infinite scores, which cannot be rescaled: use rescale=False")
            scores = scores / largest.clamp(min=_EPS)
        visible = a.visible.view(*a.visible.shape, *([1] * (scores.ndim - 2)))
        scores = torch.where(visible, scores, torch.nan)
        return a.replace(scores=scores, axes=tuple(axes), norms=None, sequence_scores=sequence)

    def _say_order(self, a: Attribution) -> None:
        reduced = a.norms is not None or a.provenance.options.get("reduction") == "norm"
        if len(a.axes) == 2 and reduced and any(t.id < 0 and t.text for t in a.inputs):
            warnings.warn(
                "tokens were merged by their norms, as the embedding axis was reduced when scores were produced: for "
                "norms of merged vectors (Inseq's order) attribute with granular=True, for these put 'scores' first",
                stacklevel=6,
            )

    def _function(self, axis: str) -> Function:
        # a method from elsewhere may have an axis of its own
        return getattr(self, axis, "mean") if self.aggregate_fn is None else self.aggregate_fn

    def _reduced(self, attribution: Attribution) -> Tensor:
        """Scores whose embedding axis was reduced as they were produced, by the function that is asked for now."""
        function = self._function("embedding")
        selected = self._selection("embedding") is not None
        if attribution.norms is not None and function == "vnorm" and self.vnorm_ord == 2 and not selected:
            return attribution.norms
        if function == "sum" and not selected and attribution.provenance.options.get("reduction") != "norm":
            return attribution.scores
        what = "a part" if selected else f"{function!r}" + f" of order {self.vnorm_ord}" * (function == "vnorm")
        raise InputError(
            f"the embedding axis was reduced as scores were produced, so {what} of it is not known: attribute with "
            "granular=True"
        )

    def _selection(self, axis: str) -> Selection | None:
        return self.select_idx.get(axis) if isinstance(self.select_idx, Mapping) else self.select_idx

    def _reduce(self, axis: str, values: Tensor) -> Tensor:
        function, chosen = self._function(axis), self._selection(axis)
        if chosen is not None:
            index = indices(axis, chosen, values.shape[-1])
            if isinstance(index, int):
                return values[..., index]
            values = values[..., index]
        return reduce(function, values, **({"vnorm_ord": self.vnorm_ord} if function == "vnorm" else {}))


def indices(axis: str, chosen: Any, size: int) -> int | list[int]:
    """A selection as one index or a list of them.

    Raises:
        InputError: Not a selection, empty, repeated, or beyond the axis.
    """
    index: list[Any] = []
    if type(chosen) is int:
        index = [chosen]
    elif isinstance(chosen, list):
        index = chosen
    elif isinstance(chosen, tuple) and len(chosen) == 2 and all(type(i) is int for i in chosen):
        start, end = (i + size * (i < 0) for i in chosen)
        index = list(range(start, end)) if 0 <= start < end <= size else []
    if not index or not all(type(i) is int and -size <= i < size for i in index):
        raise InputError(
            f"select_idx must be an index, a list of indices or a range (start, end) of the {size} entries of axis "
            f"'{axis}', not {chosen!r}"
        )
    found = [i % size for i in index]
    if len(set(found)) < len(found):
        raise InputError(f"select_idx names an entry of axis '{axis}' twice: {chosen!r}")
    return found[0] if type(chosen) is int else found
