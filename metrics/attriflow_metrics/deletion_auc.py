"""Area under the deletion curve."""

from __future__ import annotations

from dataclasses import dataclass

from attriflow.registry import metrics
from attriflow_metrics._changes import Ask
from attriflow_metrics._curves import Curves
from attriflow_metrics._steps import Step


@metrics.register(
    "deletion_auc",
    family="faithfulness",
    higher_is_better=False,
    range=(0.0, 1.0),
    cost="up to fractions + 1 forward rows per step, shared with aopc_compr",
    source="Samek et al. 2017, MoRF (arXiv 1509.06321); Petsiuk et al. 2018, RISE (1806.07421)",
)
@dataclass(frozen=True, kw_only=True)
class DeletionAUC(Curves):
    r"""Area under the target's probability while the most relevant tokens go first; lower is better.

    $$\int_0^1 p(y \mid x \setminus r_{f}) \, df$$

    with $r_f$ the share $f$ of the removable tokens with the highest signed scores, by the trapezoidal rule over
    `fractions`. In [0, 1]; also known as the MoRF curve. Source: Samek et al. 2017, "Evaluating the Visualization of
    What a Deep Neural Network Has Learned"; deletion metric of Petsiuk et al. 2018, "RISE". The curve is kept.

    Unlike `aopc_compr`, tokens with scores of 0 and below are removed as well, after all others. Constant scores:
    defined, but the order among equal scores (first come, first gone) is arbitrary. Skipped: "no input to remove",
    "scores are not finite", "the model's score is NaN".
    """

    def points(self, step: Step) -> list[tuple[float, Ask]]:
        """Most relevant first."""
        return self.deletions(step)
