"""Attention by blocks of queries: what keeps a long text from needing `length x length` numbers at once.

A query's row of attention depends on no other query. So whatever is made of the weights (outputs, slopes, edges, maps)
can be made of some rows at a time, for as many keys as these rows see, and the rows be let go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attriflow.kernels.positions import at


@dataclass(frozen=True)
class Block:
    """Some queries of a call.

    Attributes:
        rows: Which.
        seen: How many keys they see.
        mask, options: What the architecture passed, for these rows and keys.
    """

    rows: slice
    seen: int
    mask: Tensor | None
    options: dict[str, Any]


@dataclass(frozen=True)
class Queries:
    """One call of attention, taken apart by its queries.

    Attributes:
        width, keys: Numbers of queries and of keys.
        mask: Additive, `[row or 1, head or 1, query or 1, key]`, or None.
        options: Everything else that the architecture passed (`scaling`, `position_bias`, ...).
    """

    width: int
    keys: int
    mask: Tensor | None
    options: Mapping[str, Any]

    @property
    def divisible(self) -> bool:
        """Whether rows can be told apart: a mask and a position bias have a query axis, other tensors are parameters.

        Position ids and the like are passed on for other kinds of attention and not read.
        """
        given = [t for t in (self.mask, *self.options.values()) if isinstance(t, Tensor)]
        read = [t for t in given if t.is_floating_point() or t.ndim == 4]
        return all(self._by_query(t) or t.ndim < 2 or isinstance(t, nn.Parameter) for t in read) and not any(
            t.requires_grad for t in read
        )

    def blocks(self, size: int, wanted: Sequence[bool] | None = None) -> Iterator[Block]:
        """Blocks of `size` queries; only those with a query of `wanted`."""
        for start in range(0, self.width, size):
            rows = slice(start, min(self.width, start + size))
            if wanted is None or any(wanted[rows]):
                yield self.block(rows)

    def block(self, rows: slice) -> Block:
        """Some queries in a row."""
        seen = self._seen(rows)
        options = {k: self._part(v, rows, seen) for k, v in self.options.items()}
        return Block(rows, seen, self._part(self.mask, rows, seen), options)

    def at(self, positions: Tensor) -> tuple[Tensor | None, dict[str, Any]]:
        """Mask and options of the queries at `positions [row, n]`, for all keys."""

        def rows(t: Any) -> Any:
            if not self._by_query(t):
                return t
            return (t if t.shape[2] == 1 else at(t, positions, 2))[..., : self.keys]

        return rows(self.mask), {k: rows(v) for k, v in self.options.items()}

    def _by_query(self, t: Any) -> bool:
        return isinstance(t, Tensor) and t.ndim == 4 and t.shape[2] in (1, self.width) and t.shape[3] >= self.keys

    def _part(self, t: Any, rows: slice, seen: int) -> Any:
        if not self._by_query(t):
            return t
        return (t if t.shape[2] == 1 else t[:, :, rows])[..., :seen]

    def _seen(self, rows: slice) -> int:
        """Keys that some row sees: in a causal decoder, none after the last row."""
        if self.mask is None or (rows.start, rows.stop) == (0, self.width):  # all: the device need not be asked
            return self.keys
        mask = self._part(self.mask, rows, self.keys)
        seen = mask > torch.finfo(mask.dtype).min / 2 if mask.is_floating_point() else mask
        columns = seen.flatten(0, 2).any(0).nonzero()
        return int(columns[-1]) + 1 if len(columns) else self.keys


def size_of_blocks(query: Tensor, keys: int, limit: float) -> int:
    """Queries of `[row, head, query, dim]` whose weights over so many keys take no more bytes than the limit."""
    return max(1, int(limit // (query.shape[:2].numel() * keys * query.element_size())))
