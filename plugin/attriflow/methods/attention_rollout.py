"""Attention rollout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from attriflow.engine import Engine, Scores
from attriflow.errors import InputError
from attriflow.kernels.positions import at
from attriflow.methods._internals.recording import record, roles
from attriflow.models.attention import AttentionCall
from attriflow.registry import methods

Fusion = Literal["mean", "max", "min"]


@methods.register(
    "attention_rollout",
    family="internals",
    blind="Takes attention for influence, in every layer alike: sees neither values nor MLPs nor what is explained.",
    cost="1 forward",
    deterministic=True,
    signed=False,
    interface=True,
    paper="Abnar and Zuidema 2020, arXiv:2005.00928",
    floor=lambda problem, **_: problem.forward() - problem.head(),
    memory=lambda sizes, **_: sizes.recorded(2.3, 0, 2),
)
@dataclass(frozen=True)
class AttentionRollout:
    r"""Attention multiplied through the layers, with the residual connection as attention of a token to itself.

    $R^{(l)} = (r I + (1 - r) \bar A^{(l)}) R^{(l-1)}$, $R^{(0)} = I$, with $\bar A$ the attention of a layer averaged
    over heads (section 3 of the paper, where $r = 1/2$). A step's scores are the row of the position that predicts it;
    they are not negative and sum to 1 over its inputs.

    Encoder-decoders: the encoder has its own rollout $E$. The decoder carries $D$ [position, decoder input] and $S$
    [position, source token]: self attention mixes the rows of both, and after cross attention $C$,
    $D \leftarrow r D$ and $S \leftarrow r S + (1 - r) C E$. Source and target scores together sum to 1, so without
    `attribute_target` the source scores sum to less: the rest is the target's. The explained function plays no part.

    Attributes:
        residual: Weight of the residual connection, from 0 to 1.
        head: How heads become one: "mean", "max" or "min"; the latter two are divided by their sum over tokens.
    """

    residual: float = 0.5
    head: Fusion = "mean"

    def __post_init__(self) -> None:
        """Check the options before any model runs."""
        if not 0 <= self.residual <= 1:
            raise InputError(f"residual must be from 0 to 1, not {self.residual}")

    def __call__(self, engine: Engine) -> Scores:
        """Scores of a batch."""
        role_of = roles(engine)
        # one running matrix per side, [batch, position, input]; nothing of a layer stays
        state: dict[str, Tensor] = {}

        def take(module: nn.Module, call: AttentionCall) -> None:
            role = role_of(module)
            place = call.query.device
            # what each side's attended tokens are made of; of inputs themselves
            before: dict[str, Tensor | None] = {"encoder" if role == "encoder_self" else "target": None}
            if role == "cross":
                before = {"source": state["encoder"].to(place)}
            elif role == "decoder_self":
                before |= {side: s.to(place) for side, s in state.items() if side != "encoder"}
            elif "encoder" in state:
                before["encoder"] = state["encoder"].to(place)
            parts: dict[str, list[Tensor]] = {side: [] for side in before}
            for _, weights in call.blocks():
                attention = self._fused(weights).to(engine.dtype)
                for side, s in before.items():
                    parts[side].append(_product(attention, s, call.shape[3], causal=side == "target"))
            after = {side: torch.cat(found, 1) for side, found in parts.items()}
            if role == "cross":
                source = (1 - self.residual) * after["source"]
                if "source" in state:
                    source += self.residual * state["source"].to(place)
                state["source"] = source
                state["target"] = self.residual * state["target"]
                return
            for side, s in before.items():
                if s is None:
                    state[side] = after[side].mul_(1 - self.residual)
                    state[side].diagonal(dim1=1, dim2=2).add_(self.residual)
                else:
                    state[side] = after[side].lerp_(s, self.residual)

        record(engine, take)
        return Scores({b: at(state[b], engine.batch.query, 1) for b in engine.blocks})

    def _fused(self, weights: Tensor) -> Tensor:
        """Weights `[batch, head, receiving, attended]` of all heads as one, `[batch, receiving, attended]`."""
        if self.head == "mean":
            return weights.mean(1)
        fused = weights.amax(1) if self.head == "max" else weights.amin(1)
        total = fused.sum(-1, keepdim=True)
        # heads that attend to disjoint tokens have no minimum to share
        return torch.where(total > 0, fused / total.where(total > 0, 1), weights.mean(1))


def _product(attention: Tensor, state: Tensor | None, width: int, causal: bool) -> Tensor:
    """`attention [batch, row, seen]` times `state [batch, attended, input]`, both lower triangular if `causal`.

    Without a state the attention itself, to all of `width` attended tokens.
    """
    seen = attention.shape[-1]
    if state is None:
        return torch.nn.functional.pad(attention, (0, width - seen))
    if not causal:
        return attention @ state[:, :seen]
    return torch.nn.functional.pad(attention @ state[:, :seen, :seen], (0, width - seen))
