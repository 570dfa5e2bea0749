"""Slopes of softmax attention between a baseline and the input, for many products at once and by tiles of queries.

The same rules as `rules`: products have their gradient at the midpoint of the operands, softmax shares a difference by
logarithmic means. Written out here, they are worked out once per tile for all products that go through the graph
together:

    d scores = mean * (g - share),  g = d output @ middle(value)^T,  share = d output . (weights @ middle(value))
    d query = d scores @ middle(key),  d key = d scores^T @ middle(query),  d value = middle(probabilities)^T @ d output

Weights are means over their sum, so what each row loses is one number: a column more of `d output`, against a row of
ones. A tile of scores is then passed over once. Products go through a tile in turn, because sums over queries are read
and written once per tile and product: with many queries in it that is little beside the matrices themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attriflow.kernels.queries import Block, Queries
from attriflow.methods._deeplift.rules import logarithmic_means

TILE_BYTES = 8 * 2**20
"""Scores that are worked out together on a CPU: what stays in its cache."""

QUERIES = 32
"""Queries of a tile at most: with more of them, the first work out more keys that they do not see."""


@dataclass(frozen=True)
class Pair:
    """One call of attention in both passes.

    Attributes:
        now, before: Query `[row, head, query, dim]`, key and value `[row, key-value head, key, dim]`, of the input and
            of the baseline.
        scale: Of scores.
    """

    now: tuple[Tensor, ...]
    before: tuple[Tensor, ...]
    scale: float

    def log_probabilities(self, block: Block, which: int) -> Tensor:
        """`[row, key-value head, head of it * query, seen key]`, of the input (0) or the baseline (1)."""
        query, key, _ = (self.now, self.before)[which]
        wide = torch.promote_types(query.dtype, torch.float32)
        rows = by_group(query[:, :, block.rows], key.shape[1])
        scores = (rows.to(wide) * self.scale) @ key[:, :, : block.seen].to(wide).mT
        if block.mask is not None:
            mask = block.mask.to(wide)
            mask = mask.unsqueeze(2) if mask.shape[1] == 1 else mask.unflatten(1, (key.shape[1], -1))
            shape = scores.shape
            scores = (scores.unflatten(2, (query.shape[1] // key.shape[1], -1)) + mask).view(shape)
        return scores.log_softmax(-1)

    def output(self, block: Block, which: int) -> Tensor:
        """`[row, query, head, dim]`."""
        value, heads = (self.now, self.before)[which][2], self.now[0].shape[1]
        found = self.log_probabilities(block, which).exp()
        found = found @ value[:, :, : block.seen].to(found.dtype)
        return found.unflatten(2, (heads // value.shape[1], -1)).flatten(1, 2).transpose(1, 2).to(value.dtype)


def by_group(query: Tensor, groups: int) -> Tensor:
    """`[row, head, query, dim]` to `[row, key-value head, head of it * query, dim]`."""
    return query.unflatten(1, (groups, -1)).flatten(2, 3)


def gradients(pair: Pair, queries: Queries, grad: Tensor, limit: float) -> list[Tensor]:
    """Products for query, key and value, each `[product, ...]`.

    Args:
        pair: The call.
        queries: The same by its queries.
        grad: `[product, row, query, head, dim]`.
        limit: Bytes of a tile, where there is no cache to stay in.
    """
    query, key, _ = pair.now
    many, rows, width, heads, out = grad.shape
    groups, keys, dim = key.shape[1:]
    wide = torch.promote_types(query.dtype, torch.float32)
    middle_q, middle_k, middle_v = ((a.to(wide) + b.to(wide)) / 2 for a, b in zip(pair.now, pair.before, strict=True))
    ones = torch.cat([middle_v, torch.ones_like(middle_v[..., :1])], -1).mT
    d_query = grad.new_empty(many, rows, heads, width, dim, dtype=wide)
    d_key = grad.new_zeros(many, rows * groups, keys, dim, dtype=wide)
    d_value = grad.new_zeros(many, rows * groups, keys, out, dtype=wide)
    limit = min(limit, TILE_BYTES) if grad.device.type == "cpu" else limit
    one = rows * heads * keys * middle_q.element_size()
    size = int(min(QUERIES, max(1, limit // one)))
    for block in queries.blocks(size):
        seen, height = block.seen, block.rows.stop - block.rows.start
        log_p, log_b = (pair.log_probabilities(block, which) for which in (0, 1))
        mean, weights = logarithmic_means(log_p, log_b, -1)
        both = ((log_p.exp_() + log_b.exp_()) / 2).flatten(0, 1).mT
        share = weights @ middle_v[:, :, :seen]
        n = heads // groups * height
        q = by_group(middle_q[:, :, block.rows], groups).flatten(0, 1) * pair.scale
        k, v = middle_k[:, :, :seen], ones[..., :seen]
        for part in torch.arange(many).split(max(1, int(limit // (one * height)))):
            chosen = slice(int(part[0]), int(part[-1]) + 1)
            # [product, row, key-value head, head of it * query, dim]
            g = grad[chosen, :, block.rows].to(wide).transpose(2, 3).unflatten(2, (groups, -1)).flatten(3, 4)
            moved = torch.cat([g, -(g * share).sum(-1, keepdim=True)], -1)
            scores = (moved @ v).mul_(mean)
            found = (scores @ k).view(len(part), rows, heads, height, dim)
            d_query[chosen, :, :, block.rows] = found * pair.scale
            for i, into in enumerate(range(chosen.start, chosen.stop)):
                d_key[into, :, :seen].baddbmm_(scores[i].view(rows * groups, n, seen).mT, q)
                d_value[into, :, :seen].baddbmm_(both, g[i].reshape(rows * groups, n, out))
    shape = (many, rows, groups, keys)
    return [t.to(query.dtype) for t in (d_query, d_key.view(*shape, dim), d_value.view(*shape, out))]
