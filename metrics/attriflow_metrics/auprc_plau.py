"""Area under the precision-recall curve of the scores against a rationale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from attriflow.registry import metrics
from attriflow_metrics._plausibility import FerretPlausibility


@metrics.register(
    "auprc_plau",
    family="plausibility",
    higher_is_better=True,
    range=(0.0, 1.0),
    needs=("rationale",),
    requires=("ferret",),
    extra="ferret",
    cost="no forward rows",
    source="DeYoung et al. 2020, ERASER (arXiv 1911.03429); computed by ferret (Attanasio et al. 2023, 2208.01575)",
    default=True,
)
@dataclass(frozen=True, kw_only=True)
class AreaUnderPrecisionRecall(FerretPlausibility):
    r"""How well the scores rank the tokens of the rationale above the others; higher is better.

    $$\int_0^1 P(R) \, dR$$

    with precision $P$ and recall $R$ of the tokens above a score, the score swept over all values, by the trapezoidal
    rule. In [0, 1]. Source: DeYoung et al. 2020, "ERASER: A Benchmark to Evaluate Rationalized NLP Models"; the
    number is that of ferret's `AUPRC_PlausibilityEvaluation`.

    Edge cases: all tokens in the rationale: 1. Constant scores, or none positive with `only_pos`: (1 + b) / 2 with b
    the part of the tokens that is in the rationale, what the trapezoid makes of a curve with one point. Skipped: "no
    rationale" (none given), "empty rationale" (no annotated token that the step sees), "scores are not finite".
    """

    evaluator: ClassVar[str] = "AUPRC_PlausibilityEvaluation"

    def arguments(self) -> dict[str, Any]:
        """Arguments of the evaluation, as ferret names them."""
        return {"only_pos": self.only_pos}
