"""Products of all steps through the last block at once: one pass down to its input, its keys and its values.

A step is read at one position. In the last block of a decoder that position sees the others through their keys and
values alone; feed-forward layers, projections and norms work position by position. So one backward for all steps
together gives every step's gradient at the block's input, in the step's own row, and at its own row of attention;
what that row gives to keys and values are outer products:

    d value_t / d K = (d value_t / d scores_t)^T q_t        d value_t / d V = (weights_t)^T (d value_t / d output_t)

Only from there on does every step need a product of its own: through the keys' and values' projections, and through
the blocks below. That leaves out one block of all but these two projections, exactly.

Whether an architecture is built like that is found out, not assumed: the walk through the graph must not find a way
from the values to the inputs around the block's input (`LastBlock.check`), and a step's gradient at the block's input
must be zero everywhere but at its own position (checked once per model).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from attriflow.engine.cuts import Cut, at_places, of_owners, owners_at
from attriflow.kernels.attention import Operands, scores
from attriflow.models.base import Rows
from attriflow.models.blocks import find_blocks


class NotSeparableError(Exception):
    """The graph cannot be cut at the last block."""

    def __init__(self, reason: str, *, model: bool) -> None:
        """Say why, and whether it is so for every graph of this model."""
        super().__init__(reason)
        self.model = model


@dataclass(frozen=True)
class _Attention:
    """One call of attention: keys and values in the graph of the blocks below, the rows of the steps in that above.

    Attributes:
        key, value: `[row, key-value head, key, dim]`.
        query: Scaled, `[row, head, position, dim]`, of the span of positions that steps are read at.
        scores, weights: `[row, head, position, key]`.
        output: `[row, head, position, dim]`.
    """

    key: Tensor
    value: Tensor
    query: Tensor
    scores: Tensor
    weights: Tensor
    output: Tensor


class LastBlock:
    """Watches the last block of one pass."""

    def __init__(self, rows: Rows, owner: Tensor | None = None) -> None:
        """Take the rows of the pass, which know where each token is read, and `[row, token]` whose spans they are."""
        self.owner = owner
        self.query, (self.low, last) = rows.query, rows.span
        self.high = last + 1
        self.entry: Tensor | None = None
        self.calls: list[_Attention] = []
        self.passed = 0
        self.runs = 0
        self.inside = False

    @contextmanager
    def watch(self, hf: Any, encoder_decoder: bool) -> Iterator[None]:
        """Watch one pass; `attend` must be given the calls of attention while `inside`."""
        encoder = set(hf.get_encoder().modules()) if encoder_decoder else set()
        last = {owner: block for block, owner in find_blocks(hf).items() if block not in encoder}
        handles: list[Any] = []
        try:
            for block in last.values():
                handles.append(block.register_forward_pre_hook(self._enter, with_kwargs=True))
                handles.append(block.register_forward_hook(self._leave))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make the block's input, the first tensor of hidden states, one that only this block reads."""
        given: dict[Any, Any] = {**dict(enumerate(args)), **kwargs}
        hidden = (
            place for place, x in given.items() if isinstance(x, Tensor) and x.ndim == 3 and x.is_floating_point()
        )
        place = next(hidden, None)
        self.passed += 1
        if place is None or not given[place].requires_grad:
            return None  # another pass than that of the gradients, or one whose leaves come in elsewhere
        self.runs += 1
        self.inside = True
        self.entry = given[place].view_as(given[place])
        given[place] = self.entry
        return tuple(given[i] for i in range(len(args))), {name: given[name] for name in kwargs}

    def _leave(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        self.inside = False

    def attend(self, call: Operands) -> Tensor:
        """`scaled_dot_product_attention` at the positions steps are read at; zero elsewhere, where nobody looks."""
        span, (query, key, value) = slice(self.low, self.high), (call.query, call.key, call.value)
        wide = torch.promote_types(query.dtype, torch.float32)
        q = replace(call, query=query[:, :, span].to(wide)).scaled
        k, v = (call.by_head(t.detach().to(wide)) for t in (key, value))
        bias = call.bias()
        if bias is not None and bias.shape[-2] == query.shape[2]:
            bias = bias[..., span, :]
        found = scores(q, k, bias)
        weights = found.softmax(-1)
        output = weights @ v
        self.calls.append(_Attention(key, value, q, found, weights, output))
        before, after = self.low, query.shape[2] - self.high
        return torch.nn.functional.pad(output.to(query.dtype), (0, 0, before, after))

    def check(self, values: Tensor, leaves: Sequence[Tensor], *, probe: bool) -> None:
        """Make sure that the graph can be cut.

        Args:
            values: `[row, step]`.
            leaves: What the products lead to.
            probe: Look at gradients, too: at the block's input, a step's is in the step's own row.

        Raises:
            NotSeparableError: It cannot.
        """
        if self.passed and not self.runs:
            raise NotSeparableError("the last block's input does not depend on the leaves", model=False)
        if self.runs != 1 or self.entry is None or not self.calls:
            raise NotSeparableError("no last block that runs once, with attention of a known form", model=True)
        if not values.requires_grad or reaches(values, self.entry, leaves):
            raise NotSeparableError("something leads around the last block's input", model=False)
        if probe:
            (grad,) = torch.autograd.grad(values[:, -1].sum(), self.entry, retain_graph=True, materialize_grads=True)
            grad = grad.clone()
            if self.owner is None:
                grad[torch.arange(len(grad), device=grad.device), self.query[:, -1].to(grad.device)] = 0
            else:
                own = owners_at(self.owner.to(grad.device), self.query.to(grad.device), grad.shape[1])
                grad[own == values.shape[1] - 1] = 0
            if grad.any():
                raise NotSeparableError("the last block mixes positions not only in its attention", model=True)

    def cut(self, values: Tensor) -> Cut:
        """Go down to the block's input with all steps of `values [row, step]`, in a graph that `check` has passed."""
        return _AtLastBlock(self, values)


class _AtLastBlock(Cut):
    """The last block's input, and its keys and values."""

    def __init__(self, block: LastBlock, values: Tensor) -> None:
        assert block.entry is not None  # noqa: S101 - `LastBlock.check` has looked
        self.place = block.query.to(block.entry.device)
        self.row = self.place - block.low  # in what is kept of attention
        self.owner: Tensor | None = None
        if block.owner is not None:
            owner, length = block.owner.to(self.place.device), block.entry.shape[1]
            self.owner = owners_at(owner, self.place, length)
            self.owner_row = self.owner[:, block.low : block.high]
        self.calls = [c for c in block.calls if c.key.requires_grad or c.value.requires_grad]
        wanted = [block.entry, *(t for c in self.calls for t in (c.scores, c.output))]
        found = torch.autograd.grad(values.sum(), wanted, retain_graph=True, allow_unused=True)
        self.entry, *rest = (torch.zeros_like(t) if g is None else g for g, t in zip(found, wanted, strict=True))
        self.given = list(zip(rest[::2], rest[1::2], strict=True))
        self.roots = [block.entry]
        for call in self.calls:
            self.roots += [t for t in (call.key, call.value) if t.requires_grad]

    def vectors(self, steps: slice) -> list[Tensor]:
        """The step's row of the block's input; outer products for keys and values."""
        if self.owner is None:
            out = [at_places(self.entry, self.place, steps)]
        else:
            out = [of_owners(self.entry, self.owner, steps)]
        for call, (given, output) in zip(self.calls, self.given, strict=True):
            if call.key.requires_grad:
                out.append(self._outer(given, call.query.detach(), call.key, steps))
            if call.value.requires_grad:
                out.append(self._outer(call.weights.detach(), output, call.value, steps))
        return out

    def _outer(self, left: Tensor, right: Tensor, like: Tensor, steps: slice) -> Tensor:
        """`[step, row, key-value head, key, dim]`; `left` is `[row, head, position, key]`, `right` ends in dim."""
        groups = (like.shape[1], -1)
        if self.owner is not None:
            right = right.unflatten(1, groups)
            found = [
                torch.einsum("rhgpk,rhgpd->rhkd", of.unflatten(1, groups), right)
                for of in (
                    torch.where((self.owner_row == n)[:, None, :, None].to(left.device), left, 0.0)
                    for n in range(steps.start, steps.stop)
                )
            ]
            return torch.stack(found).to(like.dtype)
        index = self.row[:, None, steps, None]
        left, right = (t.gather(2, index.to(t.device).expand(-1, t.shape[1], -1, t.shape[3])) for t in (left, right))
        return torch.einsum("rhgsk,rhgsd->srhkd", left.unflatten(1, groups), right.unflatten(1, groups)).to(like.dtype)


def reaches(values: Tensor, entry: Tensor | None, leaves: Sequence[Tensor]) -> bool:
    """Whether the graph has a way from the values to a leaf (that does not pass the entry)."""
    seen, todo = {None if entry is None else entry.grad_fn}, [values.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if any(getattr(node, "variable", None) is leaf for leaf in leaves):
            return True
        todo += [following for following, _ in node.next_functions]
    return False
