"""How an attention layer mixes the states of tokens: proximities of parts to their sum, norms taken as linear."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attriflow.engine import sizes as settings
from attriflow.kernels.queries import size_of_blocks
from attriflow.methods._internals.recording import Layer
from attriflow.models.attention import AttentionCall

TILE_BYTES = 4 * 2**20
"""Parts of edges that are worked out together on a CPU: what stays in its cache between the few passes over them."""

ROWS = 512
"""Queries of a block: what attended tokens bring is worked out once for each block."""


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


@dataclass(frozen=True, kw_only=True)
class Edges:
    r"""How much of each new state comes from the position's old state and from each attended token.

    Proximity of a part to the whole, $\max(0, \lVert y \rVert_1 - \lVert y - p \rVert_1)$ (arXiv:2203.04212,
    arXiv:2403.00824), over the sum of the proximities of all parts.

    There are length x length of them, each a sum over the width: they are worked out when it is known which positions a
    route comes by (`back`), by blocks of queries and tiles that stay in the processor's cache, and let go again.

    Attributes:
        call: The attention layer; its parts are $\sum_h \alpha^h_{tj} v^h_j W^h_O$, heads together.
        weight: Its output projection by head, `[head, dim, hidden]`.
        maps: What its output went through before it was added, in order: affine maps (post-attention norms) with their
            frozen statistics `[batch, position, 1]`.
        whole: The new state, `[batch, position, hidden]`.
        own: Proximity of the old state, `[batch, position]`.
        causal: Whether nothing attends to what comes later.
    """

    call: AttentionCall
    weight: Tensor
    maps: Sequence[tuple[Affine, Tensor | None]]
    whole: Tensor
    own: Tensor
    causal: bool

    @classmethod
    def of(cls, layer: Layer, maps: Sequence[tuple[Affine, Tensor | None]], state: Tensor) -> Edges:
        """Of a layer whose output was added to `state [batch, position, hidden]`."""
        dtype, place = state.dtype, layer.call.query.device
        # the blocks of a model may be on different devices, and the norms around them, too
        moved, state = layer.moved(dtype).to(place), state.to(place)
        maps = [(affine.on(place), None if scale is None else scale.to(place)) for affine, scale in maps]
        for affine, scale in maps:
            moved = affine.linear(moved) * (1 if scale is None else scale) + affine.bias
        whole = state + moved
        own = (whole.abs().sum(-1) - moved.abs().sum(-1)).clamp(min=0)
        return cls(
            call=layer.call.let_go(),
            weight=layer.weight.to(place, dtype),
            maps=maps,
            whole=whole,
            own=own,
            causal=layer.role == "decoder_self",
        )

    @torch.no_grad()
    def back(self, flow: Tensor, threshold: float = 0.0) -> tuple[Tensor, Tensor]:
        """Send what has arrived at the new states back to what they are made of.

        Args:
            flow: `[batch, step, position]`.
            threshold: What is less than this share of a step's flow stays with its position.

        Returns:
            What goes to the old states, `[batch, step, position]`, and to attended tokens, `[batch, step, attended]`.

        Complexity: position * attended * hidden, of the positions where there is flow.
        """
        home, flow = flow.device, flow.to(self.whole.device)
        least = threshold * flow.abs().sum(-1, keepdim=True)
        split = torch.where(flow.abs() > least, flow, 0.0)
        own, moved = flow - split, flow.new_zeros(*flow.shape[:2], self.call.shape[3])
        wanted = self._wanted(split)
        heads, dtype = self.call.shape[1], self.whole.dtype
        values = self.call.value.to(dtype).repeat_interleave(heads // self.call.value.shape[1], 1)
        size = min(ROWS, size_of_blocks(self.call.query, self.call.key.shape[2], settings.CHUNK_BYTES / 8))
        for block, weights in self.call.blocks(wanted, size):
            host = [i for i in range(block.rows.start, block.rows.stop) if wanted[i]]
            rows: slice | Tensor = block.rows
            if len(host) < weights.shape[2]:
                rows = torch.tensor(host, device=self.whole.device)
                weights = weights[:, :, rows - block.rows.start]
            near = self._near(values, weights.to(dtype), rows, host)
            kept = self.own[:, rows]
            total = kept + near.sum(-1)
            empty = total <= 0  # no part is near the whole: the state stays its own
            total = total.where(~empty, 1)
            here = split[:, :, rows]
            own[:, :, rows] += here * torch.where(empty, 1, kept / total).unsqueeze(1)
            moved[:, :, : block.seen] += (here / total.unsqueeze(1)) @ near
        return own.to(home), moved.to(home)

    def _wanted(self, split: Tensor) -> list[bool]:
        """Which positions have a flow: all, where asking the device takes longer than working them out."""
        width = split.shape[2]
        if split.device.type != "cpu" and width <= ROWS:
            return [True] * width
        found: list[bool] = (split != 0).flatten(0, 1).any(0).tolist()
        return found

    def _near(self, values: Tensor, weights: Tensor, rows: slice | Tensor, host: Sequence[int]) -> Tensor:
        """Proximities of attended tokens `[batch, row, seen]` to the states at some positions, in ascending order.

        Args:
            values: By head, `[batch, head, attended, dim]`.
            weights: `[batch, head, row, seen]`.
            rows: Positions.
            host: The same on the host.
        """
        for _, scale in self.maps:
            weights = weights if scale is None else weights * scale[:, None, rows]
        whole = self.whole[:, rows]
        length = whole.abs().sum(-1, keepdim=True)
        batch, _, height, seen = weights.shape
        near = whole.new_zeros(batch, height, seen)
        pairs = (TILE_BYTES if whole.device.type == "cpu" else settings.CHUNK_BYTES // 4) // (
            batch * whole.shape[-1] * whole.element_size()
        )
        high = max(1, min(height, 64, pairs))
        wide = max(1, min(seen, pairs // high))
        tile = whole.new_empty(batch * wide * high * whole.shape[-1])
        for left in range(0, seen, wide):
            right = min(seen, left + wide)
            parts = torch.einsum("bhjd,hdo->bjho", values[:, :, left:right], self.weight)
            for affine, _ in self.maps:
                parts = affine.linear(parts)
            for top in range(bisect_left(host, left) if self.causal else 0, height, high):
                piece = slice(top, min(height, top + high))
                part = weights[:, :, piece, left:right].permute(0, 3, 2, 1)
                shape = (batch, right - left, part.shape[2], whole.shape[-1])
                # [batch, attended, row, hidden]: the part less the whole
                apart = torch.matmul(part, parts, out=tile[: math.prod(shape)].view(shape))
                distance = apart.sub_(whole[:, None, piece]).abs_().sum(-1).mT
                torch.sub(length[:, piece], distance, out=near[:, piece, left:right])
        return near.clamp_(min=0)
