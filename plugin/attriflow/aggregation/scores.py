"""Reduce the extra axes of an attribution to one score per token."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attriflow.errors import check_choice
from attriflow.registry import aggregators
from attriflow.types import Attribution

FUNCTIONS = ("mean", "max", "min", "sum", "prod", "absmax", "vnorm")


def reduce(scores: Tensor, function: str) -> Tensor:
    """Reduce the last axis. "absmax" keeps the sign of the largest magnitude; "vnorm" is the L2 norm."""
    if function == "vnorm":
        return scores.norm(dim=-1)
    if function == "absmax":
        return scores.gather(-1, scores.abs().nan_to_num(-1).argmax(-1, keepdim=True)).squeeze(-1)
    if function in ("max", "min"):
        return scores.amax(-1) if function == "max" else scores.amin(-1)
    out: Tensor = getattr(scores, function)(-1)
    return out


def l1_normalize(scores: Tensor) -> Tensor:
    """Divide every step by the sum of its absolute scores; inputs a step cannot see stay NaN."""
    total = scores.abs().nansum(1, keepdim=True)
    return scores / total.clamp(min=1e-12)


@aggregators.register("scores")
@dataclass(frozen=True)
class ScoresAggregator:
    """One score per token: reduce embedding, head and layer axes, then normalise each step.

    The defaults are Inseq's: L2 norm over embeddings, mean over heads and then layers, and every step divided by its
    L1 norm after each reduction.

    Attributes:
        embedding, head, layer: Function for that axis: mean, max, min, sum, prod, absmax or vnorm.
        normalize: Divide each step by the sum of its absolute scores. None: yes, unless the method gives one plain
            score per token (occlusion).
        rescale: Divide by the largest absolute score of the whole attribution instead.
    """

    embedding: str = "vnorm"
    head: str = "mean"
    layer: str = "mean"
    normalize: bool | None = None
    rescale: bool = False

    def __post_init__(self) -> None:
        """Check the function names."""
        for function in (self.embedding, self.head, self.layer):
            check_choice("aggregation function", function, FUNCTIONS)

    def __call__(self, attribution: Attribution) -> Attribution:
        """The attribution with axes ("step", "input"); the one given is not changed."""
        scores, axes = attribution.scores, list(attribution.axes)
        plain = len(axes) == 2 and attribution.norms is None
        normalize = (not plain if self.normalize is None else self.normalize) and not self.rescale
        if attribution.norms is not None and self.embedding == "vnorm":
            scores = attribution.norms
        if normalize and len(axes) == 2:
            scores = l1_normalize(scores)
        while len(axes) > 2:
            axis = axes.pop()
            scores = reduce(scores, getattr(self, axis))
            if normalize:
                scores = l1_normalize(scores)
        if self.rescale:
            scores = scores / scores.abs().nan_to_num().amax().clamp(min=1e-12)
        scores = torch.where(attribution.visible, scores, torch.nan)
        return attribution.replace(scores=scores, axes=("step", "input"), norms=None)
