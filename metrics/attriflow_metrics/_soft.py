"""Soft comprehensiveness and sufficiency: elements of embeddings go by chance, in proportion to the scores."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from attriflow.errors import check_least
from attriflow_metrics._changes import Answers, Ask, FromChanges, Measured
from attriflow_metrics._steps import Step

CONSTANT = "constant scores"
NOTHING_TO_LOSE = "the target is hardly likelier than without any input"
SMALLEST_GAIN = 0.01
"""What an input must add to the target's probability, as losses are measured in shares of it."""


@dataclass(frozen=True, kw_only=True)
class Soft(FromChanges):
    """Base of the soft metrics.

    Attributes:
        n_draws: Draws of which elements stay, averaged; all methods and steps share their random numbers.
    """

    n_draws: int = 2

    def __post_init__(self) -> None:
        """Check the options."""
        check_least("n_draws", self.n_draws)

    @abstractmethod
    def chances(self, step: Step) -> list[np.ndarray]:
        """Chances of the step's inputs to stay, one array `[input]` for each term of the mean."""

    @abstractmethod
    def term(self, whole: float, nothing: float, changed: float) -> float:
        """One term, from the probabilities of the target with all, no and some elements."""

    def undefined(self, step: Step) -> str | None:
        """What cannot be scaled to [0, 1]."""
        return CONSTANT if np.ptp(step.scores) == 0 else None

    def _whole(self, step: Step) -> Ask:
        return Ask(step.inputs)

    def _nothing(self, step: Step) -> Ask:
        return Ask(chances=(0.0,) * len(step.inputs), how="soft")

    def _changed(self, step: Step) -> list[Ask]:
        # as the model will see them: float32 makes equal what is equal but for rounding
        rows = [tuple(np.float32(c).tolist()) for c in self.chances(step)]
        return [Ask(chances=row, how="soft", draw=draw) for row in rows for draw in range(self.n_draws)]

    def asked(self, step: Step) -> Iterator[Ask]:
        """The whole input, none of it, and the thinned ones."""
        yield self._whole(step)
        yield self._nothing(step)
        yield from self._changed(step)

    def measure(self, step: Step, answers: Answers) -> Measured:
        """Mean over draws (and shares)."""
        whole, nothing = answers.probability(self._whole(step)), answers.probability(self._nothing(step))
        if whole - nothing < SMALLEST_GAIN:
            return Measured(None, NOTHING_TO_LOSE)
        terms = [self.term(whole, nothing, answers.probability(ask)) for ask in self._changed(step)]
        return Measured(math.fsum(terms) / len(terms))


@dataclass(frozen=True, kw_only=True)
class SoftComprehensiveness(Soft):
    """What is lost, as a share of what can be lost."""

    def term(self, whole: float, nothing: float, changed: float) -> float:
        """Soft-C over 1 - S(x, y, 0), Zhao and Aletras 2023, equations 5 and 6."""
        return max(0.0, whole - changed) / (whole - nothing)


@dataclass(frozen=True, kw_only=True)
class SoftSufficiency(Soft):
    """What is there, as a share of what can be there."""

    def term(self, whole: float, nothing: float, changed: float) -> float:
        """Soft-S normalised by S(x, y, 0), Zhao and Aletras 2023, equations 3 and 4."""
        soft, none = 1 - max(0.0, whole - changed), 1 - (whole - nothing)
        return (soft - none) / (1 - none)


def unit(scores: np.ndarray) -> np.ndarray:
    """Scores scaled to [0, 1], smallest to 0 and largest to 1."""
    return np.asarray((scores - scores.min()) / np.ptp(scores))


def with_mean(scores: np.ndarray, mean: float) -> np.ndarray:
    """Chances in [0, 1] in proportion to scores in [0, 1], with a given mean.

    Scaled, and cut at 1; what is cut off goes to the others in proportion, and, when all that have a score are at 1, to
    those without one evenly.
    """
    n, wanted = len(scores), mean * len(scores)
    out = np.zeros(n)
    free = scores > 0
    while free.any():
        scaled = scores * (wanted - out[~free].sum()) / scores[free].sum()
        over = free & (scaled >= 1)
        if not over.any():
            out[free] = scaled[free]
            return out
        out[over] = 1.0
        free &= ~over
    rest = out < 1
    if rest.any():
        out[rest] = max(0.0, wanted - out.sum()) / rest.sum()
    return np.asarray(np.clip(out, 0, 1))
