"""Entries of tensors at the positions that are asked for."""

from __future__ import annotations

import torch
from torch import Tensor


def at(tensor: Tensor, positions: Tensor, axis: int = 1) -> Tensor:
    """Entries at `positions [row, n]` of an axis of `tensor [row or 1, ...]`: `[row, ..., n, ...]`."""
    positions = positions.to(tensor.device)
    row = torch.arange(positions.shape[0], device=tensor.device).unsqueeze(1)
    picked = tensor.movedim(axis, 1)[row if tensor.shape[0] > 1 else 0, positions]
    return picked.movedim(1, axis)
