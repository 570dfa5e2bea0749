"""Graphs of long texts, a few blocks at a time: memory of the gradients of all steps that is one stretch's.

The blocks of a stack below the uppermost stretch run without a graph, and only what each stretch begins with is kept.
When all products have come down to where a stretch ends, its graph is made once for all of them (a forward of its
blocks) and let go again. One more forward at most, whatever the number of steps; the numbers are those of one graph.

It takes a stack whose blocks are a chain: each reads the hidden states that the one before has written, and nothing
else that depends on the leaves. The first is seen in every pass (it is the same tensor), a second way within each
block's arguments, too; a way around that shows in neither, in gradients (checked once per model, see `gradients`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from attriflow.models.base import LanguageModel
from attriflow.models.blocks import hidden_states, main_stack


class NotAChainError(Exception):
    """The blocks of a pass are none, or the values depend on something besides the last one's output."""


@dataclass(frozen=True)
class _Call:
    """A block and what it was given, without the hidden states, which go into a place among them."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    place: int | str

    def __call__(self, hidden: Tensor) -> Tensor:
        """Run it again."""
        return hidden_states(self.module(*_put(self.args, self.place, hidden), **_put(self.kwargs, self.place, hidden)))  # type: ignore[no-any-return]


@dataclass
class Stretch:
    """Blocks in a row, and the hidden states that they begin with."""

    start: Tensor
    calls: list[_Call] = field(default_factory=list)

    def graph(self) -> tuple[Tensor, Tensor]:
        """Run them again: a leaf, and what they make of it."""
        leaf = self.start.detach().requires_grad_()
        hidden = leaf.clone()  # blocks may write into it
        for call in self.calls:
            hidden = call(hidden)
        return leaf, hidden


class Stretches:
    """Watches the stack of one pass.

    Attributes:
        bottom: Hidden states that the lowest stretch begins with, in the graph of the leaves; None where the pass has
            made one graph after all, as there was nothing to divide.
        entry: Those that the uppermost stretch begins with, a leaf of its graph.
        stretches: Those between the two, from below.
    """

    def __init__(self, model: LanguageModel, blocks: int, sites: Collection[nn.Module] = ()) -> None:
        """Take the number of blocks of a stretch, and the modules whose outputs are leaves."""
        self.stack = main_stack(model.hf, model.shape.layers)
        self.blocks, self.top = blocks, len(self.stack) - blocks
        self.number = {block: n for n, block in enumerate(self.stack)}
        own = [n for n, block in enumerate(self.stack) if sites and not set(sites).isdisjoint(block.modules())]
        self.lowest = max(own, default=-1) + 1
        self.bottom: Tensor | None = None
        self.entry: Tensor | None = None
        self.stretches: list[Stretch] = []
        self._last: Tensor | None = None
        self._next = 0

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Watch one pass, before anybody else does.

        Raises:
            NotAChainError: The blocks are none.
        """
        enabled, handles = torch.is_grad_enabled(), list[Any]()
        try:
            for block in self.stack:
                handles.append(block.register_forward_pre_hook(self._before, with_kwargs=True))
                handles.append(block.register_forward_hook(self._after))
            yield
            if self.bottom is not None and self._next != len(self.stack):
                raise NotAChainError
        finally:
            self._last = None  # the end of a graph that need not last
            torch.set_grad_enabled(enabled)
            for handle in handles:
                handle.remove()

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        n, given = self.number[module], dict[Any, Any](enumerate(args))
        given |= kwargs
        found = (k for k, x in given.items() if isinstance(x, Tensor) and x.ndim == 3 and x.is_floating_point())
        place = next(found, None)
        hidden = None if place is None else given.pop(place)
        if self.bottom is None:
            if not self.lowest <= n < self.top or hidden is None or not hidden.requires_grad:
                return None  # nothing depends on the leaves yet, or nothing is left to divide
            self.bottom, self._next = hidden, n
        elif n != self._next or hidden is not self._last:
            raise NotAChainError
        if place is None or hidden is None or not all(map(_independent, given.values())):
            raise NotAChainError
        self._next += 1
        if n > self.top:
            return None
        if n == self.top:
            torch.set_grad_enabled(True)
            self.entry = hidden.detach().requires_grad_()
            hidden = self.entry.clone()  # blocks may write into it
        else:
            torch.set_grad_enabled(False)
            hidden = hidden.detach()
            if not self.stretches or (self.top - n) % self.blocks == 0:
                self.stretches.append(Stretch(hidden.clone()))
            self.stretches[-1].calls.append(_Call(module, _put(args, place, None), _put(kwargs, place, None), place))
        return _put(args, place, hidden), _put(kwargs, place, hidden)

    def _after(self, _module: nn.Module, _args: Any, output: Any) -> None:
        self._last = hidden_states(output) if self.bottom is not None else None


def _independent(value: Any) -> bool:
    """Whether an argument is a constant, and the same in a second run (a cache is not)."""
    if isinstance(value, (tuple, list)):
        return all(map(_independent, value))
    if isinstance(value, dict):
        return all(map(_independent, value.values()))
    return (
        value is None
        or isinstance(value, (bool, int, float, str))
        or (isinstance(value, Tensor) and not value.requires_grad)
    )


def _put(given: Any, place: int | str | None, what: Tensor | None) -> Any:
    """Arguments, positional or named, with another one in a place if it is theirs."""
    if isinstance(given, tuple):
        return tuple(what if n == place else x for n, x in enumerate(given))
    return {k: what if k == place else x for k, x in given.items()}
