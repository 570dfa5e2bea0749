"""Gaussian noise on input embeddings that belongs to an example and a sample number."""

from __future__ import annotations

import torch
from torch import Tensor

from attriflow.engine import Engine
from attriflow.methods._draws import generator


def gaussian(engine: Engine, block: str, sample: int, scale: float) -> Tensor:
    """Noise `[batch, position, hidden]` with a standard deviation of `scale` times that of the embedding table.

    The table's spread is the unit because the spread of one input would change with its later tokens.
    """
    n = engine.ids(block).shape[1]
    width = engine.embeddings(block).shape[-1]
    rows = []
    for example in engine.examples:
        rng = generator(engine.seed, example, f"noise/{block}/{sample}")
        rows.append(torch.from_numpy(rng.standard_normal((n, width))))
    spread = engine.model.embedding_table(block).std() * scale
    noise = torch.stack(rows).to(engine.model.device)
    return noise.to(engine.dtype) * spread.to(engine.dtype)


def uniform(engine: Engine, n: int, purpose: str) -> Tensor:
    """Numbers in [0, 1), `[sample, batch]`."""
    draws = [torch.from_numpy(generator(engine.seed, e, purpose).random(n)) for e in engine.examples]
    return torch.stack(draws, 1).to(engine.model.device, engine.dtype)
