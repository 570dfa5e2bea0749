"""Attention weights of one pass, read through `transformers.AttentionInterface`: no per-architecture names.

A registered function computes each layer's attention with the model file's own eager function and hands the weights
to whoever is listening, so only the rows that are asked for stay in memory. Architectures that do not go through the
interface are read with `output_attentions=True` in eager mode.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from attriflow.errors import UnsupportedModelError
from attriflow.kernels.attention import for_heads, scores
from attriflow.kernels.plain import shortcuts
from attriflow.kernels.positions import at
from attriflow.kernels.queries import Block, Queries, size_of_blocks

WHOLE_BYTES = 8 * 2**20
"""Weights of a layer up to which it is computed at once, and its weights are kept for whoever listens."""

BLOCK_BYTES = 16 * 2**20
"""Weights of a block of queries beyond that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionCall:
    """One attention layer at work, as the architecture called the attention interface.

    Attributes:
        module: The layer.
        query: `[row, head, query, dim]`.
        key, value: `[row, key-value head, key, dim]` (fewer heads than the query under grouped-query attention).
        mask: Additive mask `[row, 1, query, key]`, or None.
        options: Everything else the architecture passed (`scaling`, `position_bias`, `softcap`, ...).
        output: `[row, query, head, dim]`, before the output projection.
        whole: `[row, head, query, key]`, all weights, where they were computed at once; or None.
    """

    module: nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    options: Mapping[str, Any]
    output: Tensor
    whole: Tensor | None

    @property
    def shape(self) -> torch.Size:
        """Of all weights: `[row, head, query, key]`."""
        return torch.Size((*self.query.shape[:3], self.key.shape[2])) if self.whole is None else self.whole.shape

    @property
    def queries(self) -> Queries:
        """The call by its queries."""
        return Queries(self.query.shape[2], self.key.shape[2], self.mask, self.options)

    @property
    def weights(self) -> Tensor:
        """All weights, `[row, head, query, key]`."""
        if self.whole is not None:
            return self.whole
        out = self.query.new_zeros(self.shape)
        for block, weights in self.blocks():
            out[:, :, block.rows, : block.seen] = weights
        return out

    def blocks(self, wanted: Sequence[bool] | None = None, size: int | None = None) -> Iterator[tuple[Block, Tensor]]:
        """Weights `[row, head, query of the block, seen key]`, block by block.

        Args:
            wanted: By query: blocks with none of these are left out.
            size: Queries of a block.
        """
        if self.whole is not None and size is None:
            yield Block(slice(0, self.shape[2]), self.shape[3], self.mask, dict(self.options)), self.whole
            return
        size = size or size_of_blocks(self.query, self.key.shape[2], BLOCK_BYTES)
        for block in self.queries.blocks(size, wanted):
            if self.whole is not None:
                yield block, self.whole[:, :, block.rows, : block.seen]
            else:
                yield block, _rows(self.module, self.query, self.key, self.value, block)[1]

    def let_go(self) -> AttentionCall:
        """The same without its output, for whoever goes on reading blocks: one tensor less to keep."""
        return replace(self, output=self.output.new_empty(0))

    def at(self, positions: Tensor) -> Tensor:
        """Weights of the queries at `positions [row, n]`, `[row, head, n, key]`."""
        if self.whole is None:
            mask, options = self.queries.at(positions)
            query = at(self.query, positions, 2)
            output, weights = eager(self.module, query, self.key, self.value, mask, **options)
            wanted = at(self.output, positions)
            if torch.allclose(output, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max())):
                return weights
        # an architecture that counts the queries of a call
        return at(self.weights, positions, 2)


Listener = Callable[[nn.Module, AttentionCall], Tensor | None]
"""Called once per attention layer with its module and what it computed; may return another output."""

Replacement = Callable[[nn.Module, Tensor, Tensor, Tensor, Tensor | None, Mapping[str, Any]], Tensor]
"""`(module, query, key, value, mask, options)` -> the attention output `[row, query, head, dim]`."""

