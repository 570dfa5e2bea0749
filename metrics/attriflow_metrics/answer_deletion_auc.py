"""Area under the deletion curve of a whole answer."""

from __future__ import annotations

from dataclasses import dataclass

from attriflow.registry import metrics
from attriflow_metrics._answer import Answer
from attriflow_metrics._changes import Ask
from attriflow_metrics._curves import Curves
from attriflow_metrics._steps import Step


@metrics.register(
    "answer_deletion_auc",
    family="faithfulness",
    higher_is_better=False,
    range=(0.0, 1.0),
    cost="up to fractions + 1 forward rows per answer, shared with answer_compr",
    source="Samek et al. 2017 (arXiv 1509.06321); Petsiuk et al. 2018, RISE (1806.07421), on spans",
)
@dataclass(frozen=True, kw_only=True)
class AnswerDeletionAUC(Answer, Curves):
    r"""Area under the whole answer's probability while its most relevant tokens go first; lower is better.

    $$\int_0^1 P(y \mid x \setminus r_f) \, df, \quad
    P(y \mid x) = \exp\Big(\frac1T \sum_{t=1}^T \ln p(y_t \mid y_{<t}, x)\Big)$$

    with $r_f$ the share $f$ of the tokens of the given text (prompt or source) with the highest mean scores over the
    steps. In [0, 1]; one value for the whole explanation. Source: the deletion metric of Petsiuk et al. 2018, "RISE",
    with the answer in place of a class. The generated prefix is part of the answer and stays. The curve is kept.

    Skipped: "no input to remove", "scores are not finite" (at any step), "the model's score is NaN".
    """

    def points(self, step: Step) -> list[tuple[float, Ask]]:
        """Most relevant first."""
        return self.deletions(step)
