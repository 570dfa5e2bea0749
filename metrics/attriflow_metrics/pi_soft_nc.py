"""Soft normalised comprehensiveness at equal mass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attriflow.registry import metrics
from attriflow_metrics._pi_soft import EqualMass
from attriflow_metrics._soft import SoftComprehensiveness
from attriflow_metrics._steps import Step


@metrics.register(
    "pi_soft_nc",
    family="faithfulness",
    higher_is_better=True,
    range=(0.0, None),
    cost="shares x draws + 2 forward rows per step",
    source="Huang and Chan 2026 (arXiv 2601.03089); Zhao and Aletras 2023 (2305.10496)",
)
@dataclass(frozen=True, kw_only=True)
class PiSoftNC(EqualMass, SoftComprehensiveness):
    r"""`soft_nc` with the same expected share of the input kept by every method; higher is better.

    $$\frac{1}{|\Pi|} \sum_{\pi \in \Pi} \frac{\max(0, p(y \mid x) - p(y \mid x'_\pi))}{p(y \mid x) - p(y \mid 0)}$$

    where element $j$ of token $i$ goes with a chance in proportion to the scaled score, cut at 1, such that the mean
    chance to stay is $\pi$. Source: the pi variants of Huang and Chan 2026, "Faithfulness Evaluation for Decoder-only
    LLM Attributions with Controlled Retained Information", which compare methods at the same expected retained mass;
    scaling and cutting is how this implementation reaches it. Constant scores thin all tokens alike.

    Skipped: as for `soft_nc`, but for constant scores.
    """

    def chances(self, step: Step) -> list[np.ndarray]:
        """The more important, the less stays."""
        return self.removing(step)