NAME = "attriflow_eager"
_listener: ContextVar[Listener | None] = ContextVar("attriflow_attention_listener", default=None)
_replacement: ContextVar[Replacement | None] = ContextVar("attriflow_attention_replacement", default=None)


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, Tensor | None]:
    """Eager attention as the model's own file defines it, shown to the listener."""
    replacement = _replacement.get()
    if replacement is not None:
        return replacement(module, query, key, value, attention_mask, options), None
    listener, given = _listener.get(), (module, query, key, value)
    weights: Tensor | None = None
    if listener is None or not _long(*given, attention_mask, options):
        output, weights = eager(*given, attention_mask, **options)
    else:
        blocks = Queries(query.shape[2], key.shape[2], attention_mask, options).blocks
        size = size_of_blocks(query, key.shape[2], BLOCK_BYTES)
        output = torch.cat([_rows(*given, block)[0] for block in blocks(size)], 1)
    if listener is not None:
        call = AttentionCall(
            module=module,
            query=query,
            key=key,
            value=value,
            mask=attention_mask,
            options=options,
            output=output,
            whole=weights,
        )
        changed = listener(module, call)
        output = output if changed is None else changed
    return output, weights


def _rows(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, block: Block) -> tuple[Tensor, Tensor]:
    """Output and weights of a block of queries."""
    key, value = key[:, :, : block.seen], value[:, :, : block.seen]
    return eager(module, query[:, :, block.rows], key, value, block.mask, **block.options)


