"""Log-odds: what replacing the top tokens costs in log-probability."""

from __future__ import annotations

import math
from dataclasses import dataclass

from attriflow.registry import metrics
from attriflow_metrics._changes import Answers, How, Measured
from attriflow_metrics._drops import Removing
from attriflow_metrics._steps import Step


@metrics.register(
    "log_odds",
    family="faithfulness",
    higher_is_better=False,
    cost="fractions + 1 forward rows per step",
    source="Shrikumar et al. 2017 (arXiv 1704.02685); Chen et al. 2020, HEDGE (2004.02015), section 4.2",
)
@dataclass(frozen=True, kw_only=True)
class LogOdds(Removing):
    r"""Change of the target's log-probability when the top fifth of the tokens is replaced; lower is better.

    $$\frac{1}{|K|} \sum_{k \in K} \ln p(y \mid \tilde x^{(k)}) - \ln p(y \mid x)$$

    with $\tilde x^{(k)}$ the input whose highest-scored share $k$ (rounded up) is replaced by the baseline token. In
    nats, unbounded; the more negative, the more the tokens mattered. Source: Chen et al. 2020, "Generating Hierarchical
    Explanations", whose name it has; replacing keeps later tokens in place, where `logprob_compr` deletes.

    Edge cases and reasons to skip: as for `logprob_compr`.

    Attributes:
        fractions: Shares of the removable tokens that are replaced.
        perturbation: "baseline" replaces tokens, see `Rescore`.
    """

    perturbation: How = "baseline"
    fractions: tuple[float, ...] = (0.2,)

    def sizes(self, step: Step) -> list[int]:
        """Rounded up, so that short inputs lose a token, too."""
        return sorted({math.ceil(f * len(step.inputs)) for f in self.fractions})

    def measure(self, step: Step, answers: Answers) -> Measured:
        """Mean change in nats."""
        drop = super().measure(step, answers)
        return drop if drop.value is None else Measured(-drop.value)
