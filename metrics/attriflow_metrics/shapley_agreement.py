"""Pearson correlation with exact Shapley values."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from attriflow.errors import InputError
from attriflow.registry import metrics
from attriflow_metrics._changes import Answers, Ask, Measured, Removal
from attriflow_metrics._reference import pearson
from attriflow_metrics._steps import Step

MOST = 16


@metrics.register(
    "shapley_agreement",
    family="sanity",
    higher_is_better=True,
    range=(-1.0, 1.0),
    cost="2^inputs forward rows per step of up to max_inputs inputs, the same for every method",
    source="Shapley 1953; Lundberg and Lee 2017 (arXiv 1705.07874)",
    shared=True,
)
@dataclass(frozen=True, kw_only=True)
class ShapleyAgreement(Removal):
    r"""Pearson correlation of the signed scores with exact Shapley values, on short inputs; higher is better.

    $$\phi_i = \sum_{S \subseteq N \setminus i} \frac{|S|!\,(n - |S| - 1)!}{n!}
    \big(p(y \mid S \cup i) - p(y \mid S)\big)$$

    over all subsets of the $n$ removable tokens that the step sees, without sampling. In [-1, 1]. Where several tokens
    carry the same evidence, leaving one out changes nothing, while Shapley values share the credit: disagreement with
    `loo_agreement` tells of such redundancy. Source: Shapley 1953, for models Lundberg and Lee 2017.

    Skipped: "more than ... inputs", "constant scores", "a single input has no order", "constant Shapley values", "no
    input to remove", "scores are not finite", "the model's score is NaN".

    Attributes:
        max_inputs: Steps that see more removable inputs are skipped.
    """

    max_inputs: int = 8

    def __post_init__(self) -> None:
        """Check the options."""
        if not 1 <= self.max_inputs <= MOST:
            raise InputError(f"max_inputs must be a whole number from 1 to {MOST}, not {self.max_inputs!r}")

    def undefined(self, step: Step) -> str | None:
        """What is too long, or has no order."""
        n = len(step.inputs)
        if n > self.max_inputs:
            return f"more than {self.max_inputs} inputs"
        return "a single input has no order" if n == 1 else None

    def asked(self, step: Step) -> Iterator[Ask]:
        """Every subset, by the bits of its number."""
        for subset in range(2 ** len(step.inputs)):
            kept = tuple(i for place, i in enumerate(step.inputs) if subset >> place & 1)
            yield Ask(kept, how=self.how)

    def measure(self, step: Step, answers: Answers) -> Measured:
        """Correlation with the exact values."""
        values = np.array([answers.probability(ask) for ask in self.asked(step)])
        return pearson(step.scores, exact(values), "Shapley values")


def exact(values: np.ndarray) -> np.ndarray:
    """Shapley values `[player]` of a game given as `[subset]`, subsets numbered by their bits."""
    weights = _weights(int(math.log2(len(values))))
    return np.asarray(weights @ values)


@functools.cache
def _weights(n: int) -> np.ndarray:
    """What the value of each subset contributes to each player, `[player, subset]`."""
    members = (np.arange(2**n)[None] >> np.arange(n)[:, None] & 1).astype(bool)
    size = members.sum(0)
    factor = np.array([math.factorial(s) * math.factorial(n - s - 1) / math.factorial(n) for s in range(n)])
    return np.where(members, factor[size - 1], -factor[np.minimum(size, n - 1)])
