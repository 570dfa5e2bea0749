"""LIME: a weighted linear model of what happens when parts of the input are absent."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attriflow.engine import Engine, Scores
from attriflow.engine.baselines import Baseline
from attriflow.errors import InputError, check_least
from attriflow.methods._coalitions import Coalitions, least_squares
from attriflow.registry import methods
from attriflow.texts.units import Unit


@methods.register(
    "lime",
    family="perturbation",
    blind="A linear model: no interactions; what counts as near is the kernel's choice, and few samples leave noise.",
    cost="n + 1 forwards",
    signed=True,
    paper="Ribeiro et al. 2016, arXiv:1602.04938",
    floor=lambda problem, n_samples, **_: (1 + n_samples) * problem.forward(),
    demo={"n_samples": 128},
    trial={"n_samples": 32},
)
@dataclass(frozen=True)
class Lime:
    r"""Coefficients of a linear model fitted to the scores of randomly perturbed inputs near the input.

    For every step, $\min_{\phi, c} \sum_s \pi_s (f_t(x_s) - c - z_s \cdot \phi)^2 + \alpha |\phi|^2$ over samples
    $z_s \in \{0, 1\}^M$ of the M units that the step sees (and the input itself), weighted by
    $\pi_s = \exp(-d_s^2 / \mathrm{width}^2)$ with the cosine distance $d_s = 1 - \sqrt{|z_s| / M}$ to the input. The
    same samples serve all steps.

    Attributes:
        n_samples: Perturbed inputs.
        mask_prob: Probability that a unit is absent from a sample.
        alpha: Ridge penalty; 0 for none.
        kernel_width: Width of the kernel; large values weigh all samples alike.
        unit: What is absent together: "token", "word", "sentence", "paragraph", "segment" (of `segments=`) or "turn"
            (chats).
        baseline: What an absent token looks like: "unk", "pad", "mask", "eos", "bos", "zero", "mean" or a token id.
        return_fit: Add the step score `fit_r2`: the weighted share of variance that the linear model explains.
    """

    n_samples: int = 256
    mask_prob: float = 0.3
    alpha: float = 0.01
    kernel_width: float = 0.25
    unit: Unit = "token"
    baseline: Baseline = "unk"
    return_fit: bool = False

    def __post_init__(self) -> None:
        """Check the options before any model runs."""
        check_least("n_samples", self.n_samples)
        if not 0 < self.mask_prob < 1:
            raise InputError(f"mask_prob must lie between 0 and 1, not {self.mask_prob!r}")
        if not self.alpha >= 0:
            raise InputError(f"alpha must be at least 0, not {self.alpha!r}")
        if not self.kernel_width > 0:
            raise InputError(f"kernel_width must be positive, not {self.kernel_width!r}")

    def __call__(self, engine: Engine) -> Scores:
        """Scores of a batch."""
        coalitions = Coalitions(engine, self.unit, self.baseline)
        keep = coalitions.uniform(self.n_samples, "lime") >= self.mask_prob
        keep = torch.cat([keep, torch.ones_like(keep[:1])])  # the whole input, in the same calls as the samples
        values = coalitions.values(len(keep), lambda start, stop: keep[start:stop])  # [sample, batch, step]
        effects = torch.zeros_like(coalitions.players, dtype=torch.float64)
        fit = torch.ones(engine.batch.step_mask.shape, dtype=torch.float64)
        for row, steps, design, players in coalitions.designs(keep):
            found, fit[row, steps] = self._fit(design, values[:, row, steps].T, players.sum(-1))
            effects[row, steps, : found.shape[-1]] = found
        return coalitions.scores(effects, {"fit_r2": fit} if self.return_fit else None)

    def _fit(self, design: Tensor, values: Tensor, n_players: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients `[step, unit]` and weighted R squared `[step]`."""
        kept = design.sum(-1) / n_players.clamp(min=1)
        weights = torch.exp(-(((1 - kept.sqrt()) / self.kernel_width) ** 2))  # [step, sample]
        weights = torch.where(n_players > 0, weights, 1.0)
        share = (weights / weights.sum(-1, keepdim=True)).unsqueeze(-1)
        # the intercept is free: it is what remains when everything is measured from its weighted mean
        design = design - (design * share).sum(1, keepdim=True)
        values = values - (values * share.squeeze(-1)).sum(-1, keepdim=True)
        found = least_squares(design, values, weights, self.alpha)
        rest = values - (design @ found.unsqueeze(-1)).squeeze(-1)
        total, left = (weights * values**2).sum(-1), (weights * rest**2).sum(-1)
        return found, torch.where(total > 0, 1 - left / total.clamp(min=torch.finfo(total.dtype).tiny), 1.0)
