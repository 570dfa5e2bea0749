"""Cascading randomisation of parameters."""

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
    "parameter_randomisation",
    family="sanity",
    higher_is_better=False,
    range=(-1.0, 1.0),
    cost="levels explanations",
    source="Adebayo et al. 2018 (arXiv 1810.03292)",
)
@dataclass(frozen=True, kw_only=True)
class ParameterRandomisation(Reexplained):
    r"""How much of the explanation survives when the model forgets what it learned; lower is better.

    $$\frac1L \sum_{l=1}^L \rho\big(|s(f)|, |s(f_{l/L})|\big)$$

    with $\rho$ Spearman's rank correlation over the tokens that the step sees, $f$ the model and $f_a$ the model whose
    stages (head, blocks, embeddings) have random parameters, a share $a$ of them from the output on. In [-1, 1]; near 0
    for an explanation that depends on the model. Source: the cascading model parameter randomisation test of Adebayo et
    al. 2018, "Sanity Checks for Saliency Maps", on magnitudes, averaged over the cascade; the cascade is kept as a
    curve. Parameters are drawn from a normal distribution with the mean and the standard deviation of those they
    replace.

    Edge cases: constant scores before and after: 1. Skipped: "no input to compare", "scores are not finite".

    Attributes:
        levels: Points of the cascade; the last one is the model with nothing but random parameters.
    """

    levels: int = 3

    def __post_init__(self) -> None:
        """Check the options."""
        check_least("levels", self.levels)

    def shares(self) -> list[float]:
        """Shares of the stages that are random."""
        return [level / self.levels for level in range(1, self.levels + 1)]

    def changes(self) -> Sequence[Mapping[str, Any]]:
        """One model for each level."""
        return [{"randomise": share, "draw": 0} for share in self.shares()]

    def measure(self, step: Step, others: np.ndarray) -> Measured:
        """Mean similarity over the cascade."""
        values = [similarity(step.scores, other) for other in others]
        return Measured(float(np.mean(values)), curve=((0.0, 1.0), *zip(self.shares(), values, strict=True)))
