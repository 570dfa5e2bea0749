"""Gradients of all target steps from shared graphs: the engine's second primitive.

One graph per chunk of path points serves all steps: the gradient first goes from every step's value to the hidden state
it is read from (one backward through the LM head for all steps), then one batched vector-Jacobian product per chunk of
steps goes down to the inputs.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attriflow import engine as settings
from attriflow.engine import Embed, Engine, Reduce, Sites, site_output
from attriflow.errors import OutOfMemoryError
from attriflow.linearised import linearised
from attriflow.models.base import Rows


@dataclass(frozen=True)
class Gradients:
    """An iterable over slices of steps with block -> `[batch, step, position, hidden]`; see `Engine.gradients`.

    Complexity: `len(alphas)` forwards and `len(alphas) * steps` products. Forwards are repeated for groups of steps
    only where there are several graphs and the gradients of all steps do not fit into memory together.
    """

    engine: Engine
    points: Callable[[float], Mapping[str, Tensor]] | None
    alphas: Sequence[float]
    weights: Sequence[float]
    max_rows: int | None
    sites: Sites | None
    within: Callable[[], AbstractContextManager[Any]] | None
    reduce: Reduce | None
    embed: Embed | None
    unchanged: int = 0
    together: int | None = None

    def __iter__(self) -> Iterator[tuple[slice, dict[str, Tensor]]]:
        """Run."""
        for group in self._groups():
            yield from self._group(group)

    def _groups(self) -> list[slice]:
        """Ranges of steps that get graphs of their own, each no longer than its last step's prefix.

        A product through a shorter graph costs less, a further forward pass costs more: the number of equal ranges
        with the least cost is taken, counted in tokens.
        """
        batch, n = self.engine.batch, self.engine.batch.n_steps
        first = int((batch.query >= self.unchanged).any(0).long().argmax())  # earlier steps see nothing that moves
        if self.within is not None or self.sites is not None or not self.engine.objective.stepwise:
            return [slice(0, n)]
        source = 0 if batch.source_ids is None else batch.source_ids.shape[1]
        best, least = [slice(first, n)], float("inf")
        for count in range(1, min(n - first, 16) + 1):
            edges = [first + round(i * (n - first) / count) for i in range(count + 1)]
            ranges = [slice(a, b) for a, b in itertools.pairwise(edges)]
            # in a batch whose prompts differ in length, the steps between may see nothing that moves, either
            ranges = [r for r in ranges if self._prefix(r) > self.unchanged]
            cost = sum((r.stop - r.start + 1) * (source + self._prefix(r) - self.unchanged) for r in ranges)
            if cost < 0.97 * least:
                best, least = ranges, cost
        return best

    def _prefix(self, steps: slice) -> int:
        """Decoder tokens that a range of steps reads."""
        return int(self.engine.batch.query[:, steps].max()) + 1

    def _group(self, steps: slice) -> Iterator[tuple[slice, dict[str, Tensor]]]:
        """One range of steps."""
        engine, n = self.engine, len(self.alphas)
        limit = max(1, engine.rows_at_once(grad=True) // engine.batch.size)
        if self.max_rows is not None:
            limit = min(limit, max(1, self.max_rows // engine.batch.size))
        if n <= limit:
            try:
                yield from self._chunk(0, n, steps)
                return
            except torch.OutOfMemoryError:  # raised by the forward pass, before anything was yielded
                limit = n // 2
        # several graphs: the gradient of every step is summed up, in ranges of steps that fit into memory
        width = sum(engine.ids(b).shape[1] for b in engine.blocks)
        size = max(1, 4 * settings.CHUNK_BYTES // (engine.batch.size * width * engine.model.hidden_size * 8))
        if self.within is not None:
            size = steps.stop - steps.start  # a context may have seen the whole input
        for start in range(steps.start, steps.stop, size):
            total: dict[str, Tensor] = {}
            part = slice(start, min(steps.stop, start + size))
            limit = self._accumulate(total, part, max(1, limit))
            yield part, total

    def _accumulate(self, total: dict[str, Tensor], group: slice, limit: int) -> int:
        """Add up the gradients of a group of steps over chunks of points; returns the chunk size that fitted."""
        at = 0
        while at < len(self.alphas):
            try:
                for steps, grads in self._chunk(at, at + limit, group):
                    place = slice(steps.start - group.start, steps.stop - group.start)
                    for block, g in grads.items():
                        shape = (g.shape[0], group.stop - group.start, *g.shape[2:])
                        total.setdefault(block, g.new_zeros(shape))[:, place] += g
            except torch.OutOfMemoryError:
                if limit == 1:
                    raise OutOfMemoryError("out of memory with a single point of the path") from None
                limit = max(1, limit // 2)
                continue
            at += limit
        return limit

    def _chunk(self, first: int, last: int, steps: slice) -> Iterator[tuple[slice, dict[str, Tensor]]]:
        """Points `first:last` in one graph, products of a range of steps."""
        engine, alphas, weights = self.engine, self.alphas[first:last], self.weights[first:last]
        n, size = len(alphas), engine.batch.size
        made = [self._point(a) for a in alphas]
        dtype = engine.model.dtype
        leaves = {b: torch.cat([m[b] for m in made]).to(dtype).detach().requires_grad_(True) for b in made[0]}
        with torch.enable_grad():
            hidden, values = self._graph(leaves, alphas, steps)
            weight = torch.tensor(list(weights), dtype=values.dtype, device=values.device).repeat_interleave(size)
            counted = engine.batch.step_mask[:, steps] & (engine.batch.query[:, steps] >= self.unchanged)
            values = values * weight.unsqueeze(-1) * counted.repeat(n, 1)
            place = None if hidden is None else self._places(hidden, steps).repeat(n, 1)
            for part, grads in self._products(hidden, place, values, list(leaves.values())):
                done = slice(steps.start + part.start, steps.start + part.stop)
                yield done, {b: self._summed(b, g, alphas) for b, g in zip(leaves, grads, strict=True)}

    def _point(self, alpha: float) -> Mapping[str, Tensor]:
        if self.points is not None:
            return self.points(alpha)
        if self.sites is not None:
            return self.engine.activations(self.sites)
        return {b: self.engine.embeddings(b) for b in self.engine.blocks}

    def _summed(self, block: str, grads: Tensor, alphas: Sequence[float]) -> Tensor:
        """`[step, point * batch, ...]` -> `[batch, step, ...]`, summed over the points."""
        grads = grads.unflatten(1, (len(alphas), self.engine.batch.size))
        if self.reduce is not None:
            return self.reduce(block, grads.to(self.engine.dtype), alphas).transpose(0, 1)
        return grads.sum(1, dtype=self.engine.dtype).transpose(0, 1)

    def _graph(
        self, leaves: Mapping[str, Tensor], alphas: Sequence[float], steps: slice
    ) -> tuple[Tensor | None, Tensor]:
        """Hidden states that feed the LM head (None when it cannot be told apart by step), values `[row, step]`."""
        engine = self.engine
        embeds = leaves if self.embed is None else self.embed(leaves, alphas)
        changes = {} if self.sites is not None else {f"{block}_embeds": e for block, e in embeds.items()}
        rows = self._cut(engine.rows(len(alphas), **changes), steps)
        caught: list[Tensor] = []
        head = engine.model.hf.get_output_embeddings() if engine.objective.stepwise else None
        with ExitStack() as stack:
            if head is not None:
                stack.enter_context(_hook(head.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))))
            for block, module in (self.sites or {}).items():
                stack.enter_context(_hook(module.register_forward_hook(_replace(leaves[block]))))
            stack.enter_context(
                self.within() if self.within is not None else linearised(engine.model.hf, settings.CHUNK_BYTES / 8)
            )
            forward = engine.run(rows, steps)
            values = engine.objective(forward)
        if len(alphas) == 1 and self.sites is None and not self.unchanged:
            engine.offer_base(forward, embeds, steps)
        return (caught[0] if len(caught) == 1 and caught[0].requires_grad else None), values

    def _cut(self, rows: Rows, steps: slice) -> Rows:
        """The rows without what comes after the prefix of a range of steps, and without what does not change."""
        width, query = self._prefix(steps), rows.query[:, steps]
        if self.sites is not None or (width == self.engine.ids("target").shape[1] and not self.unchanged):
            return dataclasses.replace(rows, query=query)
        cut: dict[str, Any] = {
            name: value[:, self.unchanged : width]
            for name in ("target_ids", "target_embeds", "target_mask")
            if (value := getattr(rows, name)) is not None
        }
        prefix = self.engine.reusable_prefix() if self.unchanged else None
        if prefix is not None:
            cache = prefix.cache(self.unchanged, query.shape[0] // self.engine.batch.size)
            cut["past"] = (cache, self.unchanged)
        return dataclasses.replace(rows, query=(query - self.unchanged).clamp(min=0), **cut)

    def _products(
        self, hidden: Tensor | None, place: Tensor | None, values: Tensor, leaves: list[Tensor]
    ) -> Iterator[tuple[slice, list[Tensor]]]:
        """Vector-Jacobian products of every step of `values`, `[step, row, position, hidden]` per leaf.

        Args:
            hidden: Hidden states that feed the LM head, `[row, position, hidden]`, or None.
            place: Where each step is read in `hidden`, `[row, step]`.
            values: What is differentiated, `[row, step]`.
            leaves: With respect to what.
        """
        start, stop = 0, values.shape[1]
        if not values.requires_grad:
            # the objective does not depend on the input (a constant custom function): zero is the answer
            yield slice(start, stop), [leaf.new_zeros((stop - start, *leaf.shape)) for leaf in leaves]
            return
        if hidden is not None:
            # one backward through head and step function for all steps: a step only reads its own hidden state
            (cotangent,) = torch.autograd.grad(values.sum(), hidden, retain_graph=True)
            output = hidden
        else:
            cotangent, output = torch.ones_like(values), values
        size = max(1, (self.together or self.engine.rows_at_once(grad=True)) // values.shape[0])
        at, batched = start, True
        while at < stop:
            end = min(stop, at + size)
            try:
                vectors = torch.stack([_one_step(cotangent, t, place) for t in range(at, end)])
                grads = _vjp(output, leaves, vectors, batched)
            except torch.OutOfMemoryError:
                if size == 1:
                    raise OutOfMemoryError("out of memory in the backward pass of a single step") from None
                size = max(1, size // 2)
                continue
            except RuntimeError:
                # an operation without a batching rule (custom kernels): the same products one by one
                if not batched:
                    raise
                batched = False
                continue
            self.engine.counter.backward_rows += (end - at) * values.shape[0]
            yield slice(at, end), grads
            at = end

    def _places(self, hidden: Tensor, steps: slice) -> Tensor:
        """Where each step is read in the head's input, `[batch, step]`: the head may see a span of positions only."""
        query = (self.engine.batch.query[:, steps] - self.unchanged).clamp(min=0)
        low, high = int(query.min()), int(query.max())
        return (query - low if hidden.shape[1] == high - low + 1 else query).to(hidden.device)


