"""Kernel SHAP: Shapley values from a weighted linear model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attriflow.engine import Engine, Scores
from attriflow.engine.baselines import Baseline
from attriflow.errors import check_least
from attriflow.methods._coalitions import Coalitions, least_squares
from attriflow.registry import methods
from attriflow.texts.units import Unit


@methods.register(
    "kernel_shap",
    family="perturbation",
    blind="Sets of tokens are texts that the model has never seen; with few samples, single values are noise "
    "though their sum is exact.",
    cost="n + 2 forwards",
    signed=True,
    complete=True,
    paper="Lundberg and Lee 2017, arXiv:1705.07874",
    floor=lambda problem, n_samples, **_: (1 + n_samples) * problem.forward(),
    demo={"n_samples": 128},
    trial={"n_samples": 32},
)
@dataclass(frozen=True)
class KernelShap:
    r"""Shapley values as the solution of a weighted least-squares problem over sampled coalitions.

    For every step, $\min_\phi \sum_z \pi(z) (f_t(x_z) - f_t(x_\emptyset) - z \cdot \phi)^2$ under the constraint
    $\sum_i \phi_i = f_t(x) - f_t(x_\emptyset)$, with the Shapley kernel
    $\pi(z) = (M - 1) / (\binom{M}{|z|} |z| (M - |z|))$ of the M units that the step sees.

    One sample serves all steps, though each has its own M: a sample draws p uniformly and keeps each unit with
    probability p, so that among any M units all coalition sizes are equally likely, and a step weighs it by the kernel
    over that probability, $1 / (|z| (M - |z|))$. Every sample comes with its complement. Scores of units sum to
    $f_t(x) - f_t(x_\emptyset)$ exactly; with fewer samples than units, they are the solution nearest to equal shares.

    Attributes:
        n_samples: Coalitions.
        unit: What is absent together: "token", "word", "sentence", "paragraph", "segment" (of `segments=`) or "turn"
            (chats).
        baseline: What an absent token looks like: "unk", "pad", "mask", "eos", "bos", "zero", "mean" or a token id.
    """

    n_samples: int = 256
    unit: Unit = "token"
    baseline: Baseline = "unk"

    def __post_init__(self) -> None:
        """Check the options before any model runs."""
        check_least("n_samples", self.n_samples, 2)

    def __call__(self, engine: Engine) -> Scores:
        """Scores of a batch."""
        coalitions = Coalitions(engine, self.unit, self.baseline)
        pairs = (self.n_samples + 1) // 2
        chosen = coalitions.uniform(pairs, "kernel_shap") < coalitions.uniform_samples(pairs, "kernel_shap:p")
        keep = torch.stack([chosen, ~chosen], 1).flatten(0, 1)[: self.n_samples]
        ends = torch.stack([torch.zeros_like(keep[0]), torch.ones_like(keep[0])])
        versions = torch.cat([keep, ends])  # everything absent and everything there, in the same calls as the samples
        *values, empty, full = coalitions.values(len(versions), lambda start, stop: versions[start:stop])
        gain = full - empty  # [batch, step]
        values = torch.stack(values) - empty
        effects = torch.zeros_like(coalitions.players, dtype=torch.float64)
        for row, steps, design, players in coalitions.designs(keep):
            found = _solve(design, values[:, row, steps].T, gain[row, steps], players)
            effects[row, steps, : found.shape[-1]] = found
        return coalitions.scores(effects)


def _solve(design: Tensor, values: Tensor, gain: Tensor, players: Tensor) -> Tensor:
    """Shapley values `[step, unit]`: equal shares of the gain plus deviations that sum to 0.

    The constraint is met by construction: the samples are projected onto vectors that sum to 0 over the players, and
    the smallest solution lies in their span.
    """
    n_players = players.sum(-1)  # [step, 1]
    share = gain.unsqueeze(-1) / n_players.clamp(min=1)
    size = design.sum(-1)  # [step, sample]
    weights = 1 / (size * (n_players - size)).clamp(min=1)
    weights = torch.where((size > 0) & (size < n_players), weights, 0.0)
    centred = (design - (size / n_players.clamp(min=1)).unsqueeze(-1)) * players
    return (share + least_squares(centred, values - size * share, weights)) * players.squeeze(1)
