"""Soft metrics at equal expected mass: every method keeps the same share of the input."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attriflow.errors import InputError
from attriflow_metrics._soft import Soft, unit, with_mean
from attriflow_metrics._steps import Step


@dataclass(frozen=True, kw_only=True)
class EqualMass(Soft):
    """Base of the mass-equalised variants.

    Attributes:
        shares: Expected shares of the input that stay; the mean over them is the area under the curve over shares.
    """

    shares: tuple[float, ...] = (0.25, 0.5, 0.75)

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        shares = tuple(self.shares)
        if not shares or not all(0 < s < 1 for s in shares):
            raise InputError(f"shares must lie between 0 and 1, and there must be one; not {shares}")
        object.__setattr__(self, "shares", shares)

    def undefined(self, step: Step) -> str | None:
        """Constant scores keep the same share of every token."""
        return None

    def importances(self, step: Step) -> np.ndarray:
        """Scores in [0, 1], constant ones as ones."""
        return unit(step.scores) if np.ptp(step.scores) else np.ones(len(step.scores))

    def keeping(self, step: Step) -> list[np.ndarray]:
        """Chances to stay in proportion to the scores."""
        return [with_mean(self.importances(step), share) for share in self.shares]

    def removing(self, step: Step) -> list[np.ndarray]:
        """Chances to go in proportion to the scores."""
        return [1 - with_mean(self.importances(step), 1 - share) for share in self.shares]
