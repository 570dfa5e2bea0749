"""Mean drops of the target's score over shares of the tokens, removed or kept."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from attriflow.statistics.ranks import descending
from attriflow_metrics._changes import Answers, Ask, Measured, Removal
from attriflow_metrics._curves import FRACTIONS, check_fractions, counts, without
from attriflow_metrics._steps import Step


@dataclass(frozen=True, kw_only=True)
class Drop(Removal):
    """Base: the mean drop of the score over shares of the removable tokens.

    Attributes:
        fractions: Shares of the removable tokens that are selected; a share that makes less than one token is left out.
        only_pos: Select only tokens with a score above 0.
    """

    fractions: tuple[float, ...] = FRACTIONS
    only_pos: bool = True
    in_nats: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the options."""
        object.__setattr__(self, "fractions", check_fractions(tuple(self.fractions)))

    def score(self, log_probability: float) -> float:
        """What drops: the log-probability itself, in nats."""
        return log_probability

    @abstractmethod
    def changed(self, step: Step, selected: np.ndarray, others: np.ndarray) -> tuple[int, ...]:
        """The inputs that stay when some places are selected."""

    def sizes(self, step: Step) -> list[int]:
        """How many tokens are selected at each share."""
        return counts(len(step.inputs), self.fractions)

    def _changes(self, step: Step) -> list[Ask]:
        order = descending(step.scores)
        positive = int((step.scores > 0).sum()) if self.only_pos else len(order)
        sizes = dict.fromkeys(min(k, positive) for k in self.sizes(step))
        return [Ask(self.changed(step, order[:k], order[k:]), how=self.how) for k in sizes]

    def asked(self, step: Step) -> Iterator[Ask]:
        """The unchanged input and every changed one."""
        yield self.whole(step)
        yield from self._changes(step)

    def measure(self, step: Step, answers: Answers) -> Measured:
        """Mean drop."""
        whole = self.score(answers[self.whole(step)])
        drops = [whole - self.score(answers[ask]) for ask in self._changes(step)]
        return Measured(math.fsum(drops) / len(drops)) if drops else Measured(None, "too few inputs for any fraction")


@dataclass(frozen=True, kw_only=True)
class Removing(Drop):
    """The selected tokens go."""

    def changed(self, step: Step, selected: np.ndarray, others: np.ndarray) -> tuple[int, ...]:
        """All but the selected."""
        return without(step, selected)


@dataclass(frozen=True, kw_only=True)
class Keeping(Drop):
    """Only the selected tokens stay."""

    def changed(self, step: Step, selected: np.ndarray, others: np.ndarray) -> tuple[int, ...]:
        """The selected."""
        return without(step, others)
