"""What plausibility metrics share: the annotated tokens, step by step."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from attriflow.errors import InputError, check_least
from attriflow.types import Attribution, MetricValues, Rescore
from attriflow_metrics import ferret
from attriflow_metrics._steps import Step, annotated, ranks, select

NO_RATIONALE = "no rationale"
EMPTY_RATIONALE = "empty rationale"


@dataclass(frozen=True, kw_only=True)
class Plausibility:
    """Base of the metrics that compare an explanation with a rationale, one step at a time."""

    @abstractmethod
    def measure(self, step: Step, relevant: np.ndarray) -> float:
        """The value of a step.

        Args:
            step: The annotated inputs and their scores.
            relevant: 1 for those of the rationale, else 0, `[input]`; at least one is 1.
        """

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
            values[step.index] = float(self.measure(step, relevant))
        return MetricValues(values=tuple(values.get(i) for i in range(n)), skipped=skipped)


@dataclass(frozen=True, kw_only=True)
class FerretPlausibility(Plausibility):
    """Base of the plausibility metrics whose number is ferret's.

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

    def measure(self, step: Step, relevant: np.ndarray) -> float:
        """The number that ferret gives."""
        scores = self.shown(step.scores)
        return ferret.evaluate(self.evaluator, step.inputs, scores, rationale=relevant, **self.arguments())


@dataclass(frozen=True, kw_only=True)
class TopK(Plausibility):
    """Base of the metrics that compare the k highest-scored tokens with the rationale.

    Attributes:
        top_k: How many tokens are selected. An evaluation takes the mean size of its rationales, as ferret does for its
            data sets, unless it is told a number; 5 elsewhere, ferret's default.
    """

    top_k: int = 5

    def __post_init__(self) -> None:
        """Check the options."""
        check_least("top_k", self.top_k)


@dataclass(frozen=True, kw_only=True)
class TopTokens(TopK, FerretPlausibility):
    """Base of those whose number is ferret's.

    Attributes:
        only_pos: Select only tokens with a score above 0.
    """

    def shown(self, scores: np.ndarray) -> np.ndarray:
        """The scores; their ranks when the sign is not to matter."""
        return scores if self.only_pos else ranks(scores)

    def arguments(self) -> dict[str, Any]:
        """Arguments of the evaluation, as ferret names them."""
        return {"top_k_rationale": self.top_k, "only_pos": True}


def expected_hits(scores: np.ndarray, relevant: np.ndarray, k: int) -> float:
    """How many relevant items are among the `k` highest, on average over all orders of equal scores."""
    hits, left = 0.0, min(k, len(scores))
    for value in np.unique(scores)[::-1]:
        tied = scores == value
        taken = min(left, int(tied.sum()))
        hits += relevant[tied].mean() * taken
        left -= taken
        if not left:
            break
    return float(hits)


def expected_reciprocal_rank(scores: np.ndarray, relevant: np.ndarray) -> float:
    """One over the rank of the highest relevant item, on average over all orders of equal scores."""
    best = scores[relevant > 0].max()
    above, tied = int((scores > best).sum()), scores == best
    n, good = int(tied.sum()), int(relevant[tied].sum())
    # the first of `good` among `n` in random order is at place j with chance C(n - j, good - 1) / C(n, good)
    places = range(1, n - good + 2)
    chances = (math.comb(n - j, good - 1) / math.comb(n, good) for j in places)
    return math.fsum(chance / (above + j) for j, chance in zip(places, chances, strict=True))
