"""Recall of the top tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attriflow.registry import metrics
from attriflow_metrics._plausibility import TopK, expected_hits
from attriflow_metrics._steps import Step


@metrics.register(
    "recall_at_k",
    family="plausibility",
    higher_is_better=True,
    range=(0.0, 1.0),
    needs=("rationale",),
    cost="no forward rows",
    source="Manning et al. 2008, section 8.4",
    from_data={"top_k": "rationale_size"},
)
@dataclass(frozen=True, kw_only=True)
class RecallAtK(TopK):
    r"""Share of the rationale that is among the `top_k` highest-scored tokens; higher is better.

    $$\frac{|r_k \cap g|}{|g|}$$

    over the annotated tokens that the step sees, with $r_k$ the $k$ highest-scored ones and $g$ the rationale. In
    [0, 1]; 1 needs a $k$ as large as the rationale. Source: Manning et al. 2008, "Introduction to Information
    Retrieval", section 8.4.

    Equal scores: the mean over all their orders. Skipped: "no rationale", "empty rationale" (no annotated token that
    the step sees), "scores are not finite".
    """

    def measure(self, step: Step, relevant: np.ndarray) -> float:
        """The value of a step."""
        return expected_hits(step.scores, relevant, self.top_k) / float(relevant.sum())
