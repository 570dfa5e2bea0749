"""The pointing game."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attriflow.registry import metrics
from attriflow_metrics._plausibility import Plausibility, expected_hits
from attriflow_metrics._steps import Step


@metrics.register(
    "pointing_game",
    family="plausibility",
    higher_is_better=True,
    range=(0.0, 1.0),
    needs=("rationale",),
    cost="no forward rows",
    source="Zhang et al. 2018 (arXiv 1608.00507); Poerner et al. 2018 (1801.06422)",
)
@dataclass(frozen=True, kw_only=True)
class PointingGame(Plausibility):
    r"""Whether the highest-scored token belongs to the rationale; higher is better.

    $$[\arg\max_i s_i \in g]$$

    over the annotated tokens that the step sees. 0 or 1; the share of steps that hit is the accuracy. Source: Zhang et
    al. 2018, "Top-down Neural Attention by Excitation Backprop"; for sequences Poerner et al. 2018 (arXiv 1801.06422).

    Equal scores: the mean over all their orders. Skipped: "no rationale", "empty rationale" (no annotated token that
    the step sees), "scores are not finite".
    """

    def measure(self, step: Step, relevant: np.ndarray) -> float:
        """The value of a step."""
        return expected_hits(step.scores, relevant, 1)
