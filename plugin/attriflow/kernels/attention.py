"""Attention as matrix products whose backward runs for many gradients at once, without copies of what they share.

`torch.vmap` over the backward of a product of two matrices, one of which is the same for all, copies that one for
every gradient first. Attention has four such products per layer, and its weights are the largest tensor of all. Here
the gradients are an axis of ordinary batched products: they lie next to the queries, so that for each head

    d weights = d output @ value^T,  d query = d scores @ key      are products of `[query * gradient, ...]`
    d value = weights^T @ d output,  d key = d scores^T @ query    are products of `[..., gradient * ...]`

by tiles of queries that stay in the processor's cache and leave out the keys that no query of the tile sees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from attriflow.kernels.vmapped import together

TILE = 64
"""Queries per tile: fewer make products too small, more leave nothing out."""

Tile = tuple[slice, int]
"""Queries, and how many keys they see."""


def written_out(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    drop: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """`scaled_dot_product_attention` as matrix products and a softmax; `drop` changes the weights."""
    if enable_gqa:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    query = query * (query.shape[-1] ** -0.5 if scale is None else scale)
    mask = additive_mask(attn_mask, is_causal, query, key)
    if drop is None and (mask is None or not mask.requires_grad):
        return attention(query, key, value, mask)
    scores = query @ key.transpose(-1, -2)
    weights = (scores if mask is None else scores + mask).softmax(-1)
    return (weights if drop is None else drop(weights)) @ value


def additive_mask(mask: Tensor | None, is_causal: bool, query: Tensor, key: Tensor) -> Tensor | None:
    """What `scaled_dot_product_attention` adds to scores for its mask arguments, `[..., query or 1, key]`.

    Args:
        mask, is_causal: As given to the function.
        query, key: `[..., query, dim]` and `[..., key, dim]`, for their lengths and type.
    """
    if is_causal:
        mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, torch.finfo(query.dtype).min)


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax attention, `[row, head, query, dim]`.

    Args:
        query: Scaled, `[row, head, query, dim]`.
        key, value: `[row, head, key, dim]`.
        mask: Added to the scores, `[row or 1, head or 1, query or 1, key]`, without gradient; or None.
    """
    out: Tensor = _Attention.apply(query, key, value, mask)  # type: ignore[no-untyped-call]
    return out


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        scores = query @ key.transpose(-1, -2)
        weights = (scores if mask is None else scores + mask).softmax(-1)
        # heads are views of a projection; every product would copy them again
        ctx.save_for_backward(query.contiguous(), key.contiguous(), value.contiguous(), weights)
        ctx.tiles = _tiles(weights)
        return weights @ value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[:3]
        query, key, value, weights = ctx.saved_tensors
        batched = together(grad)
        if batched is None:
            found = iter(_single(grad, query, key, value, weights, wanted))
        else:
            every, back = batched
            found = map(back, _together(every, query, key, value, weights, ctx.tiles, wanted))
        return (*(next(found) if is_wanted else None for is_wanted in wanted), None)


def _tiles(weights: Tensor) -> list[Tile]:
    queries, keys = weights.shape[-2:]
    if queries <= TILE:
        return [(slice(0, queries), keys)]
    seen = weights.flatten(0, -3).amax(0) != 0
    tiles = []
    for start in range(0, queries, TILE):
        rows = slice(start, min(queries, start + TILE))
        tiles.append((rows, int(seen[rows].any(0).nonzero().max()) + 1))
    return tiles


def _single(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    weights: Tensor,
    wanted: Sequence[bool],
) -> list[Tensor]:
    out = []
    if wanted[0] or wanted[1]:
        scores = grad @ value.transpose(-1, -2) * weights
        scores -= weights * scores.sum(-1, keepdim=True)
        if wanted[0]:
            out.append(scores @ key)
        if wanted[1]:
            out.append(scores.transpose(-1, -2) @ query)
    if wanted[2]:
        out.append(weights.transpose(-1, -2) @ grad)
    return out


def _together(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    weights: Tensor,
    tiles: Sequence[Tile],
    wanted: Sequence[bool],
) -> list[Tensor]:
    """The same for `grad [gradient, row, head, query, dim]`; the results begin with that axis, too."""
    rows = grad.shape[1:3]
    n, queries, many = rows.numel(), grad.shape[3], grad.shape[0]
    query, key, value, weights = (t.flatten(0, 1) for t in (query, key, value, weights))
    keys, dim, out_dim = key.shape[1], key.shape[2], value.shape[2]
    grad = grad.permute(1, 2, 3, 0, 4).reshape(n, queries, many, out_dim)
    whole = max(seen for _, seen in tiles) == keys
    d_query = grad.new_empty(n, queries, many, dim)
    d_key, d_value = (
        grad.new_empty(shape) if whole else grad.new_zeros(shape)
        for shape in ((n, many, keys, dim), (n, keys, many, out_dim))
    )
    fresh = whole
    for part, seen in sorted(tiles, key=lambda tile: -tile[1]):  # the first of them fills all keys
        height, w, g = part.stop - part.start, weights[:, part, :seen], grad[:, part]
        if wanted[0] or wanted[1]:
            scores = (g.reshape(n, -1, out_dim) @ value[:, :seen].transpose(1, 2)).view(n, height, many, seen)
            scores *= w.unsqueeze(2)
            scores.addcmul_(w.unsqueeze(2), scores.sum(-1, keepdim=True), value=-1)
            if wanted[0]:
                d_query[:, part] = (scores.view(n, -1, seen) @ key[:, :seen]).view(n, height, many, dim)
            if wanted[1]:
                found = scores.view(n, height, many * seen).transpose(1, 2) @ query[:, part]
                _put(d_key[:, :, :seen], found.view(n, many, seen, dim), fresh)
        if wanted[2]:
            found = w.transpose(1, 2) @ g.reshape(n, height, many * out_dim)
            _put(d_value[:, :seen], found.view(n, seen, many, out_dim), fresh)
        fresh = False
    out = (
        d_query.unflatten(0, rows).permute(3, 0, 2, 1, 4),
        d_key.unflatten(0, rows).permute(2, 0, 3, 1, 4),
        d_value.unflatten(0, rows).permute(3, 0, 2, 1, 4),
    )
    # laid out as the projections that follow want them, heads next to each other
    return [t.contiguous().transpose(2, 3) for t, is_wanted in zip(out, wanted, strict=True) if is_wanted]


def _put(into: Tensor, what: Tensor, fresh: bool) -> None:
    if fresh:
        into.copy_(what)
    else:
        into += what
