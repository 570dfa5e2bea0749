"""Max-sensitivity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from attriflow.registry import metrics
from attriflow_metrics._changes import Measured
from attriflow_metrics._reexplained import Noisy
from attriflow_metrics._steps import Step


@metrics.register(
    "max_sensitivity",
    family="robustness",
    higher_is_better=False,
    range=(0.0, None),
    requires=("captum",),
    cost="samples explanations, shared with noise_stability",
    source="Yeh et al. 2019 (arXiv 1901.09392), definition 2.2; computed by captum.metrics.sensitivity_max",
)
@dataclass(frozen=True, kw_only=True)
class MaxSensitivity(Noisy):
    r"""How far the explanation moves at most under noise on the embeddings; lower is better.

    $$\max_k \frac{\lVert s(x + \epsilon_k) - s(x) \rVert}{\lVert s(x) \rVert}$$

    over the tokens that the step sees, with $s(x)$ the scores and $\epsilon_k$ Gaussian noise, the same for all
    methods. 0 and up. Source: max-sensitivity of Yeh et al. 2019, "On the (In)fidelity and Sensitivity of
    Explanations", by captum's `sensitivity_max`. The paper takes the maximum over a ball; this is one over a few draws,
    a lower bound. `noise_stability` compares orders, this magnitudes.

    Skipped: "all scores are 0", "no input to compare", "scores are not finite".

    Attributes:
        noise: Standard deviation of the noise, as a share of the embeddings' root mean square.
        n_samples: Explanations of noisy inputs.
    """

    def measure(self, step: Step, others: np.ndarray) -> Measured:
        """The number that captum gives, which sees explanations by their number: 0 is that of the input itself."""
        from captum.metrics import sensitivity_max

        if not step.scores.any():
            return Measured(None, "all scores are 0")
        table = torch.from_numpy(np.concatenate([step.scores[None], others]))

        def explained(numbers: Any) -> Any:  # captum wants of the input itself, which it gives as a tuple, a tuple
            if isinstance(numbers, tuple):
                return (table[numbers[0][:, 0].long()],)
            return table[numbers[:, 0].long()]

        value = sensitivity_max(
            explained,
            torch.zeros((1, 1)),
            perturb_func=lambda _inputs, _radius: torch.arange(1.0, len(table))[:, None],
            n_perturb_samples=len(others),
        )
        return Measured(float(value))
