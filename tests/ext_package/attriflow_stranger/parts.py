"""A method, a step function and a metric."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from attriflow.engine import Scores
from attriflow.registry import methods, metrics, step_functions


@methods.register("first_token", family="control", cost="nothing", deterministic=True, signed=False, paper="-")
@dataclass(frozen=True)
class FirstToken:
    """All credit to the first token."""

    def __call__(self, engine):
        blocks = {}
        for block in engine.blocks:
            scores = torch.zeros(engine.batch.size, engine.batch.n_steps, engine.ids(block).shape[1])
            scores[..., 0] = 1
            blocks[block] = scores
        return Scores(blocks)


@step_functions.register("double_logit", unit="logit", span="mean")
def double_logit(forward):
    """Twice the logit."""
    return 2 * forward.of_target(forward.logits)


@metrics.register("mean_score", family="sanity", higher_is_better=True, range=(0.0, 1.0), needs=())
@dataclass(frozen=True)
class MeanScore:
    """Mean score of the first step."""

    def __call__(self, attribution, rescore, rationale=None):
        return float(attribution.scores[0].nanmean())
