"""Attention of long texts whose weights are not kept: its products make them again, some queries at a time.

The fused backward of torch does so, too, but for every gradient anew. Here a tile's weights are made once for all
gradients that come together, all query heads that share their keys and values are one matrix, so that these are never
repeated, and a tile reads the keys that its queries see. No tensor of `length x length` is ever there.

With dO a gradient of the output O = P V, P = softmax(Q K^T) and d = rowsum(dO * O) (FlashAttention-2, Dao 2023, 2.2):

    dS = P * (dO V^T - d),   dQ = dS K,   dK = dS^T Q,   dV = P^T dO
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from attriflow.kernels.attention import Operands
from attriflow.kernels.vmapped import together

ROWS = 192
"""Rows of a tile, a query of one head each: its weights and those of a gradient stay near the processor's cache."""


def recomputes(call: Operands) -> bool:
    """Whether a call is one that `recomputed` takes: on CPUs, where tiles cost no starts of kernels."""
    query, key, value, mask = call.query, call.key, call.value, call.attn_mask
    return (
        query.device.type == "cpu"
        and query.dtype in (torch.float32, torch.float64)
        and not call.dropout_p
        and query.ndim == key.ndim == value.ndim == 4
        and query.shape[0] == key.shape[0] == value.shape[0]
        and key.shape[1] == value.shape[1]
        and query.shape[1] % key.shape[1] == 0
        and (mask is None or (mask.ndim == 4 and not mask.requires_grad))
    )


def recomputed(call: Operands, func: Callable[..., Tensor], args: Any, kwargs: Any) -> Tensor:
    """The call as `func` computes it, `[row, head, query, dim]`, with such products."""
    return _Recomputed.apply(call, func, args, kwargs, call.query, call.key, call.value)  # type: ignore[no-untyped-call]


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Operands, func: Any, args: Any, kwargs: Any, *given: Tensor) -> Tensor:
        out: Tensor = func(*args, **kwargs)
        ctx.save_for_backward(*given, out, call.attn_mask)
        ctx.scale = given[0].shape[-1] ** -0.5 if call.scale is None else call.scale
        ctx.is_causal = call.is_causal
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, mask = ctx.saved_tensors
        batched = together(grad)
        every, back = (grad.unsqueeze(0), lambda t: t[0]) if batched is None else batched
        tiles = _tiles(query, key, mask, ctx.is_causal)
        found = _products(every, query * ctx.scale, key, value, out, mask, ctx.is_causal, tiles)
        found[0].mul_(ctx.scale)
        return (None, None, None, None, *map(back, found))


def _tiles(query: Tensor, key: Tensor, mask: Tensor | None, is_causal: bool) -> list[tuple[slice, int]]:
    """Queries of each tile, and how many keys they see."""
    queries, keys = query.shape[2], key.shape[2]
    size = max(8, ROWS * key.shape[1] // query.shape[1] // 8 * 8)
    parts = [slice(start, min(queries, start + size)) for start in range(0, queries, size)]
    if mask is None:
        return [(part, min(keys, part.stop) if is_causal else keys) for part in parts]
    seen = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    columns = [seen[:, :, part if seen.shape[2] > 1 else slice(None)].flatten(0, 2).any(0).nonzero() for part in parts]
    return [(part, int(found[-1]) + 1 if len(found) else keys) for part, found in zip(parts, columns, strict=True)]


def _products(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    mask: Tensor | None,
    is_causal: bool,
    tiles: Sequence[tuple[slice, int]],
) -> list[Tensor]:
    """By query (scaled, before the scale), key and value of `grad [gradient, row, head, query, dim]`."""
    many, rows, heads, queries, out_dim = grad.shape
    groups, keys, dim = key.shape[1], key.shape[2], key.shape[3]
    # laid out as the projections that follow want them, heads next to each other
    d_query = grad.new_empty(many, rows, queries, heads, dim)
    d_key = grad.new_empty(many, rows, keys, groups, dim)
    d_value = grad.new_empty(many, rows, keys, groups, out_dim)
    by_group = (groups, heads // groups)
    if mask is not None:
        mask = mask.expand(rows, heads, queries, mask.shape[-1]).unflatten(1, by_group)
    for row in range(rows):
        for group in range(groups):
            part = slice(group * by_group[1], (group + 1) * by_group[1])
            # [query, head, dim] and [query, gradient, head, dim]
            q, g = query[row, part].transpose(0, 1).contiguous(), grad[:, row, part].permute(2, 0, 1, 3)
            along = (g * out[row, part].transpose(0, 1).unsqueeze(1)).sum(-1, keepdim=True)
            g, k = torch.cat([g, -along], -1), key[row, group]
            v = torch.cat([value[row, group], value.new_ones(keys, 1)], -1)
            sums = grad.new_zeros(many, keys, dim), grad.new_zeros(keys, many * out_dim)
            for which, seen in tiles:
                height = which.stop - which.start
                flat = q[which].flatten(0, 1)
                scores = (flat @ k[:seen].T).view(height, -1, seen)
                _hide(scores, None if mask is None else mask[row, group], is_causal, which)
                weights = scores.softmax(-1).flatten(0, 1)
                given = g[which].transpose(0, 1).flatten(0, 2)
                d_scores = (given @ v[:seen].T).view(many, -1, seen)
                d_scores *= weights
                found = (d_scores.flatten(0, 1) @ k[:seen]).view(many, height, -1, dim)
                d_query[:, row, which, part] = found
                sums[0][:, :seen].baddbmm_(d_scores.transpose(1, 2), flat.expand(many, -1, -1))
                plain = g[which, :, :, :out_dim].transpose(1, 2).reshape(-1, many * out_dim)
                sums[1][:seen].addmm_(weights.T, plain)
            d_key[:, row, :, group] = sums[0]
            d_value[:, row, :, group] = sums[1].view(keys, many, out_dim).transpose(0, 1)
    return [t.transpose(2, 3) for t in (d_query, d_key, d_value)]


def _hide(scores: Tensor, mask: Tensor | None, is_causal: bool, which: slice) -> None:
    """Take masks and biases into account, in place: `scores [query, head, key]` of some queries."""
    seen = scores.shape[-1]
    lowest = torch.finfo(scores.dtype).min
    if is_causal:
        place = torch.arange(which.start, which.stop, device=scores.device)
        later = torch.arange(which.start, seen, device=scores.device) > place.unsqueeze(1)
        scores[..., which.start :].masked_fill_(later.unsqueeze(1), lowest)
    if mask is not None:
        part = mask[:, which, :seen].transpose(0, 1)
        if mask.dtype == torch.bool:
            scores.masked_fill_(~part, lowest)
        else:
            scores += part.clamp(min=lowest)  # rows that see nothing: no numbers otherwise
