"""Relevance mass accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attriflow.registry import metrics
from attriflow_metrics._plausibility import Plausibility
from attriflow_metrics._steps import Step


@metrics.register(
    "relevance_mass",
    family="plausibility",
    higher_is_better=True,
    range=(0.0, 1.0),
    needs=("rationale",),
    cost="no forward rows",
    source="Arras et al. 2022, CLEVR-XAI (arXiv 2003.07258)",
)
@dataclass(frozen=True, kw_only=True)
class RelevanceMass(Plausibility):
    r"""Share of the positive score that lies on the rationale; higher is better.

    $$\frac{\sum_{i \in g} \max(0, s_i)}{\sum_i \max(0, s_i)}$$

    over the annotated tokens that the step sees, with $g$ the rationale. In [0, 1]. Magnitudes count: a method that
    ranks well but spreads its scores thinly scores low. Source: relevance mass accuracy of Arras et al. 2022,
    "CLEVR-XAI" (arXiv 2003.07258).

    Edge cases: no positive score: 0. Constant positive scores: the rationale's share of the tokens. Skipped: "no
    rationale", "empty rationale" (no annotated token that the step sees), "scores are not finite".
    """

    def measure(self, step: Step, relevant: np.ndarray) -> float:
        """The value of a step."""
        positive = np.maximum(step.scores, 0.0)
        total = float(positive.sum())
        return float(positive[relevant > 0].sum()) / total if total else 0.0
