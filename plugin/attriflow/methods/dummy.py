"""No attribution at all: step scores only."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from attriflow.engine import Engine, Scores
from attriflow.registry import methods


@methods.register(
    "dummy",
    family="control",
    blind="Everything: all scores are 0.",
    cost="nothing",
    deterministic=True,
    signed=False,
    explains=False,
    runs_model=False,
)
@dataclass(frozen=True)
class Dummy:
    """Zero scores for every token: for calls that only want step scores.

    The explained function is not evaluated; step scores cost their one forward pass.
    """

    def __call__(self, engine: Engine) -> Scores:
        """Scores of a batch."""
        shape = (engine.batch.size, engine.batch.n_steps)
        return Scores({b: torch.zeros((*shape, engine.ids(b).shape[1]), dtype=engine.dtype) for b in engine.blocks})
