"""Gradient saliency."""

from __future__ import annotations

from dataclasses import dataclass

from attriflow.engine import EmbeddingReducer, Engine, Scores
from attriflow.engine.scores import Reduction
from attriflow.registry import methods


@methods.register(
    "saliency",
    family="gradient",
    blind="No sign; how sensitive the answer is, not what a token does: a saturated answer has nearly no gradient.",
    cost="1 forward + T products",
    axes="step, input (embedding)",
    deterministic=True,
    signed=False,
    paper="Simonyan et al. 2013, arXiv:1312.6034",
)
@dataclass(frozen=True)
class Saliency:
    r"""Magnitude of the gradient of each step's score with respect to each input embedding.

    $|\partial f_t / \partial x_i|$ (eq. 1 of the paper), per embedding dimension; a token's score is the L2 norm over
    dimensions. All steps come from one forward pass and one graph.

    Attributes:
        abs: Take absolute values per dimension; with `abs=False` and `reduction="sum"` scores are signed.
        reduction: "norm" (L2 norm over dimensions) or "sum".
    """

    abs: bool = True
    reduction: Reduction = "norm"

    def __call__(self, engine: Engine) -> Scores:
        """Scores of a batch."""
        out = EmbeddingReducer(engine, self.reduction)
        for _, grads in engine.gradients():
            for block, g in grads.items():
                out.add(block, g.abs() if self.abs else g)
        return out.scores()
