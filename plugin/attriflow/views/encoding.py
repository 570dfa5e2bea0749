"""Score tensors as text in a page: exact where that is small, with fewer digits where it is not."""

from __future__ import annotations

import base64
from typing import Any, Literal

import torch
from torch import Tensor

from attriflow.views.colors import largest

Kind = Literal["f4", "f2", "i1"]
BYTES: dict[Kind, int] = {"f4": 4, "f2": 2, "i1": 1}
HIDDEN = -128  # stands for NaN among whole numbers, which lie in -127..127


def encode(values: Tensor, kind: Kind) -> dict[str, Any]:
    """Little-endian numbers in base64, NaN included.

    Args:
        values: `[..., input]`.
        kind: "f4" (float32, as they are), "f2" (float16, relative to the largest magnitude `scale`) or "i1" (whole
            numbers, relative to the largest magnitude of their row / 127; `limits` has one float32 per row).
    """
    values = values.detach().double().cpu()
    if kind == "f4":
        return {"kind": kind, "data": _text(values.float())}
    if kind == "f2":
        scale = largest(values) or 1.0
        return {"kind": kind, "scale": scale, "data": _text((values / scale).half())}
    limits = (
        torch.where(values.isfinite(), values.abs(), 0).amax(-1)
        if values.shape[-1]
        else values.new_zeros(values.shape[:-1])
    )
    shares = (values / limits.clamp_min(torch.finfo(torch.float64).tiny).unsqueeze(-1)).clamp(-1, 1)
    numbers = torch.where(shares.isnan(), HIDDEN, (shares * 127).round()).to(torch.int8)
    return {"kind": kind, "limits": _text(limits.float()), "data": _text(numbers)}


def size(count: int, kind: Kind) -> int:
    """Bytes of so many encoded numbers."""
    return count * BYTES[kind] * 4 // 3 + 64


def _text(values: Tensor) -> str:
    array = values.contiguous().numpy()
    return base64.b64encode(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()).decode()
