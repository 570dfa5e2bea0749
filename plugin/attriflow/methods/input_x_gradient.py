"""Input x gradient."""

from __future__ import annotations

from dataclasses import dataclass

from attriflow.engine import EmbeddingReducer, Engine, Scores
from attriflow.engine.scores import Reduction
from attriflow.registry import methods


@methods.register(
    "input_x_gradient",
    family="gradient",
    blind="First order at one point: a saturated answer has nearly no gradient, and the sum over dimensions "
    "may cancel.",
    cost="1 forward + T products",
    axes="step, input (embedding)",
    deterministic=True,
    signed=True,
    paper="Shrikumar et al. 2016, arXiv:1605.01713; Simonyan et al. 2013, arXiv:1312.6034",
)
@dataclass(frozen=True)
class InputXGradient:
    r"""Gradient times input: the first-order estimate of what the input adds to the score.

    $x_i \cdot \partial f_t / \partial x_i$, per embedding dimension; a token's score is the signed sum over dimensions.

    Attributes:
        reduction: "sum" (signed) or "norm" (L2 norm over dimensions).
    """

    reduction: Reduction = "sum"

    def __call__(self, engine: Engine) -> Scores:
        """Scores of a batch."""
        out = EmbeddingReducer(engine, self.reduction)
        inputs = {block: engine.embeddings(block).unsqueeze(1).to(engine.dtype) for block in engine.blocks}
        for _, grads in engine.gradients():
            for block, g in grads.items():
                out.add(block, g * inputs[block])
        return out.scores()
