"""Gradients of all target steps from shared graphs: the engine's second primitive.

One graph per chunk of path points serves all steps: the gradient first goes from every step's value as far down as the
steps can be told apart by their positions (one backward for all of them: through the LM head and most of the last
block, see `cuts` and `last_block`), then one batched vector-Jacobian product per chunk of steps goes down to the
inputs.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from attriflow.engine import sizes as settings
from attriflow.engine.bound import Bound, Embed, Objective, Reduce, Sites, site_output
from attriflow.engine.cuts import AtHead, AtValues, Cut
from attriflow.engine.last_block import LastBlock, NotSeparableError, reaches
from attriflow.engine.linearised import linearised
from attriflow.engine.memory import Halving
from attriflow.engine.prefix import Prefix
from attriflow.engine.products import Products
from attriflow.engine.sizes import blocks_at_once
from attriflow.engine.stretches import NotAChainError, Stretches
from attriflow.errors import OutOfMemoryError, UnsupportedModelError, out_of_memory
from attriflow.kernels.linear import without_zero_rows
from attriflow.kernels.plain import plain, shortcuts
from attriflow.models.base import LanguageModel, Rows
from attriflow.models.checking import ordinary_ids
from attriflow.types import Example, Token

_FIXED_TOKENS, _FIXED_WIDTH = 64, 1e7
"""What a graph costs whatever its length, in tokens of a product (measured on CPUs with models 128 and 768 wide)."""


@dataclass(frozen=True)
class Gradients:
    """An iterable over slices of steps with block -> `[batch, step, position, hidden]`; see `Engine.gradients`.

    Complexity: `len(alphas)` forwards and `len(alphas) * steps` products. Forwards are repeated for groups of steps
    only where there are several graphs and the gradients of all steps do not fit into memory together.
    """

    bound: Bound
    prefix: Callable[[], Prefix | None]
    points: Callable[[float], Mapping[str, Tensor]] | None
    alphas: Sequence[float]
    weights: Sequence[float] | Tensor | None
    max_rows: int | None
    sites: Sites | None
    within: Callable[[], AbstractContextManager[Any]] | None
    reduce: Reduce | None
    embed: Embed | None
    unchanged: int = 0
    together: int | None = None
    blocks: int | None = None

    @cached_property
    def _weights(self) -> Tensor | None:
        """Weights of the points on the model's device; None where they are all 1."""
        if self.weights is None:
            return None
        return torch.as_tensor(self.weights, dtype=self.bound.dtype, device=self.bound.model.device)

    def __iter__(self) -> Iterator[tuple[slice, dict[str, Tensor]]]:
        """Run."""
        model = self.bound.model
        if self.sites is not None or self.within is not None:
            self.bound.watched()
        if self.sites is None:
            model.checked.require("gradient")
            if model.shares_gradients is None and shortcuts():
                model.shares_gradients = True  # while it is found out
                model.shares_gradients = shared_work_agrees(model)
        with nullcontext() if model.shares_gradients is not False else plain():
            for group in self._groups():
                yield from self._group(group)

    def _groups(self) -> list[slice]:
        """Ranges of steps that get graphs of their own, each no longer than its last step's prefix.

        A product through a shorter graph costs less, a further graph costs more: its forward, about two products, and
        what does not depend on its length (starting operations, reading weights). The number of equal ranges with the
        least cost is taken, counted in tokens.
        """
        batch, n = self.bound.batch.host, self.bound.batch.n_steps
        first = int((batch.query >= self.unchanged).any(0).long().argmax())  # earlier steps see nothing that moves
        whole = self.within is not None or self.sites is not None or not self.bound.objective.stepwise
        if whole or not shortcuts():
            return [slice(0, n)]
        source = 0 if batch.source_ids is None else batch.source_ids.shape[1]
        reach = (batch.query.max(0).values + 1).tolist()
        rows = len(self.alphas) * batch.size
        graphs = -(-rows // min(rows, max(batch.size, self.bound.sizes.rows_at_once(grad=True))))
        fixed = graphs * (_FIXED_TOKENS + _FIXED_WIDTH / self.bound.model.hidden_size**2) / rows
        best, least = [slice(first, n)], float("inf")
        for count in range(1, min(n - first, 16) + 1):
            edges = [first + round(i * (n - first) / count) for i in range(count + 1)]
            ranges = [(a, b, max(reach[a:b])) for a, b in itertools.pairwise(edges)]
            # in a batch whose prompts differ in length, the steps between may see nothing that moves, either
            ranges = [r for r in ranges if r[2] > self.unchanged]
            cost = sum((b - a + 2) * (source + width - self.unchanged) + fixed for a, b, width in ranges)
            if cost < 0.97 * least:
                best, least = [slice(a, b) for a, b, _ in ranges], cost
        return best

    def _prefix(self, steps: slice) -> int:
        """Decoder tokens that a range of steps reads."""
        whole = not self.bound.objective.stepwise or self.within is not None
        query = self.bound.read.host.query if whole else self.bound.batch.host.query[:, steps]
        return int(query.max()) + 1

    def _reads(self, steps: slice) -> slice:
        """The tokens that the model is read at for a range of steps."""
        if self.bound.spans is None:
            return steps
        if not self.bound.objective.stepwise or self.within is not None:  # may look at the logits of all
            return slice(0, self.bound.read.n_steps)
        return self.bound.spans.reads(steps)

    def _owner(self, steps: slice, n: int) -> Tensor | None:
        """`[row, token]`: the step of each token that is read, of `n` versions; None where tokens are steps."""
        spans = self.bound.spans
        return None if spans is None else spans.owners(self._reads(steps), steps, self.unchanged).repeat(n, 1)

    def _group(self, steps: slice) -> Iterator[tuple[slice, dict[str, Tensor]]]:
        """One range of steps."""
        bound, n = self.bound, len(self.alphas)
        limit = max(1, bound.sizes.rows_at_once(grad=True) // bound.batch.size)
        if self.max_rows is not None:
            limit = min(limit, max(1, self.max_rows // bound.batch.size))
        limit = -(-n // -(-n // limit))  # graphs of about the same size
        if n <= limit:
            begun = False
            try:
                for found in self._chunk(0, n, steps):
                    begun = True
                    yield found
                return
            except Exception as error:
                if begun or not out_of_memory(error):
                    raise
                limit = n // 2
        # several graphs: the gradient of every step is summed up, in ranges of steps that fit into memory
        size = bound.sizes.summed()
        if self.within is not None:
            size = steps.stop - steps.start  # a context may have seen the whole input
        points = Halving("a single point of the path")
        for start in range(steps.start, steps.stop, size):
            total: dict[str, Tensor] = {}
            part = slice(start, min(steps.stop, start + size))
            self._accumulate(total, part, points, limit)
            yield part, total

    def _accumulate(self, total: dict[str, Tensor], group: slice, points: Halving, limit: int) -> None:
        """Add up the gradients of a group of steps over chunks of points."""

        def add(first: int, last: int) -> None:
            added = False
            try:
                for steps, grads in self._chunk(first, last, group):
                    place = slice(steps.start - group.start, steps.stop - group.start)
                    for block, g in grads.items():
                        shape = (g.shape[0], group.stop - group.start, *g.shape[2:])
                        sums = total.setdefault(block, g.new_zeros(shape))[:, place]
                        added = True
                        sums += g
            except Exception as error:
                if added and out_of_memory(error):  # once more would count twice
                    raise OutOfMemoryError("out of memory while gradients are added up") from None
                raise

        points.each(len(self.alphas), limit, add)

    def _chunk(self, first: int, last: int, steps: slice) -> Iterator[tuple[slice, dict[str, Tensor]]]:
        """Points `first:last` in one graph, products of a range of steps."""
        bound, alphas = self.bound, self.alphas[first:last]
        weights = None if self._weights is None else self._weights[first:last]
        n, size = len(alphas), bound.batch.size
        made = [self._point(a) for a in alphas]
        dtype = bound.model.dtype
        leaves = {b: torch.cat([m[b] for m in made]).to(dtype).detach().requires_grad_(True) for b in made[0]}
        with torch.enable_grad():
            cut = self._cut(leaves, alphas, weights, steps)
            for part, grads in self._products(cut, steps, n * size, list(leaves.values())):
                if cut is not None and cut.scale is not None:
                    scale = cut.scale[:, part].T[:, :, None, None].to(bound.dtype)
                    grads = [g.to(bound.dtype) / scale.to(g.device) for g in grads]
                done = slice(steps.start + part.start, steps.start + part.stop)
                yield done, {b: self._summed(b, g, alphas) for b, g in zip(leaves, grads, strict=True)}

    def _point(self, alpha: float) -> Mapping[str, Tensor]:
        if self.points is not None:
            return self.points(alpha)
        if self.sites is not None:
            return self.bound.activations(self.sites)
        return {b: self.bound.embeddings(b) for b in self.bound.blocks}

    def _summed(self, block: str, grads: Tensor, alphas: Sequence[float]) -> Tensor:
        """`[step, point * batch, ...]` -> `[batch, step, ...]`, summed over the points."""
        grads = grads.unflatten(1, (len(alphas), self.bound.batch.size))
        if self.reduce is not None:
            return self.reduce(block, grads.to(self.bound.dtype), alphas).transpose(0, 1)
        return grads.sum(1, dtype=self.bound.dtype).transpose(0, 1)

    def _cut(
        self, leaves: Mapping[str, Tensor], alphas: Sequence[float], weights: Tensor | None, steps: slice
    ) -> Cut | None:
        """One graph, and how far all steps go down in it together; None where no value depends on the leaves."""
        model, apart, blocks = self.bound.model, self._separable(len(alphas), steps), self._blocks(len(alphas), steps)
        while True:
            try:
                return self._graph(leaves, alphas, weights, steps, apart=apart, blocks=blocks)
            except NotSeparableError as error:
                apart = False
                if error.model and self.sites is None:
                    model.last_block_separable = False
            except NotAChainError:
                blocks = None
                model.stack_is_chain = False

    def _blocks(self, points: int, steps: slice) -> int | None:
        """Blocks of a stretch, where graphs are made a stretch at a time (see `stretches`); None for one graph."""
        bound, model = self.bound, self.bound.model
        whole = self.within is not None or self.unchanged or bound.objective.passes or model.is_encoder_decoder
        if whole or not shortcuts() or model.stack_is_chain is False or model.virtual_tokens:
            return None
        if model.rope is not None and model.rope.reached(bound.read.host.query[:, self._reads(steps)]):
            return None
        if self.blocks is not None:
            return self.blocks
        blocks = blocks_at_once(model, points * bound.batch.size, self._prefix(steps))
        if blocks is not None and model.stack_is_chain is None:
            model.stack_is_chain = True  # while it is found out
            model.stack_is_chain = stretches_agree(model)
        return blocks if model.stack_is_chain else None

    def _separable(self, points: int, steps: slice) -> bool:
        """Whether to try to tell the steps apart below the last block (see `last_block`)."""
        bound, objective, query = self.bound, self.bound.objective, self.bound.read.host.query[:, self._reads(steps)]
        if self.within is not None or not objective.stepwise or objective.passes or not shortcuts():
            return False
        rope = bound.model.rope
        if (
            bound.model.last_block_separable is False
            or bound.model.virtual_tokens
            or (rope is not None and rope.reached(query))
        ):
            return False
        span = int(query.max()) - int(query.min()) + 1
        width = bound.batch.target_ids.shape[1]
        return points * bound.sizes.attention_bytes() * span / width <= settings.CHUNK_BYTES / 8

    def _graph(
        self,
        leaves: Mapping[str, Tensor],
        alphas: Sequence[float],
        weights: Tensor | None,
        steps: slice,
        *,
        apart: bool,
        blocks: int | None = None,
    ) -> Cut | None:
        """One graph; with `apart`, cut at the last block, with `blocks`, the part of it that they make."""
        bound, model, n = self.bound, self.bound.model, len(alphas)
        embeds = leaves if self.embed is None else self.embed(leaves, alphas)
        changes = {} if self.sites is not None else {f"{block}_embeds": e for block, e in embeds.items()}
        rows = self._shortened(bound.rows(n, **changes), steps)
        caught: list[Tensor] = []
        head = model.hf.get_output_embeddings() if bound.objective.stepwise and shortcuts() else None
        if isinstance(head, nn.Embedding):  # some give the table that the head is tied to
            head = None
        reads, owner = self._reads(steps), self._owner(steps, n)
        last = LastBlock(rows, owner) if apart else None
        below = None if blocks is None else Stretches(model, blocks, list((self.sites or {}).values()))
        with ExitStack() as stack:
            if below is not None:
                stack.enter_context(below.watch())  # first: others see hidden states that it has put in place
            if head is not None:
                stack.enter_context(_hook(head.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))))
            for block, module in (self.sites or {}).items():
                stack.enter_context(_hook(module.register_forward_hook(_replace(leaves[block]))))
            if last is not None:
                stack.enter_context(last.watch(model.hf, model.is_encoder_decoder))
            stack.enter_context(self._watched(last))
            forward = bound.run(rows, reads)
            values = bound.objective(forward)
        values = bound.of_steps(values, reads, steps, self.unchanged)
        begins = list(leaves.values())
        if below is not None and below.entry is not None:
            if reaches(values, None, begins):
                raise NotAChainError
            begins.append(below.entry)
        if last is not None:
            last.check(values, begins, probe=model.last_block_separable is None)
            model.last_block_separable = True
        all_of_them = bound.spans is None or reads == slice(0, bound.read.n_steps)
        if n == 1 and self.points is None and self.sites is None and not self.unchanged and all_of_them:
            bound.offer_base(forward, reads)
        if not forward.logits.requires_grad:  # never zeros for what is missing
            raise UnsupportedModelError(f"a forward of {type(model.hf).__name__} makes no gradient")
        if not values.requires_grad:
            return None
        counted = bound.batch.step_mask[:, steps]
        if self.unchanged:
            counted = counted & (bound.batch.query[:, steps] >= self.unchanged)
        if weights is not None:
            values = values * weights.to(values).repeat_interleave(bound.batch.size).unsqueeze(-1)
        values = values * counted.repeat(n, 1)
        scale = self._scale(values, forward.logits, owner)
        values = values if scale is None else values * scale
        cut: Cut
        if last is not None:
            cut = last.cut(values)
        elif len(caught) == 1 and caught[0].requires_grad and caught[0].ndim == 3:
            cut = AtHead(caught[0], values, rows, model.virtual_tokens, owner)
        else:
            cut = AtValues(values)
        cut.scale = scale
        cut.below = None if below is None or below.entry is None else below
        return cut

    @contextmanager
    def _watched(self, last: LastBlock | None = None) -> Iterator[None]:
        """The context that graphs are made in."""
        hf = self.bound.model.hf
        with without_zero_rows(hf):  # first: others see the layers as they are
            if self.within is not None:
                inner = self.within()
            else:
                inner = linearised(hf, settings.CHUNK_BYTES / 8, last) if shortcuts() else nullcontext()
            with inner:
                yield

    def _scale(self, values: Tensor, logits: Tensor, owner: Tensor | None) -> Tensor | None:
        """Powers of two that bring each value's largest derivative by a logit to about 1, `[row, step]`.

        float16 has no numbers below 6e-8: the derivatives of a probability near 1 would become zero on their way down.
        """
        whole = self.within is not None or not self.bound.objective.stepwise  # DeepLIFT divides by small differences
        if self.bound.model.dtype != torch.float16 or whole:
            return None
        (slope,) = torch.autograd.grad(values.sum(), logits, retain_graph=True, allow_unused=True)
        if slope is None:
            return None
        most = slope.abs().amax(-1)
        if owner is not None:
            owner = owner.to(most.device)
            most = most.new_zeros(values.shape).scatter_reduce(1, owner.clamp(min=0), most * (owner >= 0), "amax")
        return torch.where(most > 0, torch.exp2(-most.log2().floor()), 1.0).clamp(max=2.0**100)

    def _shortened(self, rows: Rows, steps: slice) -> Rows:
        """The rows without what comes after the prefix of a range of steps, and without what does not change."""
        width, reads = self._prefix(steps), self._reads(steps)
        query, places = rows.query[:, reads], rows.planned[:, reads]
        if self.bound.spans is not None:  # an example's tokens beyond the range may have got in with those of another
            query, places = query.clamp(max=width - 1), places.clamp(max=width - 1)
        if self.sites is not None or (width == self.bound.ids("target").shape[1] and not self.unchanged):
            return dataclasses.replace(rows, query=query, places=places)
        cut: dict[str, Any] = {
            name: value[:, self.unchanged : width]
            for name in ("target_ids", "target_embeds", "target_mask")
            if (value := getattr(rows, name)) is not None
        }
        prefix = self.prefix() if self.unchanged else None
        if prefix is not None:
            cache = prefix.cache(self.unchanged, query.shape[0] // self.bound.batch.size)
            cut["past"] = (cache, self.unchanged)
        if self.unchanged:
            query, places = ((q - self.unchanged).clamp(min=0) for q in (query, places))
        return dataclasses.replace(rows, query=query, places=places, **cut)

    def _products(
        self, cut: Cut | None, steps: slice, n_rows: int, leaves: list[Tensor]
    ) -> Iterator[tuple[slice, list[Tensor]]]:
        """Vector-Jacobian products of every step, `[step, row, position, hidden]` per leaf.

        Args:
            cut: Where they start; None where they are zero (a constant custom objective).
            steps: Which steps the graph is for; slices that are yielded count from the first of them.
            n_rows: How many rows the graph has.
            leaves: With respect to what.
        """
        n_steps = steps.stop - steps.start
        if cut is None:
            yield slice(0, n_steps), [leaf.new_zeros((n_steps, *leaf.shape)) for leaf in leaves]
            return
        left_out = self.bound.ids("target").shape[1] - self._prefix(steps) + self.unchanged
        at_once = self.together or self.bound.sizes.rows_at_once(products=True, left_out=left_out)
        products = Products(max(1, at_once // n_rows), shortcuts())
        for part, found in products.down(cut, leaves, n_steps, self._watched):
            self.bound.counter.backward_rows += (part.stop - part.start) * n_rows
            yield part, found


def shared_work_agrees(model: LanguageModel) -> bool:
    """Whether the gradients of a few tokens are those that plain backward passes give, step by step."""
    bound = _few_tokens(model)
    shared = _gradients_of_input(bound)
    with plain():
        return _agree(shared, _gradients_of_input(bound), model.dtype)


def stretches_agree(model: LanguageModel) -> bool:
    """The same for graphs of one block at a time and one graph."""
    bound = _few_tokens(model)
    found = _gradients_of_input(bound, 1)
    return model.stack_is_chain is True and _agree(found, _gradients_of_input(bound, 10**6), model.dtype)


def _few_tokens(model: LanguageModel) -> Bound:
    """A short example, read at its last three tokens."""
    ids = ordinary_ids(model, 5)
    source = [Token(text="", id=i, segment="source") for i in ids[::-1] if model.is_encoder_decoder]
    target = [Token(text="", id=i) for i in ([model.start_id, *ids] if model.is_encoder_decoder else ids)]
    example = Example(source=tuple(source), target=tuple(target), start=len(target) - 3, stop=len(target))
    objective = Objective(lambda f: f.logits.gather(-1, f.target_ids.unsqueeze(-1)).squeeze(-1))
    return Bound(model, [example], objective, model.sides)


def _agree(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], dtype: torch.dtype) -> bool:
    close = 1e-7 if dtype == torch.float64 else 1e-3 if dtype == torch.float32 else 0.1
    return all(
        bool((found[b] - w).norm() <= close * w.norm() + 1e-9) or not bool(w.isfinite().all())
        for b, w in wanted.items()
    )


def _gradients_of_input(bound: Bound, blocks: int | None = None) -> dict[str, Tensor]:
    parts = list(Gradients(bound, lambda: None, None, (1.0,), None, None, None, None, None, None, blocks=blocks))
    return {block: torch.cat([part[block] for _, part in parts], 1) for block in bound.blocks}


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
