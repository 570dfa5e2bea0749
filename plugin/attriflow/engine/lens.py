"""The logit lens: what the LM head reads from the state after an earlier layer (nostalgebraist 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from attriflow.engine.bound import Bound
from attriflow.errors import InputError, UnsupportedModelError
from attriflow.kernels.positions import at
from attriflow.models.base import Rows
from attriflow.models.blocks import hidden_states, is_norm, main_stack


def readouts(bound: Bound, rows: Rows, layer: int | None) -> list[Tensor]:
    """Logits of decoder layers at the query positions, `[row, step, vocab]` each, from one forward pass.

    Args:
        bound: Counts the pass.
        rows: Inputs.
        layer: Number of a layer from 1, or from the end when negative; None for all but the last.

    Raises:
        UnsupportedModelError: The states of the last layer, read like this, are not the model's own prediction.
    """
    hf = bound.model.hf
    head = hf.get_output_embeddings()
    if head is None or isinstance(head, nn.Embedding):  # some give the table that the head is tied to
        raise UnsupportedModelError(f"{type(hf).__name__} has no LM head to read states with")
    decoder, blocks = _stack(bound)
    states: list[Tensor] = []
    norms: list[nn.Module] = []  # that run after the last layer
    read: list[Tensor] = []
    with ExitStack() as stack:
        for block in blocks:
            stack.callback(block.register_forward_hook(lambda _m, _a, out: states.append(hidden_states(out))).remove)
        inside = {id(m) for block in blocks for m in block.modules()}
        for module in decoder.modules():
            if id(module) not in inside and is_norm(module):
                hook = module.register_forward_hook(
                    lambda m, _a, _o: norms.append(m) if len(states) == len(blocks) else None
                )
                stack.callback(hook.remove)
        stack.callback(head.register_forward_pre_hook(lambda _m, args: read.append(args[0])).remove)
        logits = bound.run(rows).logits
    norm = norms[-1] if norms else None
    rows_first = all(state.ndim == 3 and state.shape[0] == len(rows.query) for state in states)
    if len(states) != len(blocks) or len(read) != 1 or not rows_first:
        raise UnsupportedModelError(f"{type(hf).__name__} does not run its layers one after the other")
    last = at(states[-1] if norm is None else norm(states[-1]), rows.query)
    scale = _scale(last, read[0], rows)

    def logits_of(state: Tensor) -> Tensor:
        normed = at(state, rows.query) if norm is None else norm(at(state, rows.query))
        return _capped(hf, head(normed * scale.to(normed.device))).to(logits)

    _check(hf, logits_of(states[-1]), logits)
    return [logits_of(states[i]) for i in _chosen(layer, len(blocks))]


def states(bound: Bound, rows: Rows) -> list[Tensor]:
    """States at the query positions before the first decoder layer and after each, `[row, step, width]`; one pass."""
    _, blocks = _stack(bound)
    found: list[Tensor] = []

    def entered(_module: Any, args: Any, given: Any) -> None:
        found.append(args[0] if args else given["hidden_states"])

    with ExitStack() as stack:
        stack.callback(blocks[0].register_forward_pre_hook(entered, with_kwargs=True).remove)
        for block in blocks:
            stack.callback(block.register_forward_hook(lambda _m, _a, out: found.append(hidden_states(out))).remove)
        bound.run(rows)
    if len(found) != len(blocks) + 1 or not all(s.ndim == 3 and len(s) == len(rows.query) for s in found):
        raise UnsupportedModelError(f"{type(bound.model.hf).__name__} does not run its layers one after the other")
    return [at(state, rows.query).to(rows.query.device) for state in found]


def _stack(bound: Bound) -> tuple[nn.Module, list[nn.Module]]:
    """The decoder and its layers; the pass that follows is looked into."""
    bound.watched()
    hf = bound.model.hf
    decoder = hf.get_decoder() if bound.model.is_encoder_decoder else hf.base_model
    blocks = main_stack(decoder, bound.model.shape.layers)
    if not blocks:
        raise UnsupportedModelError(f"{bound.model.name} has no list of layers")
    return decoder, blocks


def _chosen(layer: int | None, n: int) -> Sequence[int]:
    if layer is None:
        return range(n - 1) or range(1)
    if not (1 <= layer <= n or -n <= layer <= -1):
        raise InputError(f"layer must be from 1 to {n} (or from -{n} to -1), not {layer}")
    return [layer - 1 if layer > 0 else n + layer]


def _scale(last: Tensor, read: Tensor, rows: Rows) -> Tensor:
    """Factor between the normed state and what the head reads (some models scale it)."""
    low, high = rows.span
    whole = read.shape[1] > high - low + 1
    there = at(read.detach(), rows.query if whole else rows.query - low)
    last = last.detach().to(there.device)
    square = last.square().sum()
    return torch.where(square > 0, (there * last).sum() / square, 1.0)


def _capped(hf: Any, logits: Tensor) -> Tensor:
    cap = getattr(hf.config.get_text_config(), "final_logit_softcapping", None)
    return cap * torch.tanh(logits / cap) if cap else logits


def _check(hf: Any, mine: Tensor, own: Tensor) -> None:
    bias = getattr(hf, "final_logits_bias", None)
    wanted = own if bias is None else own - bias.to(own)
    tolerance = (1e-4 if own.dtype in (torch.float32, torch.float64) else 5e-2) * wanted.abs().max()
    if not bool(((mine - wanted).abs() <= tolerance).all()):
        raise UnsupportedModelError(
            f"{type(hf).__name__} reads its last state in a way that the logit lens does not know"
        )
