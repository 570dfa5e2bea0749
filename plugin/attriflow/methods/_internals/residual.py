"""One recording pass that takes the residual stream apart; no per-architecture names.

What the model adds up is followed as it happens: a `TorchFunctionMode` sees every addition, hooks see norms and the
output projections of attention, and the attention interface shows weights and values. The result is a graph of sums,
frozen norms, attention layers and "the rest" (embeddings, MLPs, whatever is not recognised) that reproduces the input
of the LM head exactly:

    sum <- sum <- ... <- embeddings            each sum: state + attention layer, or state + rest
     ^      ^                                  a norm on this path is linear once its statistics are frozen
    rest   attention
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from attriflow.engine import Engine
from attriflow.kernels.positions import at
from attriflow.kernels.transfer import home
from attriflow.methods._internals.mixing import Affine, Edges
from attriflow.methods._internals.recording import Layer
from attriflow.models.blocks import is_norm


@dataclass(eq=False, kw_only=True)
class Node:
    """A tensor of the residual stream, numbered in the order of creation.

    `pending` is the attention layer whose output it carries on the way to the state that this will be added to.
    """

    order: int
    pending: Unit | None = None

    @property
    def parts(self) -> tuple[Node, ...]:
        """The nodes it is made of."""
        return ()


@dataclass(eq=False, kw_only=True)
class Rest(Node):
    """Embeddings, MLP outputs and everything else: its rows `[batch, token, hidden]` where tokens are read.

    `time` says after how many of the decoder's attention layers it came.
    """

    rows: Tensor | None
    time: int


@dataclass(eq=False, kw_only=True)
class Sum(Node):
    """The first node plus (or minus) the second."""

    terms: tuple[Node, Node]
    sign: int = 1

    @property
    def parts(self) -> tuple[Node, ...]:
        """The nodes it is made of."""
        return self.terms


@dataclass(eq=False, kw_only=True)
class Scaled(Node):
    """A node times a constant, or through a norm with frozen statistics `scale` `[batch, position, 1]`."""

    child: Node
    affine: Affine
    scale: Tensor | None = None

    @property
    def parts(self) -> tuple[Node, ...]:
        """The nodes it is made of."""
        return (self.child,)


@dataclass(eq=False, kw_only=True)
class Attended(Node):
    """The output of an attention layer."""

    unit: Unit


@dataclass(eq=False)
class Unit:
    """An attention layer, reduced to what the decomposition needs.

    Attributes:
        role, index: Which it is; `index` counts the layers of its side.
        edges: Shares of each position's own state and of each attended token in its new state.
        bias: Of decoder layers: that of the output projection.
        gap: Of decoder layers: what the projection read beyond the heads' outputs (a gate),
            `[batch, token, head * dim]`, where tokens are read.
    """

    role: str
    index: int
    order: int
    layer: Layer | None = None
    edges: Edges | None = None
    bias: Tensor | None = None
    gap: Tensor | None = None


ADD = {"add", "__add__", "__radd__", "add_", "__iadd__"}
SUBTRACT = {"sub", "__sub__", "sub_", "__isub__"}
MULTIPLY = {"mul", "__mul__", "__rmul__", "mul_", "__imul__", "multiply"}
DIVIDE = {"div", "__truediv__", "div_", "__itruediv__"}
# `clamp`: T5 cuts off infinities in half precision
SAME = {
    "to",
    "float",
    "double",
    "half",
    "bfloat16",
    "type",
    "type_as",
    "contiguous",
    "clone",
    "detach",
    "dropout",
    "clamp",
}
SHAPES = {"view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "__getitem__"}


@dataclass(eq=False)
class Stream(TorchFunctionMode):
    """Follows the residual streams of encoder and decoder through one pass (see the head of this file).

    Norms are taken for linear but for a statistic. Whether they were is asked at the end (`strange`), as each question
    makes the host wait; those of the calls `odd` are not.
    """

    engine: Engine
    odd: frozenset[int] = frozenset()
    decoder: list[Unit] = field(default_factory=list)
    encoder: list[Unit] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Nothing is known yet."""
        super().__init__()
        self._explained: list[Tensor] = []
        self._nodes: dict[int, tuple[weakref.ref[Tensor], Node]] = {}
        self._number, self._busy = count(), False
        self._affine: dict[nn.Module, Affine] = {}
        batch = self.engine.batch
        self._lengths = {batch.target_ids.shape[1]}
        if batch.source_ids is not None:
            self._lengths.add(batch.source_ids.shape[1])

    # -- looking on -------------------------------------------------------------------------------------------------

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at an operation before it runs (it may change its operands), note its result afterwards."""
        name = getattr(func, "__name__", "")
        node = None if self._busy else self._operation(name, args, kwargs or {})
        output = func(*args, **(kwargs or {}))
        if self._busy or not isinstance(output, Tensor):
            return output
        if name == "embedding":
            self._node(output)  # a state from before all attention
        elif node is not None and (name not in SHAPES or output.shape[-1:] == args[0].shape[-1:]):
            self._put(output, node)
        return output

    @contextmanager
    def _own_work(self) -> Iterator[None]:
        before, self._busy = self._busy, True
        try:
            yield
        finally:
            self._busy = before

    def _kept(self, tensor: Tensor) -> Tensor:
        """In the type of scores, all in one place wherever the layers are."""
        return tensor.detach().to(self.engine.batch.query.device, self.engine.dtype)

    def stop(self) -> None:
        """Look no further."""
        self._busy = True

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Follow additions, and norms by their hooks."""
        with ExitStack() as stack:
            for module in self.engine.model.hf.modules():
                if is_norm(module):
                    stack.callback(module.register_forward_hook(self._norm).remove)
            with self:
                yield

    def strange(self) -> frozenset[int]:
        """Calls of norms, by their number, that are something else."""
        return frozenset(i for i, explained in enumerate(home(self._explained)) if not explained) - self.odd

    def get(self, tensor: Any) -> Node | None:
        """The node of a tensor, if it belongs to a residual stream."""
        found = self._nodes.get(id(tensor))
        return found[1] if found is not None and found[0]() is tensor else None

    def _put(self, tensor: Tensor, node: Node) -> None:
        key = id(tensor)

        def forget(gone: weakref.ref[Tensor]) -> None:
            if key in self._nodes and self._nodes[key][0] is gone:
                del self._nodes[key]

        self._nodes[key] = (weakref.ref(tensor, forget), node)

    def _canonical(self, tensor: Tensor) -> Tensor | None:
        """A view as `[batch, position, hidden]` where the shape says that it is one."""
        size = self.engine.batch.size
        if not tensor.is_floating_point():
            return None
        if tensor.ndim == 3 and tensor.shape[0] == size and tensor.shape[1] in self._lengths:
            return tensor
        if tensor.ndim == 2 and tensor.shape[0] in {size * n for n in self._lengths}:
            return tensor.view(size, -1, tensor.shape[1])
        return None

    def _node(self, tensor: Tensor, shape: torch.Size | None = None) -> Node | None:
        """The node of an operand; a tensor of unknown origin becomes a `Rest`."""
        if (known := self.get(tensor)) is not None:
            return known
        with self._own_work():
            full = self._canonical(tensor if shape is None else tensor.expand(shape))
            if full is None:
                return None
            query = self.engine.read.query
            rows = None
            if full.shape[1] == self.engine.batch.target_ids.shape[1]:
                rows = self._kept(at(full, query, 1))
            node = Rest(order=next(self._number), rows=rows, time=len(self.decoder))
            if shape is None or shape == tensor.shape:
                self._put(tensor, node)
            return node

    def _operation(self, name: str, args: Any, kwargs: Any) -> Node | None:
        if not args or (not isinstance(args[0], Tensor) and name not in MULTIPLY):
            return None
        if name in SAME:
            return self.get(args[0])
        if name in SHAPES:
            node = self.get(args[0])
            return node if node is not None and _keeps_rows(name, args) else None
        if len(args) != 2 or kwargs:
            return None
        if name in ADD or name in SUBTRACT:
            return self._sum(args[0], args[1], 1 if name in ADD else -1)
        if name in MULTIPLY or name in DIVIDE:
            return self._scaled(args[0], args[1], divide=name in DIVIDE)
        return None

    def _sum(self, a: Any, b: Any, sign: int) -> Node | None:
        if not isinstance(a, Tensor) or not isinstance(b, Tensor):
            return None
        known = self.get(a), self.get(b)
        if known == (None, None) and (self._canonical(a) is None or b.ndim < 2):
            return None
        try:
            shape = torch.broadcast_shapes(a.shape, b.shape)
        except RuntimeError:
            return None
        first, second = self._node(a, shape), self._node(b, shape)
        if first is None or second is None:
            return None
        node = Sum(order=next(self._number), terms=(first, second), sign=sign)
        pending = [n for n in (first, second) if n.pending is not None and n.pending.edges is None]
        if len(pending) == 1:
            unit, other = pending[0].pending, second if pending[0] is first else first
            assert unit is not None  # noqa: S101
            if other.order < unit.order:
                # a state from before the attention layer: the residual connection
                self._mix(unit, pending[0], a if other is first else b)
            else:
                node.pending = unit  # an MLP beside the attention, or an adapter's part of its projection
        return node

    def _scaled(self, a: Any, b: Any, divide: bool) -> Node | None:
        if self.get(a) is None and not divide:
            a, b = b, a
        child = self.get(a)
        if child is None or (isinstance(b, Tensor) and b.numel() != 1 and b.shape != a.shape[-1:]):
            return None
        with self._own_work():
            factor = torch.as_tensor(b, dtype=self.engine.dtype, device=a.device)
            gain = (1 / factor if divide else factor).expand(a.shape[-1])
            affine = Affine(gain, torch.zeros_like(gain))
        return Scaled(order=next(self._number), child=child, affine=affine, pending=child.pending)

    def _norm(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._busy or not args or not isinstance(args[0], Tensor) or not isinstance(output, Tensor):
            return
        child = self._node(args[0])
        with self._own_work():
            given, after = self._canonical(args[0]), self._canonical(output)
            if child is None or given is None or after is None or given.shape != after.shape:
                return
            dtype = self.engine.dtype
            if module not in self._affine:
                self._affine[module] = Affine.of(module, given.shape[-1], after, dtype)
            affine = self._affine[module]
            scale, explained = affine.frozen(given.to(after.device, dtype), after.to(dtype))
        self._explained.append(explained)
        if len(self._explained) - 1 not in self.odd:
            order = next(self._number)
            self._put(output, Scaled(order=order, child=child, affine=affine, scale=scale, pending=child.pending))

    def attended(self, layer: Layer) -> None:
        """Note the output of an attention layer."""
        with self._own_work():
            side = self.encoder if layer.role == "encoder_self" else self.decoder
            unit = Unit(layer.role, len(side), next(self._number), layer)
            side.append(unit)
            if side is self.decoder:
                query, call = self.engine.read.query, layer.call
                unit.bias = None if layer.bias is None else self._kept(layer.bias)
                unit.gap = self._kept(at(layer.given, query, 1) - at(call.output.flatten(2), query, 1))
            self._put(layer.output, Attended(order=next(self._number), unit=unit, pending=unit))

    # -- mixing -----------------------------------------------------------------------------------------------------

    def _mix(self, unit: Unit, node: Node, residual: Tensor) -> None:
        """Note what the state after an attention layer is made of."""
        with self._own_work():
            maps: list[Scaled] = []
            while not isinstance(node, Attended):
                if isinstance(node, Scaled):
                    maps.insert(0, node)
                node = next(n for n in node.parts if n.pending is unit)
            state = self._canonical(residual)
            assert state is not None and unit.layer is not None  # noqa: S101
            unit.edges = Edges.of(unit.layer, [(m.affine, m.scale) for m in maps], state.to(self.engine.dtype))
            unit.layer = None


def _keeps_rows(name: str, args: Any) -> bool:
    """Whether an indexing or a change of shape keeps the hidden axis: `x[:, positions, :]`, `x.view(-1, hidden)`."""
    if name != "__getitem__":
        return True
    index = args[1] if isinstance(args[1], tuple) else (args[1],)
    whole = slice(None)
    return len(index) in (2, 3) and isinstance(index[0], slice) and index[0] == whole and index[2:] in ((), (whole,))
