"""Area under the insertion curve."""

from __future__ import annotations

from dataclasses import dataclass

from attriflow.registry import metrics
from attriflow_metrics._changes import Ask
from attriflow_metrics._curves import Curves
from attriflow_metrics._steps import Step


@metrics.register(
    "insertion_auc",
    family="faithfulness",
    higher_is_better=True,
    range=(0.0, 1.0),
    cost="up to fractions + 1 forward rows per step, shared with aopc_suff",
    source="Samek et al. 2017, LeRF (arXiv 1509.06321); Petsiuk et al. 2018, RISE (1806.07421)",
)
@dataclass(frozen=True, kw_only=True)
class InsertionAUC(Curves):
    r"""Area under the target's probability while the most relevant tokens come first; higher is better.

    $$\int_0^1 p(y \mid r_{f}) \, df$$

    with $r_f$ the share $f$ of the removable tokens with the highest signed scores, the only ones that stay, by the
    trapezoidal rule over `fractions`. In [0, 1]. Source: insertion metric of Petsiuk et al. 2018, "RISE". Inserting the
    most relevant is deleting the least relevant, read backwards: the area is that under the LeRF curve of Samek et al.
    2017. The curve is kept.

    Constant scores: defined, but the order among equal scores is arbitrary. Skipped: "no input to remove", "scores are
    not finite", "the model's score is NaN".
    """

    def points(self, step: Step) -> list[tuple[float, Ask]]:
        """Most relevant first."""
        return self.insertions(step)
