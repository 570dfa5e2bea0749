"""Nearest neighbours in the embedding table, found when asked for and kept for as long as the model lives."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from attriflow.models.base import LanguageModel
from attriflow.models.offload import changes_of

_Found = tuple[Tensor, Tensor]  # neighbours `[vocabulary, k]` on the model's device, whose they are on the host
_known: WeakKeyDictionary[LanguageModel, dict[tuple[object, ...], _Found]] = WeakKeyDictionary()
_CHUNK = 2**24
"""Distances computed at once."""


@torch.no_grad()
def neighbours(model: LanguageModel, block: str, ids: Tensor, k: int) -> Tensor:
    """The `k` nearest other tokens by Euclidean distance, nearest first, `[len(ids), k]` on the model's device.

    Rows are computed for the tokens that are asked for (not for the whole vocabulary) and remembered; the memory is
    keyed by the table's parameters and their versions, so changed weights are looked up again.

    Complexity: `len(ids) x vocabulary x hidden` multiply-adds for tokens not seen before.
    """
    module, rows = model.embedding(block), model.embedding(block).weight.shape[0]
    k = min(k, rows - 1)
    memory = _known.setdefault(model, {})
    # adapters of an embedding are further parameters of it; offloaded ones have no place of their own
    held = [(block if p.is_meta else p.data_ptr(), p._version, tuple(p.shape)) for p in module.parameters()]
    key = (*held, *changes_of(module), k)
    if key not in memory:
        memory.clear()
        memory[key] = (
            torch.zeros((rows, k), dtype=torch.int32, device=model.device),
            torch.zeros(rows, dtype=torch.bool),
        )
    found, known = memory[key]
    wanted = torch.unique(ids.cpu())
    wanted = wanted[~known[wanted]]
    if len(wanted):
        table = model.embedding_table(block)
        # double precision: near-ties must not be decided by which other tokens were asked for at the same time
        wide = table.double()
        squares = wide.square().sum(1)
        size = max(1, _CHUNK // table.shape[0])
        for at in range(0, len(wanted), size):
            rows = wanted[at : at + size].to(table.device)
            distance = squares - 2 * wide[rows] @ wide.T
            distance[torch.arange(len(rows), device=table.device), rows] = torch.inf
            nearest = distance.topk(k, largest=False).indices
            found[rows.to(found.device)] = nearest.to(found.device, found.dtype)
        known[wanted] = True
    return found[ids.to(found.device)].long()
