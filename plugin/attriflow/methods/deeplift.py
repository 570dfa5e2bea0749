"""DeepLIFT."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attriflow.engine import EmbeddingReducer, Engine, Scores
from attriflow.engine import sizes as settings
from attriflow.engine.baselines import Baseline
from attriflow.engine.bound import Sites
from attriflow.engine.scores import Reduction
from attriflow.kernels.slopes import activations
from attriflow.methods._deeplift.paired import Paired
from attriflow.methods._deeplift.rows import RowLimits
from attriflow.methods._deeplift.rules import rescale
from attriflow.methods._layers import endpoints, token_values_at
from attriflow.registry import methods

CAPTUM = {nn.ReLU, nn.ELU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.Softplus}
"""Elementwise module classes that captum's DeepLift has a rule for."""

KEPT_BYTES = 2**20
"""Attention weights of a layer up to which ordinary autograd is as fast as tiles."""


@methods.register(
    "deeplift",
    family="gradient",
    blind="Its rules for products and softmax are conventions; says nothing of what token and baseline have in common.",
    cost="2 forwards + T products",
    axes="step, input (embedding)",
    deterministic=True,
    signed=True,
    complete=True,
    paper="Shrikumar et al. 2017, arXiv:1704.02685",
    memory=lambda sizes, **_: sizes.contributions(),
)
@dataclass(frozen=True)
class DeepLift:
    r"""Contributions to the difference from a baseline, passed back through the model function by function.

    $m_i (x_i - x'_i)$, where the multipliers $m$ obey the chain rule of the paper (eq. 3) and carry the whole
    difference through every function, so that scores sum to $f_t(x) - f_t(x')$ up to rounding. One pair of passes
    serves all steps.

    Activation functions follow the paper's rescale rule, $m = \Delta y / \Delta x$. The paper has no rule for the other
    parts of a transformer; here they follow an extension with the same property: products of two computed tensors
    (attention scores, gates, norms) have the gradient at the midpoint of input and baseline, and softmax shares the
    difference by logarithmic means. Layer and RMS norms are made of these. The RevealCancel rule is not offered.

    Attributes:
        baseline: What absent tokens look like: "unk", "pad", "mask", "eos", "bos", "zero", "mean" or a token id.
        return_convergence_delta: Add the step score `deltas`: sum of attributions minus $f_t(x) - f_t(x')$.
        multiply_by_inputs: False gives the multipliers, without the factor x - x'.
        reduction: "sum" (signed, complete) or "norm" (L2 norm over dimensions).
        captum_compatible: Only activation modules that captum knows (ReLU, ELU, LeakyReLU, Sigmoid, Tanh, Softplus)
            follow the rescale rule, everything else is its gradient at the input, as in captum and Inseq: not complete.
    """

    baseline: Baseline = "unk"
    return_convergence_delta: bool = False
    multiply_by_inputs: bool = True
    reduction: Reduction = "sum"
    captum_compatible: bool = False

    def __call__(self, engine: Engine) -> Scores:
        """Scores of a batch."""
        inputs, baselines = endpoints(engine, None, self.baseline)
        return contributions(engine, self, None, inputs, baselines)


def contributions(
    engine: Engine,
    options: DeepLift,
    sites: Sites | None,
    inputs: dict[str, Tensor],
    baselines: dict[str, Tensor],
) -> Scores:
    """Multipliers between two outputs of the target layers (input embeddings without `sites`) times the difference."""
    hf, together = engine.model.hf, None
    if options.captum_compatible:
        pair = Paired(hf, CAPTUM, slope=rescale, functions=False)
    else:
        limits = _limits(engine)
        pair = Paired(hf, activations(), skip=list((sites or {}).values()), limits=limits)
        if pair.by_rows and engine.sizes.attention_bytes() > limits.kept_bytes:
            together = limits.products
    if engine.force_contrast:
        engine.scored()  # the foil's pass is a constant, and no part of either pass
    with pair.record():
        values = token_values_at(engine, sites, baselines)
    outside = engine.of_steps(values)  # no part of either pass
    out = EmbeddingReducer(engine, options.reduction)
    total = torch.zeros_like(outside, dtype=engine.dtype)
    points = None if sites is None else lambda _: inputs
    within = pair.replay if pair.rules else None  # without a rule to apply, multipliers are gradients
    for steps, grads in engine.gradients(points, sites=sites, within=within, together=together):
        for block, g in grads.items():
            scores = g * (inputs[block] - baselines[block]).unsqueeze(1)
            total[:, steps] += scores.sum((-1, -2))
            out.add(block, scores if options.multiply_by_inputs else g)
    if sites is not None and not options.return_convergence_delta:
        return out.scores()
    inside = engine.values()
    deltas = total - (inside - outside)
    if not options.captum_compatible and engine.model.dtype in (torch.float32, torch.float64):
        _check(engine, deltas, inside, outside)
    return out.scores({"deltas": deltas} if options.return_convergence_delta else None)


def _limits(engine: Engine) -> RowLimits:
    """Keep the attention weights of all layers where they are small; else slopes are worked out for many products."""
    return RowLimits(
        kept_bytes=min(KEPT_BYTES, settings.CHUNK_BYTES / (4 * engine.model.shape.layers)),
        group_bytes=settings.CHUNK_BYTES / 4,
        products=min(engine.sizes.products_at_once(), engine.batch.n_steps),
    )


def _check(engine: Engine, deltas: Tensor, inside: Tensor, outside: Tensor) -> None:
    """Say so when scores do not add up: an operation without a rule must not go unnoticed."""
    allowed = 1e-2 * (inside - outside).abs() + 1e-3 * torch.maximum(inside.abs(), outside.abs()) + 1e-6
    worst = torch.where(engine.batch.step_mask & deltas.isfinite(), deltas.abs() / allowed, 0.0)
    if not bool((worst <= 1).all()):
        most = float((worst * allowed).nan_to_num().max())
        warnings.warn(
            f"DeepLIFT scores of {engine.model.name} miss f(x) - f(x') by up to {most:.2g}: "
            "the model uses an operation without a rule, or its precision is too low",
            stacklevel=2,
        )
