"""Integrated gradients at a layer."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attriflow.engine import EmbeddingReducer, Engine, Scores
from attriflow.engine.baselines import Baseline
from attriflow.engine.scores import Reduction
from attriflow.errors import check_least
from attriflow.methods._enough import Points, enough
from attriflow.methods._layers import Layers, check_layers, endpoints, resolve, value_at
from attriflow.methods._quadrature import Rule, quadrature
from attriflow.registry import methods


@methods.register(
    "layer_integrated_gradients",
    family="path",
    blind="Credits positions of a layer, which hold several tokens' information; depends on the baseline.",
    cost="n + 2 forwards + T x n products",
    axes="step, input (embedding)",
    deterministic=True,
    signed=True,
    complete=True,
    paper="Sundararajan et al. 2017, arXiv:1703.01365; Kokhlikyan et al. 2020, arXiv:2009.07896",
    # the layer's state is in the passes
    floor=lambda problem, n_steps, **_: n_steps * (problem.forward() + problem.products()),
    demo={"n_steps": 20},
    trial={"n_steps": 6},
)
@dataclass(frozen=True)
class LayerIntegratedGradients:
    r"""Gradients averaged while a layer's output moves from what it is on a baseline to what it is on the input.

    $(a_i - a'_i) \int_0^1 \partial f_t(a' + \alpha (a - a')) / \partial a_i \, d\alpha$ with a = the layer's output on
    the input and a' = its output when the inputs of its block are the baseline; everything else is computed from the
    input. Scores sum to $f_t(a) - f_t(a')$ up to the quadrature error. At the embeddings this is
    `integrated_gradients`.

    Attributes:
        target_layer: Dotted name of a module that puts out `[batch, position, width]` (as in
            `model.model.named_modules()`), or one per side for encoder-decoders with `attribute_target`; the input
            embeddings when None.
        n_steps: Points on the path. "auto" starts with 20 and doubles them, up to 640, until the scores of a step miss
            their sum by less than 5%; the step scores `n_steps` and `residual` say how many it took and what is left.
        internal_batch_size: At most this many sequences per model call; chosen by available memory when None.
        return_convergence_delta: Add the step score `deltas`: sum of attributions minus $f_t(a) - f_t(a')$ (up to two
            more forwards).
        quadrature: Rule for the integral: "gausslegendre" or "riemann_" + "trapezoid", "middle", "left", "right".
        baseline: What absent tokens look like: "unk", "pad", "mask", "eos", "bos", "zero", "mean" or a token id.
        multiply_by_inputs: False leaves out the factor a - a'.
        reduction: "sum" (signed, complete) or "norm" (L2 norm over dimensions).
        captum_compatible: Weights of "riemann_trapezoid" that sum to (n - 1) / n instead of 1, and scores that are too
            small by as much, as in captum and Inseq.
    """

    target_layer: Layers = None
    n_steps: Points = 50
    internal_batch_size: int | None = None
    return_convergence_delta: bool = False
    quadrature: Rule = "gausslegendre"
    baseline: Baseline = "unk"
    multiply_by_inputs: bool = True
    reduction: Reduction = "sum"
    captum_compatible: bool = False

    def __post_init__(self) -> None:
        """Check the options before any model runs."""
        check_layers(self.target_layer)
        if self.n_steps != "auto":
            quadrature(self.quadrature, self.n_steps, self.captum_compatible)
        if self.internal_batch_size is not None:
            check_least("internal_batch_size", self.internal_batch_size)

    def __call__(self, engine: Engine) -> Scores:
        """Scores of a batch."""
        sites = resolve(engine, self.target_layer)
        ends, starts = endpoints(engine, sites, self.baseline)

        def point(alpha: float) -> dict[str, Tensor]:
            return {b: starts[b] + alpha * (ends[b] - starts[b]) for b in ends}

        def explain(n: int) -> tuple[Scores, Tensor]:
            alphas, weights = quadrature(self.quadrature, n, self.captum_compatible)
            out = EmbeddingReducer(engine, self.reduction)
            total = torch.zeros_like(engine.batch.step_ids, dtype=engine.dtype)
            for steps, grads in engine.gradients(point, alphas, weights, self.internal_batch_size, sites=sites):
                for block, g in grads.items():
                    scores = g * (ends[block] - starts[block]).unsqueeze(1)
                    total[:, steps] += scores.sum((-1, -2))
                    out.add(block, scores if self.multiply_by_inputs else g)
            return out.scores(), total

        if self.n_steps == "auto":
            difference = engine.values() - value_at(engine, sites, starts)
            return enough(engine, explain, difference, self.return_convergence_delta)
        scores, total = explain(self.n_steps)
        if not self.return_convergence_delta:
            return scores
        return replace(scores, step_scores={"deltas": total - (engine.values() - value_at(engine, sites, starts))})
