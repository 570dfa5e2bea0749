"""Relevance rank accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attriflow.registry import metrics
from attriflow_metrics._plausibility import Plausibility, expected_hits
from attriflow_metrics._steps import Step


@metrics.register(
    "relevance_rank",
    family="plausibility",
    higher_is_better=True,
    range=(0.0, 1.0),
    needs=("rationale",),
    cost="no forward rows",
    source="Arras et al. 2022, CLEVR-XAI (arXiv 2003.07258)",
)
@dataclass(frozen=True, kw_only=True)
class RelevanceRank(Plausibility):
    r"""Share of the rationale among as many of the highest-scored tokens; higher is better.

    $$\frac{|r_{|g|} \cap g|}{|g|}$$

    over the annotated tokens that the step sees, with $g$ the rationale and $r_{|g|}$ as many of the highest-scored
    tokens. In [0, 1]; needs no choice of k, as precision and recall are equal there (R-precision). Source: relevance
    rank accuracy of Arras et al. 2022, "CLEVR-XAI" (arXiv 2003.07258).

    Equal scores: the mean over all their orders. Skipped: "no rationale", "empty rationale" (no annotated token that
    the step sees), "scores are not finite".
    """

    def measure(self, step: Step, relevant: np.ndarray) -> float:
        """The value of a step."""
        size = int(relevant.sum())
        return expected_hits(step.scores, relevant, size) / size
