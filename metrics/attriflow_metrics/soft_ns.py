"""Soft normalised sufficiency."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attriflow.registry import metrics
from attriflow_metrics._soft import SoftSufficiency, unit
from attriflow_metrics._steps import Step


@metrics.register(
    "soft_ns",
    family="faithfulness",
    higher_is_better=True,
    range=(None, 1.0),
    cost="draws + 2 forward rows per step",
    source="Zhao and Aletras 2023 (arXiv 2305.10496), equations 3 and 4",
)
@dataclass(frozen=True, kw_only=True)
class SoftNS(SoftSufficiency):
    r"""What the target keeps when embeddings are kept in proportion to the scores; higher is better.

    $$1 - \frac{\max(0, p(y \mid x) - p(y \mid x'))}{p(y \mid x) - p(y \mid 0)}$$

    with $x'$ the input each of whose embedding elements stays with chance $a_i$, $a$ the scores scaled to [0, 1] and
    $0$ the input whose embeddings are zeros; the paper's (Soft-S - S(0)) / (1 - S(0)), simplified. 1 when nothing is
    lost, 0 when as much as without any input, below 0 when even more. Source: Zhao and Aletras 2023, "Incorporating
    Attribution Importance for Improving Faithfulness Metrics". A method whose scores are large on average keeps more
    and scores higher: compare methods by `pi_soft_ns`. Special tokens stay whole.

    Skipped: "constant scores", "the target is hardly likelier than without any input" (by less than 0.01), "no input to
    remove", "scores are not finite", "the model's score is NaN".
    """

    def chances(self, step: Step) -> list[np.ndarray]:
        """The more important, the more stays."""
        return [unit(step.scores)]
