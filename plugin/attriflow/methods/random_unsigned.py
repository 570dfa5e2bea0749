"""Random scores without a sign: the control of methods that have none."""

from __future__ import annotations

from dataclasses import dataclass

from attriflow.engine import Engine, Scores
from attriflow.methods.random import uniform
from attriflow.registry import methods


@methods.register(
    "random_unsigned",
    family="control",
    blind="Looks neither at the model nor at the words.",
    cost="nothing",
    signed=False,
    runs_model=False,
)
@dataclass(frozen=True)
class RandomUnsigned:
    """Uniform scores in [0, 1): those of `random`, moved above 0.

    Metrics that remove positive scores only may remove any token, as with attention or saliency, and remove more of
    them than with scores that have a sign.
    """

    def __call__(self, engine: Engine) -> Scores:
        """Scores of a batch."""
        return Scores(uniform(engine))
