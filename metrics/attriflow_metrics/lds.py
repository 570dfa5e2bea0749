"""The linear datamodeling score."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from attriflow.errors import check_least
from attriflow.registry import metrics
from attriflow.statistics.ranks import spearman
from attriflow_metrics._changes import Answers, Ask, Measured
from attriflow_metrics._sources import CONSTANT, ONE_SOURCE, FromSources
from attriflow_metrics._steps import Step


@metrics.register(
    "lds",
    family="faithfulness",
    higher_is_better=True,
    range=(-1.0, 1.0),
    cost="samples forward rows per answer, the same for every method",
    source="Cohen-Wang et al. 2024, ContextCite (arXiv 2409.00729), eq. 4; Park et al. 2023, TRAK (2303.14186)",
    shared=True,
)
@dataclass(frozen=True, kw_only=True)
class LinearDatamodelingScore(FromSources):
    r"""How well sums of scores predict what random ablations leave of the whole response; higher is better.

    $$\rho\Big(\big(f(v_1), \dots, f(v_m)\big), \big(\textstyle\sum_j \tau_j v_{1j}, \dots, \sum_j \tau_j v_{mj}\big)
    \Big)$$

    Spearman's rank correlation over $m$ random ablations, in each of which every source stays ($v_{ij} = 1$) with
    probability 1/2; $\tau$ are the signed scores, their mean over the steps, and $f$ is the log-probability of the
    response. ContextCite takes the logit of the probability, which has the same ranks. In [-1, 1]; 0 for scores that
    predict nothing. The ablations are drawn apart from those that any method explains by, and are the same for every
    method. Source: Cohen-Wang et al. 2024, "ContextCite", after Park et al. 2023, "TRAK", where sources are training
    examples.

    Steps are not looked at one by one: one value for the whole explanation. Tokens of the response stay. Skipped:
    "constant scores" and "a single source has no order" (both cost no forward rows), "constant log-probabilities",
    "constant predictions", "no input to remove", "scores are not finite" (at any step), "the model's score is NaN".

    Attributes:
        unit: What a source is: "token", "word", "sentence", "paragraph", "segment" (of `segments=`) or "turn" (chats).
            Its score is the sum of its tokens' scores; their mean where the method scored units itself.
        perturbation: What ablating a token means, see `Rescore`; ContextCite deletes sources.
        n_samples: Random ablations ($m$).
        seed: Seeds them.
    """

    n_samples: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options."""
        check_least("n_samples", self.n_samples, 2)

    def undefined(self, step: Step) -> str | None:
        """What has no order."""
        if len(step.scores) == 1:
            return ONE_SOURCE
        return CONSTANT if np.ptp(step.scores) == 0 else None

    def _asks(self, step: Step) -> list[Ask]:
        kept = ablations(len(step.scores), self.n_samples, self.seed)
        return [self.without(step, np.flatnonzero(~row).tolist()) for row in kept]

    def asked(self, step: Step) -> Iterator[Ask]:
        """The random ablations."""
        yield from self._asks(step)

    def measure(self, step: Step, answers: Answers) -> Measured:
        """Rank correlation of what is left with what the scores predict."""
        left = np.array([answers[ask] for ask in self._asks(step)])
        # fsum: equal sets of sources have equal sums, whatever the order of the terms
        rows = ablations(len(step.scores), self.n_samples, self.seed)
        predicted = np.array([math.fsum(step.scores[row].tolist()) for row in rows])
        for values, what in ((left, "log-probabilities"), (predicted, "predictions")):
            if (values == values[0]).all():
                return Measured(None, f"constant {what}")
        return Measured(spearman(left, predicted))


@functools.lru_cache(maxsize=256)
def ablations(n: int, n_samples: int, seed: int) -> np.ndarray:
    """Which of `n` sources stay, bool `[sample, source]`: each with probability 1/2."""
    return np.asarray(np.random.default_rng((seed, n, 1)).random((n_samples, n)) < 0.5)
