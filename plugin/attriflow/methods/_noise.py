"""Gaussian noise on input embeddings that belongs to an example and a sample number."""

from __future__ import annotations

import torch
from torch import Tensor

from attriflow.engine import Engine
from attriflow.methods._draws import generator

BLOCK = 2**22
"""Numbers that are drawn, and go to a device, at once."""


class Noise:
    """Noise by block and sample, with a standard deviation of `scale` times that of the embedding table.

    The table's spread is the unit because the spread of one input would change with its later tokens.
    """

    def __init__(self, engine: Engine, scale: float, n: int) -> None:
        """For `n` samples."""
        self.engine, self.scale, self.n = engine, scale, n
        self._spread: dict[str, Tensor] = {}
        self._drawn: dict[str, tuple[int, Tensor]] = {}

    def __call__(self, block: str, sample: int) -> Tensor:
        """The noise of a sample, `[batch, position, hidden]`."""
        first, drawn = self._drawn.get(block, (0, None))
        if drawn is None or not first <= sample < first + len(drawn):
            first, drawn = self._drawn[block] = sample, self._draw(block, sample)
        return drawn[sample - first]

    def _draw(self, block: str, first: int) -> Tensor:
        """Samples from one on, `[sample, batch, position, hidden]`."""
        engine, shape = self.engine, self.engine.embeddings(block).shape
        if block not in self._spread:
            self._spread[block] = (engine.model.embedding_table(block).std() * self.scale).to(engine.dtype)
        last = min(self.n, first + max(1, BLOCK // shape.numel()))
        out = torch.empty((last - first, *shape), dtype=engine.dtype)
        for sample in range(first, last):
            for row, example in enumerate(engine.examples):
                rng = generator(engine.seed, example, f"noise/{block}/{sample}")
                out[sample - first, row] = torch.from_numpy(rng.standard_normal(shape[1:]))
        return out.to(engine.model.device) * self._spread[block]


def uniform(engine: Engine, n: int, purpose: str) -> Tensor:
    """Numbers in [0, 1), `[sample, batch]`."""
    draws = [torch.from_numpy(generator(engine.seed, e, purpose).random(n)) for e in engine.examples]
    return torch.stack(draws, 1).to(engine.model.device, engine.dtype)
