"""Precision of the top tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attriflow.registry import metrics
from attriflow_metrics._plausibility import TopK, expected_hits
from attriflow_metrics._steps import Step


@metrics.register(
    "precision_at_k",
    family="plausibility",
    higher_is_better=True,
    range=(0.0, 1.0),
    needs=("rationale",),
    cost="no forward rows",
    source="Manning et al. 2008, section 8.4",
    from_data={"top_k": "rationale_size"},
)
@dataclass(frozen=True, kw_only=True)
class PrecisionAtK(TopK):
    r"""Share of the `top_k` highest-scored tokens that belong to the rationale; higher is better.

    $$\frac{|r_k \cap g|}{k}$$

    over the annotated tokens that the step sees, with $r_k$ the $k$ highest-scored ones (all where there are fewer) and
    $g$ the rationale. In [0, 1]; 1 needs as much evidence as $k$. Source: Manning et al. 2008, "Introduction to
    Information Retrieval", section 8.4. Unlike `token_f1_plau`, tokens with scores of 0 and below count, too.

    Equal scores: the mean over all their orders. Skipped: "no rationale", "empty rationale" (no annotated token that
    the step sees), "scores are not finite".
    """

    def measure(self, step: Step, relevant: np.ndarray) -> float:
        """The value of a step."""
        k = min(self.top_k, len(step.scores))
        return expected_hits(step.scores, relevant, k) / k
