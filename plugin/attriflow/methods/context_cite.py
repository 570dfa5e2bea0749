"""ContextCite: a sparse linear model of which parts of the context a generation rests on."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from attriflow.engine import Engine, Scores
from attriflow.engine.baselines import Baseline
from attriflow.errors import InputError, check_least
from attriflow.methods._coalitions import Coalitions
from attriflow.registry import methods
from attriflow.texts.units import Unit

if TYPE_CHECKING:
    from numpy.typing import NDArray


@methods.register(
    "context_cite",
    family="perturbation",
    blind="Linear and sparse: no interactions, and weak sources get exactly 0; fits the model's reaction to "
    "texts with gaps.",
    cost="n forwards",
    signed=True,
    paper="Cohen-Wang et al. 2024, arXiv:2409.00729",
    floor=lambda problem, n_samples, **_: (1 + n_samples) * problem.forward(),
    demo={"unit": "word"},
    # effects in random models are tiny: else the sparse surrogate is all zeros
    trial={"unit": "word", "target": "logit", "alpha": 1e-4},
)
@dataclass(frozen=True)
class ContextCite:
    r"""Coefficients of a Lasso fitted to the scores of inputs from which random parts are absent.

    For every step,
    $\min_{\phi, c} \frac{1}{2n} \sum_s (g(f_t(x_s)) - c - z_s \cdot \phi)^2 + \alpha \sum_i \sigma_i |\phi_i|$
    over samples $z_s \in \{0, 1\}^M$ that keep each unit with probability `keep_prob`; $\sigma_i$ is the standard
    deviation of unit i's presence (the authors standardise features). The paper explains the logit of a probability:
    `attributed_fn="probability", target="logit"`. As `alpha` is in units of what is fitted, it must be much smaller
    where probabilities are fitted as they are. Only the context (source, or prompt) is ablated unless
    `ablate_generated` is set; generated tokens stay and get 0.

    Attributes:
        n_samples: Perturbed inputs.
        alpha: Penalty of the Lasso; larger values leave fewer units with a score.
        keep_prob: Probability that a unit is kept in a sample.
        target: What is fitted: the attributed function's "value", or the "logit" $\log p - \log(1 - p)$ of one that
            gives probabilities.
        ablate_generated: Ablate generated tokens of the prefix too.
        unit: What is absent together: "token", "word", "sentence", "paragraph", "segment" (of `segments=`) or "turn"
            (chats).
        baseline: What an absent token looks like: "unk", "pad", "mask", "eos", "bos", "zero", "mean" or a token id.
    """

    n_samples: int = 64
    alpha: float = 0.01
    keep_prob: float = 0.5
    target: Literal["value", "logit"] = "value"
    ablate_generated: bool = False
    unit: Unit = "sentence"
    baseline: Baseline = "unk"

    def __post_init__(self) -> None:
        """Check the options before any model runs."""
        check_least("n_samples", self.n_samples, 2)
        if not self.alpha > 0:
            raise InputError(f"alpha must be positive, not {self.alpha!r}")
        if not 0 < self.keep_prob < 1:
            raise InputError(f"keep_prob must lie between 0 and 1, not {self.keep_prob!r}")

    def __call__(self, engine: Engine) -> Scores:
        """Scores of a batch."""
        coalitions = Coalitions(engine, self.unit, self.baseline, generated=self.ablate_generated)
        if self.target == "logit":
            self._logit(engine, coalitions.full())  # before the many other passes
        keep = coalitions.uniform(self.n_samples, "context_cite") < self.keep_prob
        values = coalitions.values(self.n_samples, lambda start, stop: keep[start:stop])
        fitted = (self._logit(engine, values) if self.target == "logit" else values).numpy()
        effects = torch.zeros_like(coalitions.players, dtype=torch.float64)
        for row, example in enumerate(engine.examples):
            # steps with the same players share their samples: one Lasso with many targets
            players, group = np.unique(coalitions.players[row, : example.n_steps].numpy(), axis=0, return_inverse=True)
            for number, who in enumerate(players):
                steps = np.flatnonzero(group.reshape(-1) == number)
                if who.any():
                    found = self._lasso(keep[:, row].numpy()[:, who], fitted[:, row][:, steps])
                    effects[row, torch.from_numpy(steps)[:, None], torch.from_numpy(np.flatnonzero(who))] = found
        return coalitions.scores(effects)

    @staticmethod
    def _logit(engine: Engine, values: Tensor) -> Tensor:
        """Log-odds of probabilities, `[..., batch, step]`; those that rounding made 0 or 1 are moved inside."""
        if engine.objective.logarithm:
            values = values.exp()
        real = torch.where(engine.batch.host.step_mask, values, 0.5)
        if not ((real >= 0) & (real <= 1 + 1e-3)).all():
            raise InputError(
                "target='logit' needs an attributed function that gives probabilities, such as 'probability'"
            )
        edge = torch.finfo(engine.dtype)
        return torch.logit(real.clamp(edge.tiny, 1 - edge.eps))

    def _lasso(self, kept: NDArray[np.bool_], values: NDArray[np.float64]) -> Tensor:
        """Coefficients `[target, unit]` for samples `[sample, unit]` and values `[sample, target]`."""
        from sklearn.linear_model import lasso_path  # fitting a `Lasso` would be logged by `mlflow.autolog`

        spread = kept.std(0)
        spread = np.where(spread > 0, spread, 1.0)
        features = (kept - kept.mean(0)) / spread
        fit = functools.partial(
            lasso_path, np.asfortranarray(features), alphas=[self.alpha], tol=1e-10, max_iter=100_000
        )
        coefficients = np.stack([fit(target)[1][:, 0] for target in (values - values.mean(0)).T])
        return torch.from_numpy(coefficients / spread)
