"""Soft normalised comprehensiveness."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attriflow.registry import metrics
from attriflow_metrics._soft import SoftComprehensiveness, unit
from attriflow_metrics._steps import Step


@metrics.register(
    "soft_nc",
    family="faithfulness",
    higher_is_better=True,
    range=(0.0, None),
    cost="draws + 2 forward rows per step",
    source="Zhao and Aletras 2023 (arXiv 2305.10496), equations 5 and 6",
)
@dataclass(frozen=True, kw_only=True)
class SoftNC(SoftComprehensiveness):
    r"""What the target loses when embeddings are thinned in proportion to the scores; higher is better.

    $$\frac{\max(0, p(y \mid x) - p(y \mid x'))}{p(y \mid x) - p(y \mid 0)}$$

    with $x'$ the input each of whose embedding elements stays with chance $1 - a_i$, $a$ the scores scaled to [0, 1]
    and $0$ the input whose embeddings are zeros. About 1 when everything that can be lost is lost. Source: Zhao and
    Aletras 2023, "Incorporating Attribution Importance for Improving Faithfulness Metrics". No token is deleted and
    magnitudes count; but a method whose scores are large on average removes more and scores higher: compare methods by
    `pi_soft_nc`. Special tokens stay whole.

    Skipped: "constant scores", "the target is hardly likelier than without any input" (by less than 0.01), "no input to
    remove", "scores are not finite", "the model's score is NaN".
    """

    def chances(self, step: Step) -> list[np.ndarray]:
        """The more important, the less stays."""
        return [1 - unit(step.scores)]
