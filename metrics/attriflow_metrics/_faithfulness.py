"""The faithfulness metrics that ferret computes: it gets scores that were planned and asked for in one batch."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from attriflow.types import Attribution, MetricValues, Rescore
from attriflow_metrics import ferret
from attriflow_metrics._changes import MODEL_NAN, Answers, Ask, Measured, Removal
from attriflow_metrics._steps import Step


@dataclass(frozen=True, kw_only=True)
class Faithfulness(Removal):
    """Base of the faithfulness metrics whose number is ferret's.

    Attributes:
        perturbation: What removing a token means, see `Rescore`. ferret's default is to delete it.
    """

    evaluator: ClassVar[str]
    """Name of ferret's class."""
    nan_reason: ClassVar[str] = "not defined"
    """The reason for a NaN from ferret that does not come from the model."""

    @abstractmethod
    def kept_inputs(self, step: Step) -> Iterable[tuple[int, ...]]:
        """The inputs that stay, for each changed input that ferret will ask for."""

    def shown(self, scores: np.ndarray) -> np.ndarray:
        """The scores as ferret gets them."""
        return scores

    def arguments(self) -> dict[str, Any]:
        """Arguments of the evaluation, as ferret names them."""
        return {}

    def steps(self, attribution: Attribution) -> tuple[list[Step], dict[int, str]]:
        """The steps as ferret sees them."""
        steps, skipped = super().steps(attribution)
        return [Step(s.index, s.inputs, self.shown(s.scores)) for s in steps], skipped

    def asked(self, step: Step) -> Iterable[Ask]:
        """The unchanged input, and what ferret will remove."""
        return (Ask(kept, how=self.how) for kept in (step.inputs, *self.kept_inputs(step)))

    def __call__(
        self, attribution: Attribution, rescore: Rescore | None, rationale: Tensor | None = None
    ) -> MetricValues:
        """Evaluate every step (see `FromChanges`)."""
        with ferret.one_thread():
            return super().__call__(attribution, rescore, rationale)

    def measure(self, step: Step, answers: Answers) -> Measured:
        """The number that ferret gives."""
        value = ferret.evaluate(
            self.evaluator,
            step.inputs,
            step.scores,
            # ferret decides what is scored; the plan only gets most of it in one batch
            score=lambda kept: answers[Ask(kept, how=self.how)],
            **self.arguments(),
        )
        if not math.isnan(value):
            return Measured(value)
        return Measured(None, MODEL_NAN if any(map(math.isnan, answers.values())) else self.nan_reason)
