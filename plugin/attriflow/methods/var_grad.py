"""VarGrad: variance of the gradient over noisy copies of the input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attriflow.engine import EmbeddingReducer, Engine, Scores
from attriflow.engine.scores import Reduction
from attriflow.methods.smooth_grad import check_noise, noisy
from attriflow.registry import methods


@methods.register(
    "var_grad",
    family="gradient",
    blind="No sign; large where the gradient varies around the input, not where it or the effect is large.",
    cost="n forwards + T x n products",
    axes="step, input (embedding)",
    signed=False,
    paper="Adebayo et al. 2018, arXiv:1810.03292",
    demo={"n_samples": 10},
    trial={"n_samples": 4},
)
@dataclass(frozen=True)
class VarGrad:
    r"""Variance of the gradient over inputs with Gaussian noise, summed over embedding dimensions.

    $\frac{1}{n - 1} \sum_k (g_k - \bar g)^2$ with $g_k = \partial f_t(x + \epsilon_k) / \partial x$. The noisy copies
    are those of `smooth_grad` with the same seed.

    Attributes:
        n_samples: Noisy copies (at least 2).
        stdev: Width of the noise in standard deviations of the embedding table.
        internal_batch_size: At most this many sequences per model call; chosen by available memory when None.
        reduction: "sum" (total variance) or "norm" over dimensions.
    """

    n_samples: int = 25
    stdev: float = 0.25
    internal_batch_size: int | None = None
    reduction: Reduction = "sum"

    def __post_init__(self) -> None:
        """Check the options before any model runs."""
        check_noise(self.n_samples, self.stdev, self.internal_batch_size, least=2)

    def __call__(self, engine: Engine) -> Scores:
        """Scores of a batch."""

        def moments(_block: str, grads: Tensor, _numbers: Sequence[float]) -> Tensor:
            grads = grads.double()  # the difference of two moments would lose digits in single precision
            return torch.cat([grads.sum(1), grads.square().sum(1)], -1)

        out, n = EmbeddingReducer(engine, self.reduction), self.n_samples
        point = noisy(engine, n, self.stdev)
        samples = [float(i) for i in range(n)]
        for _, grads in engine.gradients(point, samples, max_rows=self.internal_batch_size, reduce=moments):
            for block, g in grads.items():
                first, second = g.chunk(2, -1)
                variance = (second - first.square() / n).clamp(min=0) / (n - 1)
                out.add(block, variance.to(engine.dtype))
        return out.scores()
