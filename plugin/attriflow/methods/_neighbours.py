"""Nearest neighbours in the embedding table, found when asked for and kept for as long as the model lives."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from attriflow.models.base import LanguageModel
from attriflow.models.offload import weight_of

_known: WeakKeyDictionary[LanguageModel, dict[tuple[object, ...], Tensor]] = WeakKeyDictionary()
_CHUNK = 2**24
"""Distances computed at once."""


@torch.no_grad()
def neighbours(model: LanguageModel, block: str, ids: Tensor, k: int) -> Tensor:
    """The `k` nearest other tokens by Euclidean distance, nearest first, `[len(ids), k]`.

    Rows are computed for the tokens that are asked for (not for the whole vocabulary) and remembered; the memory is
    keyed by the table itself and its version, so changed weights are looked up again.

    Complexity: `len(ids) x vocabulary x hidden` multiply-adds for tokens not seen before.
    """
    held = model.embedding(block).weight
    k = min(k, held.shape[0] - 1)
    memory = _known.setdefault(model, {})
    key = (block if held.is_meta else held.data_ptr(), held._version, tuple(held.shape), k)
    if key not in memory:
        memory.clear()
        memory[key] = torch.full((held.shape[0], k), -1, dtype=torch.long)
    found = memory[key]
    wanted = torch.unique(ids.cpu())
    wanted = wanted[found[wanted, 0] < 0]
    if len(wanted):
        table = weight_of(model.embedding(block))
        # double precision: near-ties must not be decided by which other tokens were asked for at the same time
        wide = table.double()
        squares = wide.square().sum(1)
        size = max(1, _CHUNK // table.shape[0])
        for at in range(0, len(wanted), size):
            rows = wanted[at : at + size].to(table.device)
            distance = squares - 2 * wide[rows] @ wide.T
            distance[torch.arange(len(rows), device=table.device), rows] = torch.inf
            found[wanted[at : at + size]] = distance.topk(k, largest=False).indices.cpu()
    return found[ids.cpu()].to(ids.device)
