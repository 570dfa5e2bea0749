"""Mean reciprocal rank of the first evidence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attriflow.registry import metrics
from attriflow_metrics._plausibility import Plausibility, expected_reciprocal_rank
from attriflow_metrics._steps import Step


@metrics.register(
    "mrr",
    family="plausibility",
    higher_is_better=True,
    range=(0.0, 1.0),
    needs=("rationale",),
    cost="no forward rows",
    source="Voorhees 1999, TREC-8; Arras et al. 2025 (arXiv 2502.15886)",
)
@dataclass(frozen=True, kw_only=True)
class ReciprocalRank(Plausibility):
    r"""One over the rank of the highest-scored token of the rationale; higher is better.

    $$\frac{1}{\min_{i \in g} \mathrm{rank}(i)}$$

    over the annotated tokens that the step sees, with $g$ the rationale. In [0, 1]; its mean over steps is the mean
    reciprocal rank (MRR), by which Inseq's authors judge whether a known cue is found. Source: Voorhees 1999; for
    attributions of language models Arras et al. 2025 (arXiv 2502.15886).

    Equal scores: the mean over all their orders, so that constant scores get what chance gets. Skipped: "no rationale",
    "empty rationale" (no annotated token that the step sees), "scores are not finite".
    """

    def measure(self, step: Step, relevant: np.ndarray) -> float:
        """The value of a step."""
        return expected_reciprocal_rank(step.scores, relevant)
