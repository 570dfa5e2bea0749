"""Vector-Jacobian products of many steps through one graph, or through one stretch of it after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attriflow.engine import sizes as settings
from attriflow.engine.cuts import Cut
from attriflow.engine.memory import Halving, give_back
from attriflow.errors import out_of_memory
from attriflow.kernels.vmapped import unremarked

Part = tuple[slice, list[Tensor]]
"""Steps, and their products per leaf, `[step, *leaf]`."""


@dataclass
class Products:
    """How products are made.

    Attributes:
        size: Steps whose products go through a graph together.
        batched: Whether they can.
    """

    size: int
    batched: bool
    _halving: Halving = field(default_factory=lambda: Halving("the backward pass of a single step"))

    def down(self, cut: Cut, leaves: list[Tensor], n: int, context: Callable[[], Any]) -> Iterator[Part]:
        """From a cut to the leaves, for so many steps; graphs that are made on the way are made in the context."""
        below = cut.below
        if below is None:
            yield from self.through(cut.roots, leaves, n, cut.vectors)
            return
        assert below.entry is not None  # noqa: S101 - a pass was watched
        at_once = max(self.size, int(settings.CHUNK_BYTES / 2 / (below.entry.numel() * below.entry.element_size())))
        for start in range(0, n, at_once):
            steps = slice(start, min(n, start + at_once))
            for part, products in self._stretches(cut, leaves, steps, context):
                yield slice(start + part.start, start + part.stop), products

    def _stretches(
        self, cut: Cut, leaves: list[Tensor], steps: slice, context: Callable[[], AbstractContextManager[Any]]
    ) -> Iterator[Part]:
        below = cut.below
        assert below is not None and below.entry is not None and below.bottom is not None  # noqa: S101
        n = steps.stop - steps.start
        at = below.entry.new_empty(n, *below.entry.shape)  # products down to where the next stretch begins

        def some(part: slice) -> list[Tensor]:
            return cut.vectors(slice(steps.start + part.start, steps.start + part.stop))

        for part, (found,) in self.through(cut.roots, [below.entry], n, some):
            at[part] = found
        for stretch in reversed(below.stretches):
            self._one(stretch, at, context)
        yield from self.through([below.bottom], leaves, n, lambda part: [at[part]])

    def _one(self, stretch: Any, at: Tensor, context: Callable[[], AbstractContextManager[Any]]) -> None:
        """Through one stretch, whose graph is gone then."""
        give_back()  # what small tensors leave behind comes on top of the graph
        with torch.enable_grad(), context():
            leaf, root = stretch.graph()
        for part, (found,) in self.through([root], [leaf], len(at), lambda part: [at[part]]):
            at[part] = found

    def through(
        self, roots: list[Tensor], leaves: list[Tensor], n: int, vectors: Callable[[slice], list[Tensor]]
    ) -> Iterator[Part]:
        """Through one graph: `vectors` are those of some steps, `[step, *root]` per root."""

        def product(start: int, stop: int) -> Part:
            part = slice(start, stop)
            try:
                return part, _vjp(roots, leaves, vectors(part), self.batched)
            except RuntimeError as error:
                # an operation without a batching rule (custom kernels): the same products one by one
                if not self.batched or out_of_memory(error):
                    raise
                self.batched = False
                return part, _vjp(roots, leaves, vectors(part), self.batched)

        return self._halving.parts(n, self.size, product)


def _vjp(roots: list[Tensor], leaves: list[Tensor], vectors: list[Tensor], batched: bool) -> list[Tensor]:
    """Products `vectors[i] . d roots / d leaf`, stacked over i; zeros for leaves the roots do not depend on."""
    n = len(vectors[0])

    def product(*vector: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(roots, leaves, vector, retain_graph=True, materialize_grads=True)

    if batched and n > 1:
        with unremarked():  # fused attention is done product by product, as it has to be
            return list(torch.vmap(product)(*vectors))
    single = [product(*(v[i] for v in vectors)) for i in range(n)]
    return [torch.stack(found) for found in zip(*single, strict=True)]
