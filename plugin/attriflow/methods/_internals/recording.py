"""One pass over a batch with its attention layers shown to a listener, with or without their output projections."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attriflow.engine import Engine
from attriflow.engine.memory import fits
from attriflow.errors import UnsupportedModelError
from attriflow.models.attention import AttentionCall, Listener, interface_works, listen
from attriflow.models.offload import weight_of
from attriflow.types import Forward

BLOCK = {"decoder_self": "target", "cross": "source"}
"""Role of an attention layer -> the input block that its attended tokens belong to."""


def roles(engine: Engine) -> Callable[[nn.Module], str]:
    """Tells the role of each attention call, asked in their order."""
    return engine.attention_record().role


@torch.no_grad()
def record(engine: Engine, listener: Listener, within: AbstractContextManager[Any] | None = None) -> Forward:
    """One pass over the unchanged batch with its attention shown to `listener`."""
    hf = engine.model.hf
    engine.model.check_attention()
    if not interface_works(hf):
        raise UnsupportedModelError(
            f"{type(hf).__name__} does not compute attention through transformers.AttentionInterface, so its attention "
            "layers cannot be read; use another method (such as 'attention' or a gradient method)"
        )
    engine.run_foil()
    heard = False

    def listen_on(module: nn.Module, call: AttentionCall) -> Tensor | None:
        nonlocal heard
        heard = True
        return listener(module, call)

    with (
        fits("in the pass that records the attention layers of a batch"),
        listen(hf, listen_on),
        within or nullcontext(),
    ):
        forward = engine.run(engine.rows())
    if not heard:
        raise UnsupportedModelError(f"{type(hf).__name__} does not show its attention layers")
    engine.offer_base(forward)
    return forward


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """An attention layer with its output projection, as it ran.

    Attributes:
        role: "encoder_self", "decoder_self" or "cross".
        call: Queries, keys, values, weights.
        weight: Output projection by head, `[head, dim, hidden]`.
        bias: Its bias `[hidden]`, or None.
        given: What went into it, `[batch, receiving, head * dim]`.
        output: What came out of it, as it came (`[batch, receiving, hidden]` or with the first two axes as one).
    """

    role: str
    call: AttentionCall
    weight: Tensor
    bias: Tensor | None
    given: Tensor
    output: Tensor

    def values(self, dtype: torch.dtype) -> Tensor:
        """Values of the attended tokens for each (query) head, `[batch, head, attended, dim]`."""
        groups = self.weight.shape[0] // self.call.value.shape[1]
        return self.call.value.to(dtype).repeat_interleave(groups, 1)

    def moved(self, dtype: torch.dtype) -> Tensor:
        """What the layer puts out, `[batch, receiving, hidden]`."""
        return self.output.to(dtype).reshape(*self.given.shape[:2], -1)


def record_layers(
    engine: Engine, found: Callable[[Layer], None], within: AbstractContextManager[Any] | None = None
) -> Forward:
    """`record` for listeners who need the output projection: the first linear layer that runs on the heads' outputs."""
    hf, role_of = engine.model.hf, roles(engine)
    waiting: list[tuple[str, nn.Module, AttentionCall]] = []

    def hear(module: nn.Module, call: AttentionCall) -> None:
        if waiting:
            raise UnsupportedModelError(f"no output projection follows the attention of {type(module).__name__}")
        waiting.append((role_of(module), module, call))

    def project(linear: nn.Module, args: Any, output: Any) -> None:
        if not waiting or not args or not isinstance(args[0], Tensor) or not isinstance(output, Tensor):
            return
        role, module, call = waiting[0]
        batch, receiving, heads, dim = call.output.shape
        if args[0].shape[-1] != heads * dim or args[0].numel() != call.output.numel():
            return
        given = args[0].reshape(batch, receiving, heads * dim)
        if linear not in set(module.modules()) and not torch.equal(given, call.output.flatten(2)):
            return
        waiting.clear()  # first of all: the projection may be called again to read its weights
        weight, bias = _matrix(linear, heads * dim, args[0])
        weight = weight.view(heads, dim, -1)
        found(Layer(role=role, call=call, weight=weight, bias=bias, given=given, output=output))

    with ExitStack() as stack:
        for linear in _projections(hf):
            stack.callback(linear.register_forward_hook(project).remove)
        forward = record(engine, hear, within)
    if waiting:
        raise UnsupportedModelError(f"no output projection follows the attention of {type(waiting[0][1]).__name__}")
    return forward


def _projections(module: nn.Module) -> Iterator[nn.Module]:
    """Linear layers; of one with adapters around it the whole, which is what the model computes with."""
    for child in module.children():
        if isinstance(child, nn.Linear) or type(child).__name__ == "Conv1D" or hasattr(child, "base_layer"):
            yield child
        else:
            yield from _projections(child)


def _matrix(linear: Any, width: int, like: Tensor) -> tuple[Tensor, Tensor | None]:
    """Weight `[in, out]` and bias of a linear layer; of one that is more than that by what it makes of unit vectors."""
    bias = getattr(linear, "bias", None)
    plain = type(linear) is nn.Linear or type(linear).__name__ == "Conv1D"
    if plain and type(linear.weight) in (Tensor, nn.Parameter) and linear.weight.is_floating_point():
        weight = weight_of(linear)
        return weight.mT if isinstance(linear, nn.Linear) else weight, None if bias is None else weight_of(
            linear, "bias"
        )
    bias = linear(like.new_zeros(1, width))
    return linear(torch.eye(width, dtype=like.dtype, device=like.device)) - bias, bias[0]
