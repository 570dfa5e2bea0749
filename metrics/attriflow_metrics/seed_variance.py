"""Variance over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attriflow.errors import check_least
from attriflow.registry import metrics
from attriflow_metrics._changes import Measured
from attriflow_metrics._reexplained import Reexplained
from attriflow_metrics._steps import Step


@metrics.register(
    "seed_variance",
    family="robustness",
    higher_is_better=False,
    range=(0.0, None),
    cost="seeds explanations of stochastic methods, nothing for the others",
    source="Zafar et al. 2021 (arXiv 2106.05657); Visani et al. 2022 (2001.11757)",
)
@dataclass(frozen=True, kw_only=True)
class SeedVariance(Reexplained):
    r"""How much the scores move with the seed of a method that draws random numbers; lower is better.

    $$\sqrt{\frac{\sum_i \mathrm{Var}_k(s_i^{(k)})}{\sum_i \overline{(s_i^{(k)})^2}}}$$

    over the tokens that the step sees, with $s^{(k)}$ the scores under seed $k$, the given explanation among them. 0
    and up, below about 1: the standard deviation relative to the size of the scores. 0 for methods that draw nothing.
    Source: seed stability as in Visani et al. 2022, "Statistical Stability Indices for LIME", and Zafar et al. 2021,
    "On the Lack of Robust Interpretability of Neural Text Classifiers". More samples make it smaller: it is the price
    list of n_samples.

    Skipped: "all scores are 0", "no input to compare", "scores are not finite".

    Attributes:
        n_seeds: Explanations under other seeds.
    """

    n_seeds: int = 2

    def __post_init__(self) -> None:
        """Check the options."""
        check_least("n_seeds", self.n_seeds)

    def changes(self) -> Sequence[Mapping[str, Any]]:
        """Other seeds."""
        return [{"seed": k} for k in range(1, self.n_seeds + 1)]

    def measure(self, step: Step, others: np.ndarray) -> Measured:
        """Relative standard deviation."""
        scores = np.concatenate([step.scores[None], others])
        size = float((scores**2).mean(0).sum())
        if size == 0:
            return Measured(None, "all scores are 0")
        moved = scores - scores[0]  # exactly 0 where nothing moves
        return Measured(float(np.sqrt(moved.var(0, ddof=1).sum() / size)))