def _long(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: Mapping[str, Any]
) -> bool:
    """Whether attention goes by blocks of queries: there is much of it, and it can.

    That it can is tried on the first queries, all of them at once and the later ones alone.
    """
    queries = Queries(query.shape[2], key.shape[2], mask, options)
    if query.shape[:3].numel() * key.shape[2] * query.element_size() <= WHOLE_BYTES:
        return False
    if query.requires_grad or not shortcuts() or not queries.divisible:
        return False
    few = min(16, query.shape[2])
    both = _rows(module, query, key, value, queries.block(slice(0, few)))[0]
    later = _rows(module, query, key, value, queries.block(slice(few // 2, few)))[0]
    wanted = both[:, few // 2 :]
    return torch.allclose(later, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))


def eager(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, Tensor]:
    """Output `[row, query, head, dim]` and weights of the eager attention that the module's own file defines."""
    own = getattr(sys.modules.get(type(module).__module__), "eager_attention_forward", None)
    output, weights = (own or _plain_attention)(module, query, key, value, attention_mask, **options)
    return output, weights


def _plain_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    position_bias: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    key, value = for_heads(key, query), for_heads(value, query)
    biases = [None if bias is None else bias[..., : key.shape[2]] for bias in (position_bias, attention_mask)]
    query = query * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    weights = scores(query, key, *biases).softmax(-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def _register() -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, eager_mask)


def interface_works(hf: Any) -> bool:
    """Whether the architecture computes its attention through the interface."""
    check = getattr(hf, "_can_set_attn_implementation", None)
    return bool(check()) if check is not None else bool(getattr(hf, "_supports_attention_backend", False))


def _configs(hf: Any) -> list[Any]:
    found = {id(m.config): m.config for m in hf.modules() if hasattr(m, "config")}
    return list(found.values())


@contextmanager
def attentions_returned(hf: Any) -> Iterator[None]:
    """Have the model compute attention in eager mode and return its maps, for architectures outside the interface.

    Settings are written into the configurations, which such layers read, as there is nothing to switch.
    """
    found = [config for config in _configs(hf) if hasattr(config, "output_attentions")]
    before = [(c, getattr(c, "_attn_implementation", None), getattr(c, "output_attentions", None)) for c in found]
    try:
        for config in found:
            config._attn_implementation = "eager"
            config.output_attentions = True
        yield
    finally:
        for config, name, returned in before:
            config.output_attentions = returned
            config._attn_implementation = name


@contextmanager
def implementation(hf: Any, name: str) -> Iterator[None]:
    """Switch the attention implementation and put the old one back on exit, also after an error."""
    before = [(c, c._attn_implementation) for c in _configs(hf) if hasattr(c, "_attn_implementation")]
    try:
        hf.set_attn_implementation(name)
        yield
    finally:
        for config, old in before:
            config._attn_implementation = old


@contextmanager
def listen(hf: Any, listener: Listener) -> Iterator[None]:
    """Run with attention weights shown to `listener`."""
    try:
        _register()
    except ImportError as error:
        raise UnsupportedModelError(
            "attention maps need transformers.AttentionInterface (transformers >= 4.57)"
        ) from error
    token = _listener.set(listener)
    try:
        with implementation(hf, NAME):
            yield
    finally:
        _listener.reset(token)


@contextmanager
def replaced(function: Replacement) -> Iterator[None]:
    """Within `listen`: compute attention with `function`; nothing is shown to the listener meanwhile."""
    token = _replacement.set(function)
    try:
        yield
    finally:
        _replacement.reset(token)


class AttentionRecord:
    """Collects weights by role: "decoder_self", "cross" or "encoder_self" attention.

    Which is which needs no names: modules inside the encoder are the encoder's; in a decoder layer self attention
    runs before cross attention, so the decoder's calls alternate.
    """

    def __init__(
        self,
        hf: Any,
        widths: Mapping[str, int],
        query: Tensor,
        keep: tuple[str, ...],
        whole: tuple[str, ...] = (),
        before: bool = False,
    ) -> None:
        """Keep the rows of the query positions `[row, step]` for blocks ("source", "target"), all rows for roles.

        Args:
            hf: The model.
            widths: Positions of each block that the model reads.
            query, keep, whole: See above.
            before: Whether the model puts something before a text that is attended to (prompt and prefix tuning).
        """
        self.before = before
        self.name, self.query, self.keep, self.encoder_decoder = type(hf).__name__, query, keep, "source" in widths
        source, target = widths.get("source", 0), widths["target"]
        self.shapes = {"encoder_self": (source, source), "cross": (target, source), "decoder_self": (target, target)}
        self.encoder = {id(m) for m in hf.get_encoder().modules()} if self.encoder_decoder else set()
        self.maps: dict[str, list[Tensor]] = {name: [] for name in ("source", "target", *whole)}
        self._calls = 0
        self._last: tuple[nn.Module, Tensor] | None = None
        self._kinds = set[type]()

    def __call__(self, module: nn.Module, call: AttentionCall) -> None:
        """Take the weights of one attention layer."""
        target, source = self.shapes["cross"]
        encoder = id(module) in self.encoder
        # of a long text, where it is what is expected, only what is asked for: nothing of an encoder
        picked = call.whole is None and not self.before and len(self.maps) == 2 and (encoder or call.shape[2] == target)
        weights = call.weights if not picked else call.query if encoder else call.at(self.query)
        if self._last is not None and self._last[0] is module and torch.equal(self._last[1], weights):
            return  # one layer, which weighs two parts of its values alike
        self._last = module, weights
        if self.encoder_decoder and not encoder and weights.shape[-1] == target + source:
            self.add("decoder_self", weights[..., :target], picked)  # a layer that attends to both sides at once
            self.add("cross", weights[..., target:], picked)
            return
        role = self.role(module)
        if role == "decoder_self":
            self._kinds.add(type(getattr(module, "config", None)))
            if len(self._kinds) > 1:
                raise UnsupportedModelError(
                    f"{self.name} is several models one after the other, whose attention maps are no layers of one"
                )
        self.add(role, weights, picked)

    def role(self, module: nn.Module) -> str:
        """The role of a layer; to be asked once per attention call, in their order."""
        if id(module) in self.encoder:
            return "encoder_self"
        cross = self.encoder_decoder and self._calls % 2 == 1
        self._calls += 1
        return "cross" if cross else "decoder_self"

    def add(self, role: str, weights: Tensor, picked: bool = False) -> None:
        """Store what is wanted of one layer: the query rows (all there is, if they are `picked`), the whole map."""
        block = {"cross": "source", "decoder_self": "target"}.get(role)
        if role not in self.maps and block not in self.keep:
            return
        rows, keys = self.shapes[role]
        rows = self.query.shape[1] if picked else rows
        if self.before:
            weights = weights[..., -rows:, -keys:]
        if weights.ndim != 4 or weights.shape[-2:] != (rows, keys):
            raise UnsupportedModelError(
                f"the attention of {self.name} has maps of shape {list(weights.shape)} "
                f"where [row, head, {rows}, {keys}] was expected"
            )
        if role in self.maps:
            self.maps[role].append(weights.detach().to(self.query.device))
        if block in self.keep:
            weights = weights if picked else at(weights, self.query, 2)
            self.maps[block].append(weights.detach().to(self.query.device))

    @property
    def complete(self) -> bool:
        """Whether there is something of everything that is wanted."""
        return all(maps for name, maps in self.maps.items() if name in self.keep or name.endswith("_self"))

    def stacked(self, name: str) -> Tensor:
        """`[row, step, attended, layer, head]` of a block, `[row, attended, receiving, layer, head]` of a role."""
        if len({m.shape for m in self.maps[name]}) > 1:
            raise UnsupportedModelError(f"the layers of {self.name} have different numbers of attention heads")
        stack = torch.stack(self.maps[name], -1)
        return stack.permute(0, 3, 2, 4, 1) if name.endswith("_self") else stack.permute(0, 2, 3, 4, 1)
