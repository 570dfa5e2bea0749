"""Attention written out: the arguments of torch's function, scores, and products that serve many gradients at once.

`torch.vmap` over the backward of a product of two matrices, one of which is the same for all, copies that one for
every gradient first. Attention has four such products per layer, and its weights are the largest tensor of all. Here
the gradients are an axis of ordinary batched products: they lie next to the queries, so that for each head

    d weights = d output @ value^T,  d query = d scores @ key      are products of `[query * gradient, ...]`
    d value = weights^T @ d output,  d key = d scores^T @ query    are products of `[..., gradient * ...]`

by tiles of queries that stay in the processor's cache and leave out the keys that no query of the tile sees.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from attriflow.kernels.vmapped import together

TILE = 64
"""Queries per tile: fewer make products too small, more leave nothing out."""

Tile = tuple[slice, int]
"""Queries, and how many keys they see."""


@dataclass(frozen=True, kw_only=True)
class Operands:
    """One call of `scaled_dot_product_attention`, its arguments by name.

    Attributes:
        query: `[row, head, query, dim]`.
        key, value: `[row, key-value head, key, dim]`.
        attn_mask, is_causal, dropout_p, scale, enable_gqa: As torch takes them.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    attn_mask: Tensor | None = None
    dropout_p: float = 0.0
    is_causal: bool = False
    scale: float | None = None
    enable_gqa: bool = False

    @classmethod
    def of(cls, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Operands:
        """Read the arguments of a call."""
        return cls(**dict(zip((field.name for field in fields(cls)), args, strict=False)), **kwargs)

    @property
    def scaled(self) -> Tensor:
        """The query times the scale."""
        return self.query * (self.query.shape[-1] ** -0.5 if self.scale is None else self.scale)

    def by_head(self, tensor: Tensor) -> Tensor:
        """Keys or values for every head of the query."""
        return for_heads(tensor, self.query) if self.enable_gqa else tensor

    def bias(self, hidden: float | None = None) -> Tensor | None:
        """What is added to scores, `[..., query or 1, key]`: `hidden` (the lowest number) where keys are not seen."""
        mask = self.attn_mask
        if self.is_causal:
            mask = self.query.new_ones(self.query.shape[-2], self.key.shape[-2], dtype=torch.bool).tril()
        if mask is None or mask.dtype != torch.bool:
            return mask
        lowest = torch.finfo(self.query.dtype).min if hidden is None else hidden
        return torch.zeros_like(mask, dtype=self.query.dtype).masked_fill(~mask, lowest)

    def written_out(self, drop: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The call as matrix products and a softmax, `[row, head, query, dim]`; `drop` changes the weights."""
        query, key, value, bias = self.scaled, self.by_head(self.key), self.by_head(self.value), self.bias()
        if drop is None and (bias is None or not bias.requires_grad):
            return attention(query, key, value, bias)
        weights = scores(query, key, bias).softmax(-1)
        return (weights if drop is None else drop(weights)) @ value


def for_heads(tensor: Tensor, query: Tensor) -> Tensor:
    """Keys or values `[..., key-value head, key, dim]`, repeated for the heads of a query `[..., head, query, dim]`."""
    groups = query.shape[-3] // tensor.shape[-3] if query.ndim > 2 else 1
    return tensor if groups == 1 else tensor.repeat_interleave(groups, -3)


def scores(query: Tensor, key: Tensor, *biases: Tensor | None) -> Tensor:
    """Scores of attention before the softmax, `[row, head, query, key]`, of a scaled query."""
    out = query @ key.transpose(-1, -2)
    for bias in biases:
        if bias is not None:
            out = out + bias
    return out


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax attention, `[row, head, query, dim]`.

    Args:
        query: Scaled, `[row, head, query, dim]`.
        key, value: `[row, head, key, dim]`.
        mask: Added to the scores, `[row or 1, head or 1, query or 1, key]`, without gradient; or None.
    """
    return _Attention.apply(query, key, value, mask)  # type: ignore[no-untyped-call]


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        weights = scores(query, key, mask).softmax(-1)
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
    if queries <= TILE or weights.device.type != "cpu":  # elsewhere, looking makes the host wait
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
        d_scores = grad @ value.transpose(-1, -2) * weights
        d_scores -= weights * d_scores.sum(-1, keepdim=True)
        if wanted[0]:
            out.append(d_scores @ key)
        if wanted[1]:
            out.append(d_scores.transpose(-1, -2) @ query)
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
            d_scores = (g.reshape(n, -1, out_dim) @ value[:, :seen].transpose(1, 2)).view(n, height, many, seen)
            d_scores *= w.unsqueeze(2)
            d_scores.addcmul_(w.unsqueeze(2), d_scores.sum(-1, keepdim=True), value=-1)
            if wanted[0]:
                d_query[:, part] = (d_scores.view(n, -1, seen) @ key[:, :seen]).view(n, height, many, dim)
            if wanted[1]:
                found = d_scores.view(n, height, many * seen).transpose(1, 2) @ query[:, part]
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
