"""Attention of a recorded or replayed pass, a few query rows at a time: what long inputs need.

Written out, attention leaves several `[row, head, query, key]` tensors per layer on the tape and in the graph. Here
only queries, keys and values are kept: outputs are computed by groups of query rows, and so are the slopes, again in
every traversal of the graph, by recording and replaying the architecture's own function on each group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attriflow.methods._deeplift.tape import Mode, Recorder, Replayer, Tape
from attriflow.models.attention import Replacement, eager


@dataclass(frozen=True, kw_only=True)
class RowLimits:
    """When attention goes by groups of rows.

    Attributes:
        kept_bytes: Attention weights of one layer that may be kept as they are.
        group_bytes: Size of a `[product, row, head, query, key]` tensor of one group.
        products: Products that go through the graph together.
    """

    kept_bytes: float
    group_bytes: float
    products: int = 1


def by_rows(mode: Mode, limits: RowLimits) -> Replacement:
    """An attention function for the pass that `mode` watches."""

    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: Mapping[str, Any]
    ) -> Tensor:
        size = query.shape[:-1].numel() * key.shape[-2] * query.element_size()
        job = _Job(module, query.shape[2], key.shape[2], mask, options, limits)
        if size <= limits.kept_bytes or not job.divisible:
            return eager(module, query, key, value, mask, **options)[0]
        now = (query, key, value)
        mode.paused = query  # the groups have tapes of their own
        try:
            if isinstance(mode, Replayer):
                before = mode.take("attention", now)
                if any(t.requires_grad for t in now):
                    return _Rows.apply(job, *now, *before)  # type: ignore[no-untyped-call]
            else:
                mode.tape.add("attention", now)
            return job.values(*now)
        finally:
            mode.paused = None

    return attention


@dataclass(frozen=True)
class _Job:
    """One attention layer's call."""

    module: nn.Module
    width: int
    keys: int
    mask: Tensor | None
    options: Mapping[str, Any]
    limits: RowLimits

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

    def _by_query(self, t: Any) -> bool:
        return isinstance(t, Tensor) and t.ndim == 4 and t.shape[2] in (1, self.width) and t.shape[3] >= self.keys

    def groups(self, query: Tensor) -> Iterator[tuple[slice, int, Tensor | None, dict[str, Any]]]:
        """Groups of rows: which, how many keys they see, and their part of mask and options."""
        per_row = query.shape[:2].numel() * self.keys * query.element_size()
        size = max(1, int(self.limits.group_bytes // (per_row * self.limits.products)))
        for start in range(0, self.width, size):
            rows = slice(start, min(self.width, start + size))
            seen = self._seen(rows)
            options = {k: self._part(v, rows, seen) for k, v in self.options.items()}
            yield rows, seen, self._part(self.mask, rows, seen), options

    def _part(self, t: Any, rows: slice, seen: int) -> Any:
        if not self._by_query(t):
            return t
        return (t if t.shape[2] == 1 else t[:, :, rows])[..., :seen]

    def _seen(self, rows: slice) -> int:
        """Keys that some row sees: in a causal decoder, none after the last row."""
        if self.mask is None:
            return self.keys
        mask = self._part(self.mask, rows, self.keys)
        seen = mask > torch.finfo(mask.dtype).min / 2 if mask.is_floating_point() else mask
        columns = seen.flatten(0, 2).any(0).nonzero()
        return int(columns[-1]) + 1 if len(columns) else self.keys

    @torch.no_grad()
    def values(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """`[row, query, head, dim]`."""
        return torch.cat(
            [
                eager(self.module, query[:, :, rows], key[:, :, :seen], value[:, :, :seen], mask, **options)[0]
                for rows, seen, mask, options in self.groups(query)
            ],
            1,
        )


class _Rows(torch.autograd.Function):
    """The layer's output, with the slopes of a replay as its derivative."""

    @staticmethod
    def forward(ctx: Any, job: _Job, *tensors: Tensor) -> Tensor:
        ctx.job = job
        ctx.save_for_backward(*tensors)
        return job.values(*tensors[:3])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        job, (query, key, value, *before) = ctx.job, ctx.saved_tensors
        # made from the gradient, so that they carry its products when several go through together
        sums = [grad.new_zeros(t.shape) for t in (query, key, value)]
        for rows, seen, mask, options in job.groups(query):
            tape = Tape()
            q, k, v = _group(before, rows, seen)
            with torch.no_grad(), Recorder(tape):
                eager(job.module, q, k, v, mask, **options)
            q, k, v = (t.detach().requires_grad_(True) for t in _group((query, key, value), rows, seen))
            with torch.enable_grad(), Replayer(tape):
                out = eager(job.module, q, k, v, mask, **options)[0]
            found = torch.autograd.grad(out, (q, k, v), grad[:, rows])
            sums[0][:, :, rows] += found[0]
            sums[1][:, :, :seen] += found[1]
            sums[2][:, :, :seen] += found[2]
        return (None, *sums, None, None, None)


def _group(tensors: Any, rows: slice, seen: int) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = tensors
    return query[:, :, rows], key[:, :, :seen], value[:, :, :seen]
