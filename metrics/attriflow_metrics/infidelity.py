"""Infidelity."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attriflow.errors import check_least
from attriflow.registry import metrics
from attriflow_metrics._changes import Answers, Ask, How, Measured, Removal
from attriflow_metrics._steps import Step


@metrics.register(
    "infidelity",
    family="faithfulness",
    higher_is_better=False,
    range=(0.0, 1.0),
    requires=("captum",),
    cost="samples + 1 forward rows per step, the same for every method",
    source="Yeh et al. 2019 (arXiv 1901.09392), definition 2.1; computed by captum.metrics.infidelity",
    shared=True,
)
@dataclass(frozen=True, kw_only=True)
class Infidelity(Removal):
    r"""How far the scores are from adding up to what random removals do to the target's probability; lower is better.

    $$\mathbb{E}_I \big(\beta\, I^\top s - (p(y \mid x) - p(y \mid x \setminus I))\big)^2, \quad
    \beta = \frac{\mathbb{E}\, I^\top s\, \Delta_I}{\mathbb{E} (I^\top s)^2}$$

    with $I$ the random set of removable tokens that are replaced (each number of tokens is as likely), $s$ the signed
    scores and $\Delta_I$ the change. In [0, 1]. Source: Yeh et al. 2019, "On the (In)fidelity and Sensitivity of
    Explanations", by captum's `infidelity` with `normalize=True`: $\beta$ makes methods of different scales comparable.
    Order and magnitude count, the sign of all scores together does not, as $\beta$ may be negative. Scores of zero get
    what a constant prediction gets, the mean square of the changes.

    Skipped: "no input to remove", "scores are not finite", "the model's score is NaN".

    Attributes:
        perturbation: "baseline" replaces tokens, see `Rescore`.
        n_samples: Random removals; the same for every method.
        seed: Seeds them.
    """

    perturbation: How = "baseline"
    n_samples: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options."""
        check_least("n_samples", self.n_samples)

    def _asks(self, step: Step) -> list[Ask]:
        gone = removals(len(step.inputs), self.n_samples, self.seed)
        return [
            Ask(tuple(i for i, out in zip(step.inputs, row, strict=True) if not out), how=self.how)
            for row in gone.tolist()
        ]

    def asked(self, step: Step) -> Iterator[Ask]:
        """The unchanged input and the random removals."""
        yield self.whole(step)
        yield from self._asks(step)

    def measure(self, step: Step, answers: Answers) -> Measured:
        """The number that captum gives, from inputs that are 1 where a token is there."""
        from captum.metrics import infidelity

        gone = torch.from_numpy(removals(len(step.inputs), self.n_samples, self.seed).astype(float))
        whole, changed = answers.probability(self.whole(step)), [answers.probability(ask) for ask in self._asks(step)]

        def forward(present: Tensor) -> Tensor:  # captum asks for the input itself, then for all removals in order
            return torch.tensor([whole] if len(present) == 1 and bool(present.all()) else changed, dtype=torch.float64)

        value = infidelity(
            forward,
            lambda present: (gone, present - gone),
            torch.ones((1, len(step.inputs)), dtype=torch.float64),
            torch.from_numpy(np.ascontiguousarray(step.scores))[None],
            n_perturb_samples=self.n_samples,
            normalize=True,
        )
        return Measured(float(value))


@functools.lru_cache(maxsize=256)
def removals(n: int, n_samples: int, seed: int) -> np.ndarray:
    """Random sets of `n` inputs, bool `[sample, input]`: a size from 1 to `n`, then the members."""
    rng = np.random.default_rng((seed, n))
    sizes = rng.integers(1, n + 1, size=n_samples)
    return np.asarray(rng.random((n_samples, n)).argsort(1).argsort(1) < sizes[:, None])
