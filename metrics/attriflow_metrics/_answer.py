"""Evidence for a whole answer: one explanation for all its tokens, scored on all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attriflow.errors import InputError
from attriflow.types import Attribution, MetricValues, Rescore, Variant
from attriflow_metrics._changes import Answers, Ask, Removal
from attriflow_metrics._steps import NO_INPUT, NOT_FINITE, Step, annotated

WHOLE = -1
"""The number of the one step that stands for all."""


@dataclass(frozen=True, kw_only=True)
class Answer(Removal):
    r"""Base of the metrics that ask which inputs the whole answer rests on.

    The answer's score of an input is the mean of its scores over the steps; its probability is the geometric mean of
    the probabilities of its tokens, $\exp(\frac1T \sum_t \ln p(y_t))$, so that long answers compare with short ones.
    Where steps are spans, it is that of all their tokens.
    Only tokens of the given text (prompt or source) are removed: the generated prefix is part of the answer.
    """

    def answer(self, attribution: Attribution) -> tuple[Step, str]:
        """The explanation of the answer, or why there is nothing to measure."""
        step, reason = answer_step(attribution)
        return step, reason or self.undefined(step) or ""

    def reduced(self, total: Tensor, n_tokens: int) -> Tensor:
        """From the log-probability of all the answer's tokens, `[variant]`, to what is measured: nats per token."""
        return total / n_tokens

    def plan(self, attribution: Attribution) -> list[Variant]:
        """The changed inputs that a call will score, for all steps."""
        step, reason = self.answer(attribution)
        if reason:
            return []
        n = len(attribution.inputs)
        return [Variant(keep=tuple(a.mask(step, n)), how=a.how) for a in dict.fromkeys(self.asked(step))]

    def __call__(
        self, attribution: Attribution, rescore: Rescore | None, rationale: Tensor | None = None
    ) -> MetricValues:
        """Evaluate the answer: one value for all steps.

        Args:
            attribution: Scores `[step, input]` (other axes are reduced by `token_scores`).
            rescore: Scores all explained tokens under changed inputs; called once.
            rationale: Not used.
        """
        if rescore is None:
            raise InputError(f"{type(self).__name__} needs `rescore`, a function that scores changed inputs")
        step, reason = self.answer(attribution)
        if reason:
            return MetricValues(values=(None,), skipped={0: reason}, per_step=False)
        asked = list(dict.fromkeys(self.asked(step)))
        keep = torch.tensor([ask.mask(step, len(attribution.inputs)) for ask in asked], dtype=torch.bool)
        lengths = [stop - first for first, stop in map(attribution.positions, range(len(attribution.targets)))]
        weights = torch.tensor(lengths if attribution.provenance.span_value == "mean" else [1] * len(lengths)).double()
        log_p = self.reduced(rescore(keep, None, how=self.how) @ weights, sum(lengths)).tolist()
        measured = self._measured(step, _Known(zip(asked, log_p, strict=True)))
        if measured.value is None:
            return MetricValues(values=(None,), skipped={0: measured.reason}, per_step=False)
        curves = {0: measured.curve} if measured.curve else {}
        return MetricValues(values=(float(measured.value),), curves=curves, per_step=False)


class _Known(Answers):
    """Answers that were all planned."""

    def __init__(self, pairs: Sequence[tuple[Ask, float]] | zip[tuple[Ask, float]]) -> None:
        dict.__init__(self, pairs)
        self.several = True

    def __missing__(self, ask: Ask) -> float:
        raise KeyError(ask)


def answer_step(attribution: Attribution) -> tuple[Step, str]:
    """The explanation of all steps as one, or why there is none."""
    scores = attribution.token_scores().detach().double().cpu().numpy()
    inputs = annotated(attribution, 0)  # of the given text every step sees all
    chosen = scores[:, list(inputs)]
    reason = NO_INPUT if not inputs else "" if np.isfinite(chosen).all() else NOT_FINITE
    return Step(WHOLE, inputs, chosen.mean(0) if inputs else np.zeros(0)), reason
