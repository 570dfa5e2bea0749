"""DeepLIFT at a layer."""

from __future__ import annotations

from dataclasses import dataclass

from attriflow.engine import Engine, Scores
from attriflow.engine.baselines import Baseline
from attriflow.engine.scores import Reduction
from attriflow.methods._layers import Layers, check_layers, endpoints, resolve
from attriflow.methods.deeplift import DeepLift, contributions
from attriflow.registry import methods


@methods.register(
    "layer_deeplift",
    family="gradient",
    blind="Credits positions of a layer, which hold several tokens' information; its rules are conventions, as "
    "in deeplift.",
    cost="4 forwards + T products",
    axes="step, input (embedding)",
    deterministic=True,
    signed=True,
    complete=True,
    paper="Shrikumar et al. 2017, arXiv:1704.02685",
    # a second forward for the baseline's activations
    floor=lambda problem, **_: 2 * problem.forward() + problem.products(),
    memory=lambda sizes, **_: sizes.contributions(),
)
@dataclass(frozen=True)
class LayerDeepLift:
    r"""DeepLIFT contributions of a layer's output, from what it puts out on a baseline.

    $m_i (a_i - a'_i)$ with a = the layer's output on the input and a' = its output when the inputs of its block are the
    baseline. Between the two ends only this output changes, everything else is computed from the input, so scores sum
    to $f_t(a) - f_t(a')$: what the step would lose if this layer alone saw the baseline. Rules as in `deeplift`, which
    this is at the embeddings.

    Attributes:
        target_layer: Dotted name of a module that puts out `[batch, position, width]` (as in
            `model.model.named_modules()`), or one per side for encoder-decoders with `attribute_target`; the input
            embeddings when None.
        baseline: What absent tokens look like: "unk", "pad", "mask", "eos", "bos", "zero", "mean" or a token id.
        return_convergence_delta: Add the step score `deltas`: sum of attributions minus $f_t(a) - f_t(a')$ (one more
            forward).
        multiply_by_inputs: False gives the multipliers, without the factor a - a'.
        reduction: "sum" (signed, complete) or "norm" (L2 norm over dimensions).
    """

    target_layer: Layers = None
    baseline: Baseline = "unk"
    return_convergence_delta: bool = False
    multiply_by_inputs: bool = True
    reduction: Reduction = "sum"

    def __post_init__(self) -> None:
        """Check the options before any model runs."""
        check_layers(self.target_layer)

    def __call__(self, engine: Engine) -> Scores:
        """Scores of a batch."""
        sites = resolve(engine, self.target_layer)
        options = DeepLift(
            return_convergence_delta=self.return_convergence_delta,
            multiply_by_inputs=self.multiply_by_inputs,
            reduction=self.reduction,
        )
        return contributions(engine, options, sites, *endpoints(engine, sites, self.baseline))
