"""Gradient x activation of a layer."""

from __future__ import annotations

from dataclasses import dataclass

from attriflow.engine import EmbeddingReducer, Engine, Scores
from attriflow.engine.scores import Reduction
from attriflow.methods._layers import Layers, check_layers, endpoints, resolve
from attriflow.registry import methods


@methods.register(
    "layer_gradient_x_activation",
    family="gradient",
    blind="Credits positions of a layer, which hold several tokens' information; first order at one point.",
    cost="2 forwards + T products",
    axes="step, input (embedding)",
    deterministic=True,
    signed=True,
    paper="Simonyan et al. 2013, arXiv:1312.6034; Kokhlikyan et al. 2020, arXiv:2009.07896",
    floor=lambda problem, **_: problem.forward() + problem.products(),  # the layer's state is in the pass
)
@dataclass(frozen=True)
class LayerGradientXActivation:
    r"""Gradient with respect to a layer's output times that output: the first-order estimate of what it adds.

    $a_i \cdot \partial f_t / \partial a_i$, per dimension of the output; a position's score is the signed sum over
    dimensions. At the embeddings this is `input_x_gradient`.

    Attributes:
        target_layer: Dotted name of a module that puts out `[batch, position, width]` (as in
            `model.model.named_modules()`), or one per side for encoder-decoders with `attribute_target`; the input
            embeddings when None.
        multiply_by_inputs: False gives the gradient alone.
        reduction: "sum" (signed) or "norm" (L2 norm over dimensions).
    """

    target_layer: Layers = None
    multiply_by_inputs: bool = True
    reduction: Reduction = "sum"

    def __post_init__(self) -> None:
        """Check the options before any model runs."""
        check_layers(self.target_layer)

    def __call__(self, engine: Engine) -> Scores:
        """Scores of a batch."""
        sites = resolve(engine, self.target_layer)
        outputs, _ = endpoints(engine, sites, None)
        out = EmbeddingReducer(engine, self.reduction)
        points = None if sites is None else lambda _: outputs
        for _, grads in engine.gradients(points, sites=sites):
            for block, g in grads.items():
                out.add(block, g * outputs[block].unsqueeze(1) if self.multiply_by_inputs else g)
        return out.scores()
