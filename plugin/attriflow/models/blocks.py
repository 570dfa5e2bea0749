"""Transformer blocks: found, recorded during one pass, run again with changed attention; no per-architecture names.

A block is an element of an outermost `nn.ModuleList` whose attention goes through `transformers.AttentionInterface`.
Everything else in a block works position by position, so with the attention outputs given it can be run on any list
of positions in any number of versions: `[batch, version and position, hidden]` in place of `[batch, position, hidden]`.
Whether that holds for an architecture is for the caller to check (`BlockRecord.reproduces`); `BlockRecord.whole`
assumes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from attriflow.errors import UnsupportedModelError, out_of_memory
from attriflow.kernels.positions import at
from attriflow.models.attention import AttentionCall, eager, listen, replaced


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionRows:
    """What one attention layer computed, at the receiving positions only.

    Attributes:
        key, value: `[batch, key-value head, key, dim]`.
        mask, options: What the architecture passed, `[batch or 1, head or 1, row, key]` where they have a query axis.
        weights: `[batch, head, row, key]`.
        output: `[batch, row, head, dim]`, before the output projection.
    """

    key: Tensor
    value: Tensor
    mask: Tensor | None
    options: Mapping[str, Any]
    weights: Tensor
    output: Tensor

    @classmethod
    def of(cls, call: AttentionCall, positions: Tensor) -> AttentionRows:
        """Keep the rows of the receiving positions `[batch, row]`."""
        width = call.shape[2]

        def rows(value: Any) -> Any:
            if isinstance(value, Tensor) and value.ndim == 4 and value.shape[2] == width:
                return at(value, positions, 2)
            return value

        return cls(
            key=call.key,
            value=call.value,
            mask=rows(call.mask),
            options={k: rows(v) for k, v in call.options.items()},
            weights=call.at(positions),
            output=at(call.output, positions),
        )

    def without(self, row: Tensor, token: Tensor, heads: Tensor | None = None) -> Tensor:
        """Attention output of rows with the value vector of one token set to zero.

        Args:
            row: `[batch, n]`, indices of receiving positions.
            token: `[batch, n]`, the token whose value vector is zeroed.
            heads: Bool `[head]`; all heads when None.

        Returns:
            `[batch, n, head, dim]`.
        """
        batch = torch.arange(row.shape[0], device=row.device).unsqueeze(1)
        weights = self.weights.transpose(1, 2)[batch, row, :, token]  # [batch, n, head]
        if heads is not None:
            weights = weights * heads
        value = self.value.transpose(1, 2)[batch, token]  # [batch, n, key-value head, dim]
        value = value.repeat_interleave(weights.shape[2] // value.shape[2], 2)
        return at(self.output, row) - weights.unsqueeze(-1) * value

    def is_linear(self) -> Tensor:
        """Bool: whether the output is the weighted sum of the value vectors, as `without` takes for granted."""
        groups, rest = divmod(self.weights.shape[1], self.value.shape[1])
        if rest or self.weights.shape[-1] != self.value.shape[2]:
            return torch.tensor(False)
        summed = self.weights.unflatten(1, (-1, groups)) @ self.value.unsqueeze(2)
        summed = summed.flatten(1, 2).transpose(1, 2)
        return _close(summed.flatten(2), self.output.flatten(2))

    def attend(self, module: nn.Module, query: Tensor, row: Tensor) -> Tensor:
        """Attention output of other queries `[batch, head, n, dim]` that stand at rows `[batch, n]`."""

        def rows(value: Any) -> Any:
            if isinstance(value, Tensor) and value.ndim == 4 and value.shape[2] == self.weights.shape[2]:
                return at(value, row, 2)
            return value

        options = {k: rows(v) for k, v in self.options.items()}
        return eager(module, query, self.key, self.value, rows(self.mask), **options)[0]


@dataclass(slots=True, kw_only=True)
class BlockRecord:
    """One block at work, and the means to run it again.

    Attributes:
        module: The block.
        args, kwargs: What it was called with.
        stack: "encoder" or "decoder".
        positions: Receiving positions, `[batch, row]`.
        width: Sequence length of the stack.
        attention: Its attention layers in the order they ran (a decoder's self attention, then its cross attention).
        output: `[batch, row, hidden]`.
        norms: What the stack applies to its last block's output before it hands it on.
        crossing: Whether all but the first attention layer attend to something that this block does not change.
        single: Run it again in single precision (see `in_single`).
    """

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    stack: str
    positions: Tensor
    width: int
    crossing: bool
    attention: list[AttentionRows] = field(default_factory=list)
    output: Tensor = field(default_factory=lambda: torch.empty(0))
    norms: list[nn.Module] = field(default_factory=list)
    single: bool = False

    def in_single(self) -> BlockRecord:
        """A block of half precision that runs again in single precision, from what it was given; others as they are.

        Two runs that hardly differ have no difference in half precision that means anything.
        """
        if torch.finfo(self.output.dtype).bits > 16:
            return self
        attention = [
            AttentionRows(**_map({f.name: getattr(a, f.name) for f in fields(a)}, _single)) for a in self.attention
        ]
        args, kwargs = _map((self.args, self.kwargs), _single)
        return replace(self, args=args, kwargs=kwargs, attention=attention, single=True)

    def _call(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not self.single:
            return module(*args, **kwargs)
        tensors = {name: _single(t) for name, t in (*module.named_parameters(), *module.named_buffers())}
        return torch.func.functional_call(module, tensors, args, kwargs)

    @torch.no_grad()
    def at(self, row: Tensor, changed: Mapping[int, Tensor]) -> Tensor:
        """Output at receiving positions, with the output of an attention layer changed.

        Args:
            row: `[batch, n]`, indices of receiving positions, each as often as there are versions of it.
            changed: Number of the attention layer -> its output, `[batch, n, head, dim]`. Layers before it give what
                they gave; layers after it attend from their new queries to the keys they had.

        Returns:
            `[batch, n, hidden]`.
        """
        positions = self.positions.to(row.device).gather(1, row)
        first, calls = min(changed), count()

        def attention(module: nn.Module, query: Tensor, *_: Any) -> Tensor:
            number = next(calls)
            if number in changed:
                return changed[number].to(query.dtype)
            rows = self.attention[number]
            return at(rows.output, row) if number < first else rows.attend(module, query, row)

        args, kwargs = _map((self.args, self.kwargs), lambda t: _crop(t, positions, self.width))
        with replaced(attention):
            return hidden_states(self._call(self.module, *args, **kwargs))

    def reproduces(self, row: Tensor, layer: int) -> Tensor:
        """Bool: whether `at` gives the recorded output at rows `[batch, n]` when nothing is changed."""
        try:
            found = self.at(row, {layer: at(self.attention[layer].output, row)})
        except (RuntimeError, ValueError, IndexError, TypeError, KeyError) as error:
            if out_of_memory(error):
                raise
            return torch.tensor(False)  # a shape that this architecture insists on
        return _close(found, at(self.output, row))

    def separable(self, layer: int) -> bool:
        """Whether a change of an attention layer's output leaves what later layers attend to as it is."""
        return layer == len(self.attention) - 1 or (layer == 0 and self.crossing)

    @torch.no_grad()
    def whole(self, layer: int, tokens: Tensor, heads: Tensor | None = None) -> Tensor:
        """The block on the whole sequence by definition, with one token's value vector zeroed for all receivers.

        Args:
            layer: Number of the attention layer.
            tokens: `[version]`, the token that is zeroed.
            heads: Bool `[head]`; all heads when None.

        Returns:
            `[version, batch, row, hidden]`.
        """
        n, (batch, calls) = len(tokens), (self.positions.shape[0], count())

        def attention(
            module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: Any
        ) -> Tensor:
            plain = value
            if chosen := next(calls) == layer:
                value = value.clone()
                value.unflatten(0, (n, batch))[torch.arange(n, device=value.device), :, :, tokens] = 0
            output = eager(module, query, key, value, mask, **options)[0]
            if chosen and heads is not None:
                output = torch.where(heads[:, None], output, eager(module, query, key, plain, mask, **options)[0])
            return output

        def repeat(t: Tensor) -> Tensor:
            return t.repeat(n, *([1] * (t.ndim - 1))) if t.ndim > 1 and t.shape[0] == batch else t

        args, kwargs = _map((self.args, self.kwargs), repeat)
        with replaced(attention):
            output = hidden_states(self._call(self.module, *args, **kwargs))
        return at(output, self.positions.repeat(n, 1)).unflatten(0, (n, batch))

    @torch.no_grad()
    def final(self, states: Tensor) -> Tensor:
        """Block outputs as the stack hands them on: through its final norm, if it ends in one."""
        for norm in self.norms:
            states = self._call(norm, states)
        return states.to(self.output.device)


def find_blocks(hf: nn.Module) -> dict[nn.Module, nn.Module]:
    """Elements of the outermost `nn.ModuleList`s and the modules that own the lists."""
    return {block: owner for owner, blocks in _lists(hf) for block in blocks}


def main_stack(module: nn.Module, layers: int) -> list[nn.Module]:
    """The layers of a stack: of its outermost lists of modules the one with so many, else the longest; [] without."""
    lists = [list(blocks) for _, blocks in _lists(module)]
    fitting = [blocks for blocks in lists if len(blocks) == layers]
    return fitting[0] if fitting else max(lists, key=len, default=[])


def _lists(module: nn.Module) -> Iterator[tuple[nn.Module, nn.ModuleList]]:
    """The outermost lists of modules, with their owners."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield module, child
        else:
            yield from _lists(child)


def is_norm(module: nn.Module) -> bool:
    """Whether a module is one normalisation: layer norms and RMS norms have many classes, all of them named so."""
    return "norm" in type(module).__name__.lower() and not list(module.children())


@contextmanager
def record_blocks(
    hf: Any, receiving: Mapping[str, Tensor], use: Callable[[BlockRecord], None], encoder_decoder: bool
) -> Iterator[None]:
    """Call `use` with every block that runs, one at a time, so that only one is in memory.

    Args:
        hf: A model whose attention goes through the interface.
        receiving: Stack ("encoder", "decoder") -> receiving positions `[batch, row]`; other stacks are left out.
        use: Called in the order of the layers; may run the block again.
        encoder_decoder: Whether there is an encoder.
    """
    recorder = _Recorder(hf, receiving, use, encoder_decoder)
    handles: list[Any] = []
    try:
        for block in recorder.owners:
            handles.append(block.register_forward_pre_hook(recorder.before, with_kwargs=True))
            handles.append(block.register_forward_hook(recorder.after))
        handles += [norm.register_forward_hook(recorder.after_norm) for norm in recorder.norms]
        with listen(hf, recorder.attention):
            yield
            recorder.flush()
    finally:
        for handle in handles:
            handle.remove()


class _Recorder:
    """Hooks of `record_blocks`: a block is handed on when the next one starts, for only then its norms are known."""

    def __init__(
        self, hf: Any, receiving: Mapping[str, Tensor], use: Callable[[BlockRecord], None], encoder_decoder: bool
    ) -> None:
        self.name, self.receiving, self.use, self.encoder_decoder = type(hf).__name__, receiving, use, encoder_decoder
        self.encoder = set(hf.get_encoder().modules()) if encoder_decoder else set()
        self.owners = find_blocks(hf)
        children = {c: None for owner in self.owners.values() for c in owner.children()}
        self.norms = [c for c in children if is_norm(c)]
        self.open: BlockRecord | None = None
        self.done: BlockRecord | None = None
        self.tail: Tensor | None = None
        self.replaying = False

    def stack(self, module: nn.Module) -> str:
        return "encoder" if module in self.encoder else "decoder"

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.replaying:
            return
        self.flush()
        stack = self.stack(module)
        tensors = (v for v in (*args, *kwargs.values()) if isinstance(v, Tensor))
        hidden = next((t for t in tensors if t.ndim == 3 and t.is_floating_point()), None)
        if stack not in self.receiving or hidden is None:
            return
        self.open = BlockRecord(
            module=module,
            args=args,
            kwargs=kwargs,
            stack=stack,
            positions=self.receiving[stack].to(hidden.device),
            width=hidden.shape[1],
            crossing=stack == "decoder" and self.encoder_decoder,
        )

    def attention(self, module: nn.Module, call: AttentionCall) -> None:
        block = self.open
        if block is None:
            if self.stack(module) in self.receiving:
                raise UnsupportedModelError(f"the attention of {self.name} is not part of a list of layers")
            return
        if call.shape[0] != block.positions.shape[0] or call.shape[2] != block.width:
            raise UnsupportedModelError(
                f"attention of {self.name} has shape {tuple(call.shape)} where [batch, head, "
                f"{block.width} positions, key] was expected"
            )
        block.attention.append(AttentionRows.of(call, block.positions))

    def after(self, _module: nn.Module, _args: Any, output: Any) -> None:
        if self.replaying or self.open is None:
            return
        block, self.open = self.open, None
        if block.attention:
            self.tail = hidden_states(output)
            block.output = at(self.tail, block.positions)
            self.done = block

    def after_norm(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        follows = self.done is not None and not self.replaying and bool(args) and args[0] is self.tail
        if self.done is not None and follows and isinstance(output, Tensor):
            self.done.norms.append(module)
            self.tail = output

    def flush(self) -> None:
        """Hand on the block that has run."""
        if self.done is None:
            return
        block, self.done, self.tail, self.replaying = self.done, None, None, True
        try:
            self.use(block)
        finally:
            self.replaying = False


def hidden_states(output: Any) -> Any:
    """The hidden states among a block's outputs."""
    return output[0] if isinstance(output, (tuple, list)) else output


def _map(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Arguments with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (tuple, list)):
        return type(value)(_map(v, change) for v in value)
    return {k: _map(v, change) for k, v in value.items()} if type(value) is dict else value


def _single(t: Tensor) -> Tensor:
    return t.float() if t.is_floating_point() and torch.finfo(t.dtype).bits <= 16 else t


def _crop(t: Tensor, positions: Tensor, width: int) -> Tensor:
    """Tensors `[batch or 1, width, ...]` at positions `[batch, n]`; others as they are."""
    if t.ndim < 2 or t.shape[1] != width or t.shape[0] not in (1, positions.shape[0]):
        return t
    return at(t, positions.to(t.device))


def _close(found: Tensor, wanted: Tensor) -> Tensor:
    """Bool: equal but for rounding at every position; some positions are far larger than others."""
    if found.shape != wanted.shape:
        return torch.tensor(False)
    error = (found - wanted).norm(dim=-1)
    return (error <= torch.finfo(wanted.dtype).eps ** 0.5 * wanted.norm(dim=-1)).all()
