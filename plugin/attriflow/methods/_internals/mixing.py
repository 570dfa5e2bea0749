"""How an attention layer mixes the states of tokens: proximities of parts to their sum, norms taken as linear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attriflow.engine import sizes as settings
from attriflow.methods._internals.recording import Layer


@dataclass(frozen=True)
class Affine:
    """A norm but for its statistic: gain and bias `[hidden]`, and whether it takes off the mean (1 or 0; None: no)."""

    gain: Tensor
    bias: Tensor
    centred: Tensor | None = None

    @classmethod
    def of(cls, norm: nn.Module, width: int, like: Tensor, dtype: torch.dtype) -> Affine:
        """Probe a norm with alternating signs, large enough for its epsilon to vanish."""
        probe = torch.full((1, 1, width), 8.0, dtype=like.dtype, device=like.device)
        probe[..., 1::2] *= -1
        plus, minus, shifted = (norm(p).to(dtype)[0, 0] for p in (probe, -probe, probe + 4))
        same = (plus - shifted).abs() <= 0.01 * (shifted.abs() + plus.abs().max())
        centred = same.all().to(dtype)
        shape = probe[0, 0].to(dtype)
        shape = shape - shape.mean() * centred
        gain = (plus - minus) / 2 / (shape / shape.square().mean().sqrt())
        return cls(gain, (plus + minus) / 2, centred)

    def on(self, device: torch.device) -> Affine:
        """The same on a device."""
        centred = None if self.centred is None else self.centred.to(device)
        return Affine(self.gain.to(device), self.bias.to(device), centred)

    def less_mean(self, x: Tensor) -> Tensor:
        """`[..., hidden]` without the mean, where that is taken off."""
        return x if self.centred is None else x - x.mean(-1, keepdim=True) * self.centred.to(x)

    def linear(self, x: Tensor) -> Tensor:
        """The linear part on `[..., hidden]`, before division by the statistic."""
        return self.less_mean(x) * self.gain

    def frozen(self, given: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """Inverse statistic `[batch, position, 1]` of an output, and whether it explains it (bool)."""
        shape, rest = self.linear(given), output - self.bias
        square = (shape * shape).sum(-1, keepdim=True)
        scale = (shape * rest).sum(-1, keepdim=True) / square.where(square > 0, 1)
        error = (shape * scale - rest).norm()
        return scale, error <= 0.02 * rest.norm()


@torch.no_grad()
def mixing(layer: Layer, maps: Sequence[tuple[Affine, Tensor | None]], state: Tensor) -> tuple[Tensor, Tensor]:
    r"""How much of each new state comes from the position's old state and from each attended token.

    Proximity of a part to the whole, $\max(0, \lVert y \rVert_1 - \lVert y - p \rVert_1)$ (arXiv:2203.04212,
    arXiv:2403.00824), over the sum of the proximities of all parts.

    Args:
        layer: The attention layer; its parts are $\sum_h \alpha^h_{tj} v^h_j W^h_O$, heads together.
        maps: What its output went through before it was added, in order: affine maps (post-attention norms) with their
            frozen statistics `[batch, position, 1]`.
        state: The state it was added to, `[batch, position, hidden]`.

    Returns:
        `[batch, position]` and `[batch, position, attended]`; they sum to 1 and are not negative.

    Complexity: position * attended * hidden, in chunks that fit into `sizes.CHUNK_BYTES`.
    """
    dtype, place, weights = state.dtype, layer.call.weights.device, layer.call.weights.to(state.dtype)
    # the blocks of a model may be on different devices, and the norms around them, too
    moved, values, weight = layer.moved(dtype).to(place), layer.values(dtype), layer.weight.to(place, dtype)
    maps = [(affine.on(place), None if scale is None else scale.to(place)) for affine, scale in maps]
    state = state.to(place)
    for affine, scale in maps:
        moved = affine.linear(moved) * (1 if scale is None else scale) + affine.bias
        weights = weights if scale is None else weights * scale[:, None]
    whole = state + moved
    length = whole.abs().sum(-1)
    own = (length - moved.abs().sum(-1)).clamp(min=0)
    batch, heads, receiving, attended = weights.shape
    shares = own.new_zeros(batch, receiving, attended)
    budget = settings.CHUNK_BYTES / (4 * batch * state.shape[-1] * state.element_size())
    width = max(1, min(attended, 128, int(budget // heads)))
    height = max(1, int(budget // width))
    for left in range(0, attended, width):
        right = min(attended, left + width)
        parts = torch.einsum("bhjd,hdo->bjho", values[:, :, left:right], weight)
        for affine, _ in maps:
            parts = affine.linear(parts)
        # nothing in a decoder attends to what comes later
        for top in range(left if layer.role == "decoder_self" else 0, receiving, height):
            piece = slice(top, min(receiving, top + height))
            part = weights[:, :, piece, left:right].permute(0, 3, 2, 1) @ parts  # [batch, attended, receiving, hidden]
            distance = part.sub_(whole[:, None, piece]).abs_().sum(-1).mT
            shares[:, piece, left:right] = (length[:, piece, None] - distance).clamp_(min=0)
    total = own + shares.sum(-1)
    empty = total <= 0  # no part is near the whole: the state stays its own
    own = torch.where(empty, 1, own / total.where(~empty, 1))
    return own, shares / total.where(~empty, 1).unsqueeze(-1)
