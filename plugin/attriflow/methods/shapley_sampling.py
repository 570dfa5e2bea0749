"""Shapley values from random permutations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attriflow.engine import Engine, Scores
from attriflow.engine.baselines import Baseline
from attriflow.errors import check_least
from attriflow.methods._coalitions import Coalitions
from attriflow.registry import methods
from attriflow.texts.units import Unit

VALUES = 2**24
"""Scores that are held at once."""


@methods.register(
    "shapley_sampling",
    family="perturbation",
    blind="Sets of tokens are texts that the model has never seen; with few orders, single values are noise "
    "though their sum is exact.",
    cost="n x (units - 1) + 2 forwards",
    signed=True,
    complete=True,
    paper="Castro et al. 2009, doi:10.1016/j.cor.2008.04.004; Strumbelj and Kononenko 2014",
    # a permutation adds one input after the other
    floor=lambda problem, n_samples, **_: problem.forward() + n_samples * problem.one_by_one(),
    demo={"n_samples": 8},
    trial={"n_samples": 4},
    memory=lambda sizes, n_samples, **_: sizes.rescored(n_samples * sizes.tokens),
)
@dataclass(frozen=True)
class ShapleySampling:
    r"""Mean gain from adding a unit to those before it in a random order.

    $\frac{1}{n} \sum_\pi f_t(x_{\pi \le i}) - f_t(x_{\pi < i})$, an unbiased estimate of the Shapley value. An order of
    all units is an order of those that a step sees (the others change nothing for it), so the same permutations serve
    all steps. For every permutation the scores of units sum to $f_t(x) - f_t(x_\emptyset)$.

    Attributes:
        n_samples: Permutations.
        antithetic: Every second permutation is the one before it reversed, which lowers the variance.
        unit: What is absent together: "token", "word", "sentence", "paragraph", "segment" (of `segments=`) or "turn"
            (chats).
        baseline: What an absent token looks like: "unk", "pad", "mask", "eos", "bos", "zero", "mean" or a token id.
    """

    n_samples: int = 32
    antithetic: bool = True
    unit: Unit = "token"
    baseline: Baseline = "unk"

    def __post_init__(self) -> None:
        """Check the options before any model runs."""
        check_least("n_samples", self.n_samples)

    def __call__(self, engine: Engine) -> Scores:
        """Scores of a batch."""
        coalitions = Coalitions(engine, self.unit, self.baseline)
        ranks = self._ranks(coalitions)  # [permutation, batch, unit]
        empty, full = coalitions.ends()
        effects = torch.zeros_like(coalitions.players, dtype=torch.float64)
        size = max(1, VALUES // (full.numel() * coalitions.n_units))
        for some in ranks.split(size):
            effects += self._gains(coalitions, some, empty, full)
        return coalitions.scores(effects / self.n_samples)

    def _ranks(self, coalitions: Coalitions) -> Tensor:
        """Place of each unit in each permutation: the rank of a random number that belongs to the unit."""
        drawn = coalitions.uniform(-(-self.n_samples // 2) if self.antithetic else self.n_samples, "shapley_sampling")
        if self.antithetic:
            drawn = torch.stack([drawn, 1 - drawn], 1).flatten(0, 1)[: self.n_samples]
        units = torch.arange(coalitions.n_units)
        real = units < torch.tensor(coalitions.counts).unsqueeze(-1)
        # an example with fewer units repeats its full coalition at the end
        return torch.where(real, drawn, 2.0 + units).argsort(-1).argsort(-1)

    @staticmethod
    def _gains(coalitions: Coalitions, ranks: Tensor, empty: Tensor, full: Tensor) -> Tensor:
        """Sum over permutations of the gain from each unit, `[batch, step, unit]`."""
        n, inner = len(ranks), coalitions.n_units - 1

        def keep(start: int, stop: int) -> Tensor:  # the first `place + 1` units of a permutation
            version = torch.arange(start, stop)
            return ranks[version // inner] <= (version % inner).view(-1, 1, 1)

        ends = (empty.expand(n, 1, *empty.shape), full.expand(n, 1, *full.shape))
        between = (
            coalitions.values(n * inner, keep).unflatten(0, (n, inner))
            if inner
            else empty.new_zeros((n, 0, *empty.shape))
        )
        gains = torch.cat([ends[0], between, ends[1]], 1).diff(dim=1)  # [permutation, place, batch, step]
        gains = gains.permute(0, 2, 3, 1)
        return gains.gather(3, ranks.unsqueeze(2).expand(-1, -1, gains.shape[2], -1)).sum(0)
