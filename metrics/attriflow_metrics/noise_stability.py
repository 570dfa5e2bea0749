"""Stability under noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attriflow.registry import metrics
from attriflow.statistics.ranks import similarity
from attriflow_metrics._changes import Measured
from attriflow_metrics._reexplained import Noisy
from attriflow_metrics._steps import Step


@metrics.register(
    "noise_stability",
    family="robustness",
    higher_is_better=True,
    range=(-1.0, 1.0),
    cost="samples explanations, shared with max_sensitivity",
    source="Alvarez-Melis and Jaakkola 2018 (arXiv 1806.08049); Ghorbani et al. 2019 (1710.10547)",
)
@dataclass(frozen=True, kw_only=True)
class NoiseStability(Noisy):
    r"""How well the order of the magnitudes survives noise on the embeddings; higher is better.

    $$\frac1n \sum_{k=1}^n \rho\big(|s(x)|, |s(x + \epsilon_k)|\big)$$

    with $\rho$ Spearman's rank correlation over the tokens that the step sees, $s(x)$ the scores and $\epsilon_k$
    Gaussian noise, the same for all methods. In [-1, 1]. Source: the local stability of Alvarez-Melis and Jaakkola
    2018, "On the Robustness of Interpretability Methods", with the rank correlation of Ghorbani et al. 2019,
    "Interpretation of Neural Networks Is Fragile". The noise also changes what the model does, and an explanation that
    ignores the input is perfectly stable: read it beside faithfulness.

    Edge cases: scores that are constant with and without noise: 1; with or without: 0. Skipped: "no input to compare",
    "scores are not finite".

    Attributes:
        noise: Standard deviation of the noise, as a share of the embeddings' root mean square.
        n_samples: Explanations of noisy inputs.
    """

    def measure(self, step: Step, others: np.ndarray) -> Measured:
        """Mean similarity."""
        return Measured(float(np.mean([similarity(step.scores, other) for other in others])))
