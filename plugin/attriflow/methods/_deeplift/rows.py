"""Attention of a recorded or replayed pass, a few query rows at a time: what long inputs need.

Written out, attention leaves several `[row, head, query, key]` tensors per layer on the tape and in the graph. Here
only queries, keys and values are kept: outputs are computed by groups of query rows, and so are the slopes, again in
every traversal of the graph. Where the architecture's attention was seen to be a plain softmax, the slopes are written
out for all products together (`secants`); else its own function is recorded and replayed on each group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attriflow.kernels.queries import Block, Queries, size_of_blocks
from attriflow.kernels.vmapped import together
from attriflow.methods._deeplift.secants import Pair, gradients
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
        job = _Job(module, Queries(query.shape[2], key.shape[2], mask, options), limits)
        if size <= limits.kept_bytes or not job.queries.divisible:
            return eager(module, query, key, value, mask, **options)[0]
        now = (query, key, value)
        mode.paused = query  # the groups have tapes of their own
        try:
            if isinstance(mode, Replayer):
                before = mode.take("attention", now)
                if any(t.requires_grad for t in now):
                    return _Rows.apply(job, job.pair(now, before), *now, *before)  # type: ignore[no-untyped-call]
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
    queries: Queries
    limits: RowLimits

    @torch.no_grad()
    def pair(self, now: tuple[Tensor, ...], before: Sequence[Tensor]) -> Pair | None:
        """What `secants` needs of a plain softmax; None where the last queries show that it is something else.

        A cap on scores can be too mild to be seen, so an option that might be one rules it out.
        """
        options = self.queries.options
        if any(isinstance(v, Tensor) and v.is_floating_point() for v in options.values()) or options.get("softcap"):
            return None
        scale = options.get("scaling")
        found = Pair(now, tuple(before), now[0].shape[-1] ** -0.5 if scale is None else float(scale))
        block = self.queries.block(slice(max(0, self.queries.width - 8), self.queries.width))
        close = torch.finfo(now[0].dtype).eps ** 0.5 * 100
        for n, tensors in enumerate((now, before)):
            wanted = eager(self.module, *_group(tensors, block), block.mask, **block.options)[0]
            off = (found.output(block, n) - wanted).abs().max()
            if not bool(off <= min(close, 1e-5) * wanted.abs().max()):
                return None
        return found

    def groups(self, query: Tensor) -> Iterator[Block]:
        """Groups of rows."""
        return self.queries.blocks(
            size_of_blocks(query, self.queries.keys, self.limits.group_bytes / self.limits.products)
        )

    @torch.no_grad()
    def values(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """`[row, query, head, dim]`."""
        return torch.cat(
            [
                eager(self.module, *_group((query, key, value), block), block.mask, **block.options)[0]
                for block in self.groups(query)
            ],
            1,
        )


class _Rows(torch.autograd.Function):
    """The layer's output, with the slopes of a replay as its derivative."""

    @staticmethod
    def forward(ctx: Any, job: _Job, pair: Pair | None, *tensors: Tensor) -> Tensor:
        ctx.job, ctx.plain = job, None if pair is None else pair.scale
        ctx.save_for_backward(*tensors)
        return job.values(*tensors[:3])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        job, (query, key, value, *before) = ctx.job, ctx.saved_tensors
        if ctx.plain is not None:
            pair = Pair((query, key, value), tuple(before), ctx.plain)
            batched = together(grad)
            every, back = (grad.unsqueeze(0), lambda t: t[0]) if batched is None else batched
            products = gradients(pair, job.queries, every, job.limits.group_bytes)
            return (None, None, *map(back, products), None, None, None)
        # made from the gradient, so that they carry its products when several go through together
        sums = [grad.new_zeros(t.shape) for t in (query, key, value)]
        for block in job.groups(query):
            tape, rows, seen = Tape(), block.rows, block.seen
            q, k, v = _group(before, block)
            with torch.no_grad(), Recorder(tape):
                eager(job.module, q, k, v, block.mask, **block.options)
            q, k, v = (t.detach().requires_grad_(True) for t in _group((query, key, value), block))
            with torch.enable_grad(), Replayer(tape):
                out = eager(job.module, q, k, v, block.mask, **block.options)[0]
            found = torch.autograd.grad(out, (q, k, v), grad[:, rows])
            sums[0][:, :, rows] += found[0]
            sums[1][:, :, :seen] += found[1]
            sums[2][:, :, :seen] += found[2]
        return (None, None, *sums, None, None, None)


def _group(tensors: Any, block: Block) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = tensors
    return query[:, :, block.rows], key[:, :, : block.seen], value[:, :, : block.seen]
