"""The random-logit test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attriflow.errors import check_least
from attriflow.registry import metrics
from attriflow.statistics.ranks import similarity
from attriflow_metrics._changes import Measured
from attriflow_metrics._reexplained import Reexplained
from attriflow_metrics._steps import Step


@metrics.register(
    "random_logit",
    family="sanity",
    higher_is_better=False,
    range=(-1.0, 1.0),
    cost="targets explanations",
    source="Sixt et al. 2020 (arXiv 1912.09818)",
)
@dataclass(frozen=True, kw_only=True)
class RandomLogit(Reexplained):
    r"""How similar the explanation is to that of a random other token; lower is better.

    $$\frac1n \sum_{k=1}^n \rho\big(|s_y|, |s_{y'_k}|\big)$$

    with $\rho$ Spearman's rank correlation over the tokens that the step sees, $s_y$ the scores for the target token
    and $s_{y'_k}$ those for a random other token of the vocabulary under the same input. In [-1, 1]; an explanation
    that does not depend on what is explained scores 1. Source: the random logit test of Sixt et al. 2020, "When
    Explanations Lie", with ranks of magnitudes. Attention and other methods without a target score 1 by construction.

    Edge cases: constant scores for both: 1. Skipped: "no input to compare", "scores are not finite". There is no value
    where something else than (a function of) a target token's probability or logit was attributed.

    Attributes:
        n_targets: Random other tokens.
    """

    n_targets: int = 1

    def __post_init__(self) -> None:
        """Check the options."""
        check_least("n_targets", self.n_targets)

    def changes(self) -> Sequence[Mapping[str, Any]]:
        """Other targets."""
        return [{"other_target": k} for k in range(self.n_targets)]

    def measure(self, step: Step, others: np.ndarray) -> Measured:
        """Mean similarity."""
        return Measured(float(np.mean([similarity(step.scores, other) for other in others])))
