"""Curves of the target's probability while inputs go or come in the order of their scores, and areas under them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from attriflow.errors import InputError
from attriflow.statistics.ranks import descending
from attriflow_metrics._changes import Answers, Ask, Curve, Measured, Removal
from attriflow_metrics._steps import Step

FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def check_fractions(fractions: tuple[float, ...]) -> tuple[float, ...]:
    """Fractions in ascending order; an error for other numbers."""
    fractions = tuple(sorted(fractions))
    if not fractions or not all(0 < f <= 1 for f in fractions):
        raise InputError(f"fractions must lie above 0 and up to 1, and there must be one; not {fractions}")
    return fractions


def counts(n: int, fractions: Iterable[float]) -> list[int]:
    """How many of `n` inputs the fractions make, rounded down as ferret does; each number once, 0 left out."""
    return sorted({int(f * n) for f in fractions} - {0})


def without(step: Step, gone: np.ndarray) -> tuple[int, ...]:
    """The inputs that stay when those at some places are gone."""
    places = set(gone.tolist())
    return tuple(i for place, i in enumerate(step.inputs) if place not in places)


def area(curve: Curve) -> float:
    """Area under a curve by the trapezoidal rule."""
    x, y = np.array(curve).T
    return float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum())


@dataclass(frozen=True, kw_only=True)
class Curves(Removal):
    """Base of the metrics that read a perturbation curve.

    Attributes:
        fractions: Shares of the removable tokens at which the curve is measured; its ends, 0 and 1, always are.
    """

    fractions: tuple[float, ...] = FRACTIONS
    has_curve: ClassVar[bool] = True
    """Held against the curve of as many random tokens."""

    def __post_init__(self) -> None:
        """Check the options."""
        object.__setattr__(self, "fractions", check_fractions(tuple(self.fractions)))

    def deletions(self, step: Step) -> list[tuple[float, Ask]]:
        """(Share that is gone, input without the most relevant), from nothing gone to everything."""
        order, n = descending(step.scores), len(step.inputs)
        return [(k / n, Ask(without(step, order[:k]), how=self.how)) for k in self._numbers(n)]

    def insertions(self, step: Step) -> list[tuple[float, Ask]]:
        """(Share that is there, input with the most relevant only), from nothing there to everything."""
        order, n = descending(step.scores), len(step.inputs)
        return [(k / n, Ask(without(step, order[k:]), how=self.how)) for k in self._numbers(n)]

    def _numbers(self, n: int) -> list[int]:
        return sorted({0, n, *counts(n, self.fractions)})

    def asked(self, step: Step) -> Iterator[Ask]:
        """Every point of the curve."""
        yield from (ask for _, ask in self.points(step))

    @abstractmethod
    def points(self, step: Step) -> list[tuple[float, Ask]]:
        """(x, changed input) of each point, x ascending."""

    def measure(self, step: Step, answers: Answers) -> Measured:
        """Area under the curve, and the curve."""
        curve = tuple((x, answers.probability(ask)) for x, ask in self.points(step))
        return Measured(area(curve), curve=curve)
