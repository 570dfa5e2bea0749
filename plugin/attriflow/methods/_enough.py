"""How many points are enough: a path's points are doubled until its scores add up."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from attriflow.engine import Engine, Scores

Points = int | Literal["auto"]
"""Points on a path, or as many as its scores need to add up."""
FEWEST, MOST = 20, 640
RESIDUAL = 0.05
LEAST = 1e-3
"""Differences below this are not worth more points: rounding would be counted."""


def enough(engine: Engine, explain: Callable[[int], tuple[Scores, Tensor]], difference: Tensor, deltas: bool) -> Scores:
    """Scores of every step from the first number of points at which they add up.

    A step's residual is what its scores lack of the difference to the baseline, relative to the difference (or to
    `LEAST`). Each step stays with the first number of points at which it is below `RESIDUAL`, whatever the others of
    its batch need; the step scores "n_steps" and "residual" say what that was.

    Args:
        engine: The batch.
        explain: Number of points -> scores, and their sums with the factor x - x', `[batch, step]`.
        difference: What the sums would be without an error of the quadrature, `[batch, step]`.
        deltas: Whether the step score `deltas` is wanted.
    """
    kept, n = None, FEWEST
    pending = engine.batch.step_mask.clone()
    while True:
        scores, total = explain(n)
        error = total - difference
        residual = error.abs() / difference.abs().clamp(min=LEAST)
        found = {"n_steps": torch.full_like(residual, n), "residual": residual, **({"deltas": error} if deltas else {})}
        scores = replace(scores, step_scores=found)
        kept = scores if kept is None else _where(pending, scores, kept)
        pending &= residual >= RESIDUAL  # what is not a number is not pending either
        if not pending.any():
            return kept
        if n >= MOST:
            warnings.warn(
                f"with {MOST} points, the scores of {int(pending.sum())} of {int(engine.batch.step_mask.sum())} steps "
                f"still miss their sum by {RESIDUAL:.0%} or more; the step score 'residual' says how much",
                stacklevel=2,
            )
            return kept
        n *= 2


def _where(steps: Tensor, new: Scores, old: Scores) -> Scores:
    """The new scores at some steps `[batch, step]`, the old ones at the others."""

    def chosen(name: str) -> dict[str, Tensor]:
        before, after = getattr(old, name), getattr(new, name)
        return {
            key: torch.where(steps.view(*steps.shape, *(1,) * (value.ndim - 2)), after[key], value)
            for key, value in (before or {}).items()
        }

    norms = None if new.norms is None else chosen("norms")
    return replace(new, blocks=chosen("blocks"), norms=norms, step_scores=chosen("step_scores"))
