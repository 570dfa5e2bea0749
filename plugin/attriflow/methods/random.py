"""Random scores with a sign: the control every leaderboard needs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attriflow.engine import Engine, Scores
from attriflow.kernels.seeds import hashed
from attriflow.registry import methods
from attriflow.types import Example


@methods.register(
    "random",
    family="control",
    blind="Looks neither at the model nor at the words.",
    cost="nothing",
    signed=True,
    runs_model=False,
)
@dataclass(frozen=True)
class Random:
    """Uniform scores in [-1, 1), drawn from the seed and the example's own ids.

    Half of them are negative, as metrics that remove positive scores only (ERASER's) find it with methods that have a
    sign; `random_unsigned` is the control of those that have none. The same example gets the same scores alone, in any
    batch and in any order.
    """

    def __call__(self, engine: Engine) -> Scores:
        """Scores of a batch."""
        return Scores({block: 2 * scores - 1 for block, scores in uniform(engine).items()})


def uniform(engine: Engine) -> dict[str, Tensor]:
    """Numbers in [0, 1) for every block, `[batch, step, position]`."""
    widths = {b: engine.ids(b).shape[1] for b in engine.blocks}
    shape = (engine.batch.size, engine.batch.n_steps)
    blocks = {b: torch.zeros((*shape, w), dtype=engine.dtype) for b, w in widths.items()}
    for row, example in enumerate(engine.examples):
        generator = torch.Generator().manual_seed(example_seed(engine.seed, example))
        for block, scores in blocks.items():
            n = len(example.source) if block == "source" else len(example.target) - 1
            drawn = torch.rand((example.n_steps, n), generator=generator, dtype=torch.float64)
            n = min(n, scores.shape[-1])
            scores[row, : example.n_steps, :n] = drawn[:, :n].to(scores.dtype)
    return blocks


def example_seed(seed: int, example: Example) -> int:
    """A seed that depends on the example itself, not on its place in a batch."""
    return hashed(seed, example.source_ids, example.target_ids, example.start) % 2**63
