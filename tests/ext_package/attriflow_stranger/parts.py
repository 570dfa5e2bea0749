"""A method, a step function and three metrics, written against public names alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch

import attriflow
from attriflow.engine import Engine, Scores
from attriflow.types import Attribution, Forward, Rescore


@attriflow.register_method(identifier="first_token", cost="1 forward", deterministic=True)
@dataclass(frozen=True)
class FirstToken:
    """All credit to the first token.

    Attributes:
        credit: How much that is.
    """

    credit: float = 1.0

    def __call__(self, engine: Engine) -> Scores:
        """Scores of a batch."""
        blocks = {}
        for block in engine.blocks:
            scores = torch.zeros(engine.batch.size, engine.batch.n_steps, engine.ids(block).shape[1])
            scores[..., 0] = self.credit
            blocks[block] = scores
        return Scores(blocks)


@attriflow.register_step_function(unit="logit", span="mean")
def double_logit(forward: Forward) -> torch.Tensor:
    """Twice the logit."""
    return 2 * forward.of_target(forward.logits)


@attriflow.register_metric(higher_is_better=True)
def first_token_drop(attribution: Attribution, rescore: Rescore) -> list[float]:
    """Log-probability (nats) that goes with the first removable token, for every step."""
    keep = torch.ones(2, len(attribution.inputs), dtype=torch.bool)
    keep[1, 0] = False
    whole, without = rescore(keep)
    return (whole - without).tolist()


@attriflow.register_metric(identifier="mean_score", higher_is_better=True, family="sanity", range=(0.0, 1.0))
@dataclass(frozen=True)
class MeanScore:
    """Mean score of the first step."""

    def __call__(self, attribution: Attribution) -> float:
        """The value of an explanation."""
        return float(attribution.scores[0].nanmean())


def n_inputs(attribution: Attribution) -> int:
    """Number of inputs: found through its entry point alone."""
    return len(attribution.inputs)
