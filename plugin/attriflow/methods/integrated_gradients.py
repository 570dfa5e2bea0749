"""Integrated gradients."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attriflow.engine import EmbeddingReducer, Engine, Scores
from attriflow.engine.baselines import Baseline
from attriflow.engine.scores import Reduction
from attriflow.errors import check_least
from attriflow.methods._enough import Points, enough
from attriflow.methods._quadrature import Rule, quadrature
from attriflow.registry import methods


@methods.register(
    "integrated_gradients",
    family="path",
    blind="Depends on the baseline, whose path leads through points that are no texts; few points leave a residual.",
    cost="n forwards + T x n products",
    axes="step, input (embedding)",
    deterministic=True,
    signed=True,
    complete=True,
    paper="Sundararajan et al. 2017, arXiv:1703.01365",
    demo={"n_steps": 20},
    trial={"n_steps": 6},
)
@dataclass(frozen=True)
class IntegratedGradients:
    r"""Gradients averaged along the straight line from a baseline to the input, times their difference.

    $(x_i - x'_i) \int_0^1 \partial f_t(x' + \alpha (x - x')) / \partial x_i \, d\alpha$ (eq. 1 of the paper). All
    attributed blocks move together, and one path serves all steps, since a step's value depends on its own prefix
    only. Scores sum to $f_t(x) - f_t(x')$ up to the quadrature error.

    Attributes:
        n_steps: Points on the path. "auto" starts with 20 and doubles them, up to 640, until the scores of a step miss
            their sum by less than 5%; the step scores `n_steps` and `residual` say how many it took and what is left.
        internal_batch_size: At most this many sequences per model call; chosen by available memory when None.
        return_convergence_delta: Add the step score `deltas`: sum of attributions minus $f_t(x) - f_t(x')$ (one more
            forward).
        quadrature: Rule for the integral: "gausslegendre" or "riemann_" + "trapezoid", "middle", "left", "right".
        baseline: What absent tokens look like: "unk", "pad", "mask", "eos", "bos", "zero", "mean" or a token id.
        multiply_by_inputs: False leaves out the factor x - x'.
        reduction: "sum" (signed, complete) or "norm" (L2 norm over dimensions).
        captum_compatible: Weights of "riemann_trapezoid" that sum to (n - 1) / n instead of 1, and scores that are too
            small by as much, as in captum and Inseq.
    """

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
        if self.n_steps != "auto":
            quadrature(self.quadrature, self.n_steps, self.captum_compatible)
        if self.internal_batch_size is not None:
            check_least("internal_batch_size", self.internal_batch_size)

    def __call__(self, engine: Engine) -> Scores:
        """Scores of a batch."""
        inputs = {b: engine.embeddings(b).to(engine.dtype) for b in engine.blocks}
        baselines = {b: engine.baseline_embeddings(b, self.baseline).to(engine.dtype) for b in engine.blocks}

        def point(alpha: float) -> dict[str, Tensor]:
            return {b: baselines[b] + alpha * (inputs[b] - baselines[b]) for b in engine.blocks}

        def explain(n: int) -> tuple[Scores, Tensor]:
            alphas, weights = quadrature(self.quadrature, n, self.captum_compatible)
            out = EmbeddingReducer(engine, self.reduction)
            total = torch.zeros_like(engine.batch.step_ids, dtype=engine.dtype)
            for steps, grads in engine.gradients(point, alphas, weights, self.internal_batch_size):
                for block, g in grads.items():
                    difference = (inputs[block] - baselines[block]).unsqueeze(1)
                    total[:, steps] += (g * difference).sum((-1, -2))
                    out.add(block, g * difference if self.multiply_by_inputs else g)
            return out.scores(), total

        if self.n_steps == "auto":
            difference = engine.values() - engine.values_at(baselines)
            return enough(engine, explain, difference, self.return_convergence_delta)
        scores, total = explain(self.n_steps)
        if not self.return_convergence_delta:
            return scores
        return replace(scores, step_scores={"deltas": total - (engine.values() - engine.values_at(baselines))})
