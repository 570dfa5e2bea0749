"""Pearson correlation with exact leave-one-out effects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from attriflow.registry import metrics
from attriflow_metrics._changes import ROUNDING, Answers, Ask, Measured, Removal
from attriflow_metrics._reference import pearson
from attriflow_metrics._steps import Step


@metrics.register(
    "loo_agreement",
    family="sanity",
    higher_is_better=True,
    range=(-1.0, 1.0),
    cost="removable inputs + 1 forward rows per step, the same for every method and shared with taucorr_loo",
    source="Jain and Wallace 2019 (arXiv 1902.10186); Li et al. 2016 (1612.08220)",
    shared=True,
)
@dataclass(frozen=True, kw_only=True)
class LeaveOneOutAgreement(Removal):
    r"""Pearson correlation of the signed scores with exact leave-one-out effects; higher is better.

    $$\rho\big((s_i)_i, (p(y \mid x) - p(y \mid x \setminus x_i))_i\big)$$

    over the removable tokens $x_i$ that the step sees. In [-1, 1]. `taucorr_loo` compares the orders, this the sizes:
    where one token decides, many orders of the others are as good, and only sizes tell. Source: the effects of Li et
    al. 2016, "Understanding Neural Networks through Representation Erasure".

    Skipped: "constant scores", "a single input has no order", "constant leave-one-out effects", "no input to remove",
    "scores are not finite", "the model's score is NaN". Left out as well: "leave-one-out effects within rounding",
    where all effects together spread over less than a thousandth of the largest probability: float32 errs by about 1e-6
    of it, which would move the correlation by more than 0.001.
    """

    def asked(self, step: Step) -> Iterator[Ask]:
        """The unchanged input, and all inputs but one for each."""
        yield self.whole(step)
        yield from self.without_one(step)

    def undefined(self, step: Step) -> str | None:
        """What has no order."""
        return "a single input has no order" if len(step.inputs) == 1 else None

    def measure(self, step: Step, answers: Answers) -> Measured:
        """Correlation with the drops of the probability."""
        left = np.array([answers.probability(ask) for ask in self.without_one(step)])
        whole = answers.probability(self.whole(step))
        found = pearson(step.scores, whole - left, "leave-one-out effects")
        if found.value is not None and np.ptp(left) < ROUNDING * max(whole, left.max()):
            return Measured(None, "leave-one-out effects within rounding")
        return found
