"""The efficient randomisation test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attriflow.registry import metrics
from attriflow_metrics._changes import Measured
from attriflow_metrics._reexplained import Reexplained
from attriflow_metrics._steps import Step


@metrics.register(
    "efficient_mprt",
    family="sanity",
    higher_is_better=True,
    range=(-1.0, 1.0),
    cost="1 explanation, shared with parameter_randomisation",
    source="Hedstroem et al. 2024, eMPRT (arXiv 2401.06465)",
)
@dataclass(frozen=True, kw_only=True)
class EfficientRandomisation(Reexplained):
    r"""How much more complex the explanation gets when all parameters are random; higher is better.

    $$\frac{H(s(\hat f)) - H(s(f))}{\ln n}, \quad H(s) = -\sum_i q_i \ln q_i, \quad q_i = \frac{|s_i|}{\sum_j |s_j|}$$

    over the $n$ tokens that the step sees, with $\hat f$ the model whose parameters are all random. In [-1, 1];
    positive when what the model has learned makes its explanations sharper. Source: the efficient model parameter
    randomisation test of Hedstroem et al. 2024, "A Fresh Look at Sanity Checks for Saliency Maps", with the entropy of
    the shares as complexity (Bhatt et al. 2020), as a histogram of so few values says little, and relative to the
    largest entropy there is, as that of a one-hot explanation is 0. It needs one explanation instead of a cascade and
    no similarity.

    Edge cases: scores of 0 everywhere have the largest entropy. Skipped: "a single input has no order", "no input to
    compare", "scores are not finite".
    """

    def changes(self) -> Sequence[Mapping[str, Any]]:
        """The model with nothing but random parameters."""
        return [{"randomise": 1.0, "draw": 0}]

    def measure(self, step: Step, others: np.ndarray) -> Measured:
        """Relative rise of the entropy."""
        if len(step.inputs) == 1:
            return Measured(None, "a single input has no order")
        return Measured((entropy(others[0]) - entropy(step.scores)) / float(np.log(len(step.inputs))))


def entropy(scores: np.ndarray) -> float:
    """Shannon entropy (nats) of the shares of the magnitudes."""
    magnitudes = np.abs(scores)
    total = magnitudes.sum()
    shares = magnitudes / total if total else np.full(len(scores), 1 / len(scores))
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())
