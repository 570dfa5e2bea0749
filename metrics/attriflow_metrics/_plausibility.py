"""What plausibility metrics share: the annotated tokens, step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from attriflow.errors import InputError
from attriflow.types import Attribution, MetricValues, Rescore
from attriflow_metrics import ferret
from attriflow_metrics._steps import annotated, ranks, select

NO_RATIONALE = "no rationale"
EMPTY_RATIONALE = "empty rationale"


@dataclass(frozen=True, kw_only=True)
class Plausibility:
    """Base of the plausibility metrics.

    Attributes:
        only_pos: Scores below 0 speak against a token: they count as 0.
    """

    evaluator: ClassVar[str]
    """Name of ferret's class."""

    only_pos: bool = True

    def shown(self, scores: np.ndarray) -> np.ndarray:
        """The scores as ferret gets them."""
        return scores

    def arguments(self) -> dict[str, Any]:
        """Arguments of the evaluation, as ferret names them."""
        return {}

    def __call__(
        self, attribution: Attribution, rescore: Rescore | None = None, rationale: Tensor | None = None
    ) -> MetricValues:
        """Evaluate every step.

        Args:
            attribution: Scores `[step, input]` (other axes are reduced by `token_scores`).
            rescore: Not used.
            rationale: Bool `[step, input]`: the inputs that people gave as the reason. Read only at visible tokens of
                the given text (source or prompt) that are not special: nobody annotates what is generated.

        Returns:
            One value per step, or the reason why there is none.
        """
        n = len(attribution.targets)
        if rationale is None:
            return MetricValues(values=(None,) * n, skipped=dict.fromkeys(range(n), NO_RATIONALE))
        if tuple(rationale.shape) != (n, len(attribution.inputs)):
            expected = (n, len(attribution.inputs))
            raise InputError(f"rationale has shape {tuple(rationale.shape)}, expected [step, input] = {expected}")
        truth = rationale.detach().to("cpu", torch.bool).numpy().astype(np.int64)

        steps, skipped = select(attribution, annotated, none=EMPTY_RATIONALE)
        values: dict[int, float] = {}
        for step in steps:
            relevant = truth[step.index, list(step.inputs)]
            if not relevant.any():
                skipped[step.index] = EMPTY_RATIONALE
                continue
            values[step.index] = ferret.evaluate(
                self.evaluator, step.inputs, self.shown(step.scores), rationale=relevant, **self.arguments()
            )
        return MetricValues(values=tuple(values.get(i) for i in range(n)), skipped=skipped)


@dataclass(frozen=True, kw_only=True)
class TopTokens(Plausibility):
    """Base of the plausibility metrics that compare the k highest-scored tokens with the rationale.

    Attributes:
        top_k: How many tokens are selected; usually the mean length of the data set's rationales (ferret's default: 5).
        only_pos: Select only tokens with a score above 0.
    """

    top_k: int = 5

    def __post_init__(self) -> None:
        """Check the options."""
        if self.top_k < 1 or self.top_k != int(self.top_k):
            raise InputError(f"top_k must be a whole number from 1, not {self.top_k}")

    def shown(self, scores: np.ndarray) -> np.ndarray:
        """The scores; their ranks when the sign is not to matter."""
        return scores if self.only_pos else ranks(scores)

    def arguments(self) -> dict[str, Any]:
        """Arguments of the evaluation, as ferret names them."""
        return {"top_k_rationale": int(self.top_k), "only_pos": True}
