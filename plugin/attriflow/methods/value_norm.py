"""Norms of value-weighted attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attriflow.engine import Engine, Scores
from attriflow.methods._internals.recording import BLOCK, Layer, record_layers
from attriflow.registry import methods

# A norm needs v G v with G = W W^T only: [dim, dim] per head in place of values as wide as the residual stream.


@methods.register(
    "value_norm",
    family="internals",
    blind="How much attention moves, not in which direction: later layers and the explained function play no part.",
    cost="1 forward",
    axes="step, input, layer, head",
    deterministic=True,
    signed=False,
    interface=True,
    paper="Kobayashi et al. 2020, arXiv:2004.10102",
    floor=lambda problem, **_: problem.forward() - problem.head(),
    memory=lambda sizes, **_: sizes.recorded(2.2, 2.5),
)
@dataclass(frozen=True)
class ValueNorm:
    r"""Length of what attention moves from each token to the position that predicts a step, per layer and head.

    $\lVert \alpha^h_{tj} \, v^h_j W^h_O \rVert_2$ (section 3 of the paper): a large weight on a token whose value is
    short moves little. $v^h_j$ is the value vector of token j (its bias included), $W^h_O$ the rows of the output
    projection that belong to head h. Layers and heads stay as axes, as in `attention`. Source tokens: cross attention,
    whose values are made from the encoder's output states. The explained function plays no part.
    """

    def __call__(self, engine: Engine) -> Scores:
        """Scores of a batch."""
        found: dict[str, list[Tensor]] = {"source": [], "target": []}

        def take(layer: Layer) -> None:
            block = BLOCK.get(layer.role)
            if block in engine.blocks:
                values = layer.values(engine.dtype)
                gram = layer.weight.to(engine.dtype) @ layer.weight.to(engine.dtype).mT
                norms = ((values @ gram) * values).sum(-1).clamp(min=0).sqrt()
                moved = layer.call.at(engine.batch.query).to(engine.dtype) * norms[:, :, None]
                found[block].append(moved.to(engine.model.device))

        record_layers(engine, take)
        return Scores({b: torch.stack(found[b], -1).permute(0, 2, 3, 4, 1) for b in engine.blocks}, ("layer", "head"))