@contextmanager
def _hook(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


def _replace(leaf: Tensor) -> Callable[..., Any]:
    """A hook that puts a leaf in the place of a module's output (the first of several)."""

    def hook(_module: Any, _args: Any, output: Any) -> Any:
        site_output(output, leaf.shape[:2])
        if isinstance(output, (tuple, list)):
            return type(output)([leaf, *output[1:]])
        return leaf

    return hook


def _one_step(cotangent: Tensor, step: int, place: Tensor | None) -> Tensor:
    """The cotangent with everything but one step's entry set to zero."""
    out = torch.zeros_like(cotangent)
    if place is None:
        out[:, step] = cotangent[:, step]
    else:
        row = torch.arange(cotangent.shape[0], device=cotangent.device)
        out[row, place[:, step]] = cotangent[row, place[:, step]]
    return out


def _vjp(output: Tensor, leaves: list[Tensor], vectors: Tensor, batched: bool) -> list[Tensor]:
    """Products `vectors[i] . d output / d leaf`, stacked over i; zeros for leaves the output does not depend on."""
    if batched and len(vectors) > 1:
        grads = torch.autograd.grad(
            output, leaves, vectors, retain_graph=True, allow_unused=True, is_grads_batched=True
        )
        return [
            g if g is not None else leaf.new_zeros((len(vectors), *leaf.shape))
            for g, leaf in zip(grads, leaves, strict=True)
        ]
    single = [torch.autograd.grad(output, leaves, v, retain_graph=True, allow_unused=True) for v in vectors]
    return [
        torch.stack([torch.zeros_like(leaf) if s[i] is None else s[i] for s in single]) for i, leaf in enumerate(leaves)
    ]
