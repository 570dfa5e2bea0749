"""The position alone: the control for explanations that only say how near a token is."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from attriflow.engine import Engine, Scores
from attriflow.registry import methods


@methods.register(
    "position",
    family="control",
    blind="Looks neither at the model nor at the words.",
    cost="nothing",
    deterministic=True,
    signed=False,
    runs_model=False,
)
@dataclass(frozen=True)
class Position:
    """The later a token, the higher its score: one over its distance from the token that is explained.

    Reads neither the model nor the text. Source tokens count from the end of the source, tokens of the prompt and the
    target prefix from the explained one; the nearest has 1.
    """

    def __call__(self, engine: Engine) -> Scores:
        """Scores of a batch."""
        blocks = {}
        for block in engine.blocks:
            seen = engine.visible(block)  # [batch, step, position]
            after = seen.flip(-1).cumsum(-1).flip(-1)  # 1 for the last one that the step sees
            blocks[block] = torch.where(seen, 1.0 / after.clamp(min=1).to(engine.dtype), 0.0)
        return Scores(blocks)
