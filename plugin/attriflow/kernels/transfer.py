"""Tensors between the host and a device in as few pieces as there are kinds of them: each makes the host wait."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LARGE = 2**22
"""Numbers from which on a tensor goes by itself, as a joint copy would take memory on the device."""


def sent(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Integer and bool tensors of the host on a device, in one piece."""
    if device.type == "cpu":
        return list(tensors)
    parts = torch.cat([t.flatten().long() for t in tensors]).to(device).split([t.numel() for t in tensors])
    return [part.view(t.shape).to(t.dtype) for part, t in zip(parts, tensors, strict=True)]


def home(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors on the host, those of one device and type in one piece."""
    found = [t.detach() for t in tensors]
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for i, t in enumerate(found):
        if t.device.type != "cpu" and t.numel() < LARGE:
            groups.setdefault((t.device, t.dtype), []).append(i)
    for index in groups.values():
        parts = torch.cat([found[i].flatten() for i in index]).cpu().split([found[i].numel() for i in index])
        for i, part in zip(index, parts, strict=True):
            found[i] = part.view(found[i].shape)
    return [t.cpu() for t in found]
