"""SmoothGrad: gradients averaged over noisy copies of the input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from attriflow.engine import EmbeddingReducer, Engine, Scores
from attriflow.engine.scores import Reduction
from attriflow.errors import InputError, check_least
from attriflow.methods._noise import Noise
from attriflow.registry import methods


@methods.register(
    "smooth_grad",
    family="gradient",
    blind="No sign; sensitivity around the input, where embeddings are no words, not what a token does.",
    cost="n forwards + T x n products",
    axes="step, input (embedding)",
    signed=False,
    paper="Smilkov et al. 2017, arXiv:1706.03825",
    demo={"n_samples": 10},
    trial={"n_samples": 4},
)
@dataclass(frozen=True)
class SmoothGrad:
    r"""Mean gradient over inputs with Gaussian noise; a token's score is the L2 norm over dimensions.

    $\frac{1}{n} \sum_k \partial f_t(x + \epsilon_k) / \partial x$, $\epsilon_k \sim \mathcal{N}(0, \sigma^2)$. The same
    noisy copies serve all steps; the error of the mean shrinks like $1/\sqrt{n}$.

    Attributes:
        n_samples: Noisy copies.
        stdev: $\sigma$ in standard deviations of the embedding table.
        multiply_by_inputs: Times the input embedding (as in input x gradient).
        internal_batch_size: At most this many sequences per model call; chosen by available memory when None.
        reduction: "norm" (L2 norm over dimensions) or "sum" (signed).
    """

    n_samples: int = 25
    stdev: float = 0.25
    multiply_by_inputs: bool = False
    internal_batch_size: int | None = None
    reduction: Reduction = "norm"

    def __post_init__(self) -> None:
        """Check the options before any model runs."""
        check_noise(self.n_samples, self.stdev, self.internal_batch_size, least=1)

    def __call__(self, engine: Engine) -> Scores:
        """Scores of a batch."""
        point = noisy(engine, self.n_samples, self.stdev)
        out = EmbeddingReducer(engine, self.reduction)
        samples = [float(i) for i in range(self.n_samples)]
        for _, grads in engine.gradients(point, samples, max_rows=self.internal_batch_size):
            for block, g in grads.items():
                mean = g / self.n_samples
                out.add(block, mean * engine.embeddings(block).unsqueeze(1) if self.multiply_by_inputs else mean)
        return out.scores()


def noisy(engine: Engine, n: int, stdev: float) -> Callable[[float], dict[str, Tensor]]:
    """Noisy input embeddings by block, `[batch, position, hidden]`, of the number of a sample."""
    noise = Noise(engine, stdev, n)
    inputs = {b: engine.embeddings(b).to(engine.dtype) for b in engine.blocks}
    return lambda number: {b: x + noise(b, int(number)) for b, x in inputs.items()}


def check_noise(n_samples: int, stdev: float, internal_batch_size: int | None, least: int) -> None:
    """Raise `InputError` for a wrong number of samples, width of the noise or size of a model call."""
    check_least("n_samples", n_samples, least)
    if internal_batch_size is not None:
        check_least("internal_batch_size", internal_batch_size)
    if stdev <= 0:
        raise InputError(f"stdev must be positive, not {stdev}")
