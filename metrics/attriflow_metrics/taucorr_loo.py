"""Kendall correlation with leave-one-out effects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from attriflow.registry import metrics
from attriflow_metrics._changes import SATURATED, Answers, Measured
from attriflow_metrics._faithfulness import Faithfulness
from attriflow_metrics._steps import Step


@metrics.register(
    "taucorr_loo",
    family="faithfulness",
    higher_is_better=True,
    range=(-1.0, 1.0),
    requires=("ferret",),
    extra="ferret",
    cost="removable inputs + 1 forward rows per step, the same for every method",
    shared=True,
    source="Jain and Wallace 2019 (arXiv 1902.10186); computed by ferret (Attanasio et al. 2023, 2208.01575)",
    default=True,
)
@dataclass(frozen=True, kw_only=True)
class LeaveOneOutCorrelation(Faithfulness):
    r"""How well the order of the scores agrees with the effect of leaving each token out; higher is better.

    $$\tau_b\big((p(y \mid x) - p(y \mid x \setminus x_i))_i, (s_i)_i\big)$$

    over the removable tokens $x_i$ the step sees, with $s$ the signed scores and $p$ the probability of the target
    token, whatever function was attributed. In [-1, 1]. Source: Jain and Wallace 2019, "Attention is not
    Explanation"; the number is that of ferret's `TauLOO_Evaluation` (scipy's tau-b, which accounts for ties).

    Special tokens always stay. Decoder-only models lose tokens of prompt and generated prefix, encoder-decoders source
    tokens. Tau of absolute scores (saliency, attention) compares magnitudes with signed effects, as in ferret.

    Skipped, as the correlation is not defined: "constant scores" and "a single input has no order" (both cost no
    forward rows), "constant leave-one-out effects"; also "no input to remove", "scores are not finite", "the model's
    score is NaN". Left out as well: "saturated: p > 1 - 0.0001", where most drops are as small as float32's rounding,
    in log space too, so that their order would be one of rounding errors. ferret ranks those.
    """

    evaluator: ClassVar[str] = "TauLOO_Evaluation"
    nan_reason: ClassVar[str] = "constant leave-one-out effects"

    def kept_inputs(self, step: Step) -> Iterator[tuple[int, ...]]:
        """All inputs but one, for each."""
        return (ask.kept for ask in self.without_one(step))

    def measure(self, step: Step, answers: Answers) -> Measured:
        """The number that ferret gives, unless it is one of rounding errors."""
        found = super().measure(step, answers)
        if found.value is not None and answers.saturated(self.whole(step)):
            return Measured(None, f"saturated: p > 1 - {SATURATED:g}")
        return found

    def undefined(self, step: Step) -> str | None:
        """What has no order."""
        if len(step.inputs) == 1:
            return "a single input has no order"
        return "constant scores" if (step.scores == step.scores[0]).all() else None
