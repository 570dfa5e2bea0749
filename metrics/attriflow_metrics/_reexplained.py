"""What metrics that explain again share: the changes they ask for, and the scores of both explanations."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from attriflow.errors import InputError, check_least
from attriflow.types import Attribution, MetricValues, Reexplain, Rescore
from attriflow_metrics._changes import Measured, collected
from attriflow_metrics._steps import NOT_FINITE, Step, removable, select

NOTHING = "no input to compare"


@dataclass(frozen=True, kw_only=True)
class Reexplained:
    """Base of the metrics that compare an explanation with those made under changed circumstances.

    Registered with `needs=("reexplain",)`; an evaluation makes the explanations that `changes` names for a whole data
    set at once, and only once for all metrics that ask for them.
    """

    @abstractmethod
    def changes(self) -> Sequence[Mapping[str, Any]]:
        """What `reexplain` will be called with, once for each."""

    @abstractmethod
    def measure(self, step: Step, others: np.ndarray) -> Measured:
        """The value of a step.

        Args:
            step: The inputs that are compared (visible, not special) and their scores.
            others: Their scores under each change, `[change, input]`.
        """

    def __call__(
        self,
        attribution: Attribution,
        rescore: Rescore | None = None,
        rationale: Tensor | None = None,
        *,
        reexplain: Reexplain | None = None,
    ) -> MetricValues:
        """Evaluate every step.

        Args:
            attribution: Scores `[step, input]` (other axes are reduced by `token_scores`).
            rescore, rationale: Not used.
            reexplain: Explains again (see `Reexplain`).

        Returns:
            One value per step, or the reason why there is none.
        """
        if reexplain is None:
            raise InputError(f"{type(self).__name__} needs `reexplain`, a function that explains again")
        steps, skipped = select(attribution, removable, none=NOTHING)
        others = [_scores(reexplain(**change), attribution) for change in self.changes()]
        found: dict[int, Measured] = {}
        for step in steps:
            again = np.stack([scores[step.index, list(step.inputs)] for scores in others])
            found[step.index] = self.measure(step, again) if np.isfinite(again).all() else Measured(None, NOT_FINITE)
        return collected(len(attribution.targets), found, skipped)


@dataclass(frozen=True, kw_only=True)
class Noisy(Reexplained):
    """Base of those that look at noise on the embeddings, the same for all of them.

    Attributes:
        noise: Standard deviation of the noise, as a share of the embeddings' root mean square.
        n_samples: Explanations of noisy inputs.
    """

    noise: float = 0.1
    n_samples: int = 3

    def __post_init__(self) -> None:
        """Check the options."""
        if not self.noise > 0:
            raise InputError(f"noise must be above 0, not {self.noise!r}")
        check_least("n_samples", self.n_samples)

    def changes(self) -> Sequence[Mapping[str, Any]]:
        """One explanation per draw."""
        return [{"noise": self.noise, "draw": draw} for draw in range(self.n_samples)]


def _scores(again: Attribution, attribution: Attribution) -> np.ndarray:
    scores = again.token_scores()
    if scores.shape != attribution.scores.shape[:2]:
        expected = tuple(attribution.scores.shape[:2])
        raise InputError(f"`reexplain` gave scores {tuple(scores.shape)}, expected [step, input] = {expected}")
    return np.asarray(scores.detach().double().cpu().numpy())
