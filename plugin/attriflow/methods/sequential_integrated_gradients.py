"""Sequential integrated gradients: one path per token, all other tokens in place."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attriflow.engine import Engine, Scores
from attriflow.engine.baselines import Baseline
from attriflow.engine.prefix import SHORTEST
from attriflow.engine.scores import Reduction
from attriflow.errors import InputError, check_least
from attriflow.methods._quadrature import Rule, quadrature
from attriflow.registry import methods


@dataclass
class _Part:
    """Scores of one block, `[batch, step, position]`; `sums` always with the factor x - x'."""

    sums: Tensor
    scores: Tensor
    norms: Tensor | None = None
    whole: Tensor | None = None


def _floor(problem: Any, n_steps: int, norms: bool, **_: Any) -> float:
    """The signed sum is a difference of two scores."""
    return n_steps * problem.one_by_one_products() if norms else problem.forward() + problem.one_by_one()


@methods.register(
    "sequential_integrated_gradients",
    family="path",
    blind="One token at a time: of two that say the same, neither gets credit; its sum is occlusion's, its "
    "points only shape the norm.",
    cost="L x n forwards + T x L x n products; L + 1 forwards with norms=False",
    axes="step, input (embedding)",
    deterministic=True,
    signed=True,
    paper="Enguehard 2023, arXiv:2305.15853",
    floor=_floor,
    demo={"norms": False},
    trial={"n_steps": 2},
    memory=lambda sizes, n_steps, norms, **_: (
        sizes.gradients(n_steps * (sizes.tokens if sizes.source else -(-sizes.tokens // 16)))
        if norms
        else sizes.rescored(in_order=True)
    ),
)
@dataclass(frozen=True)
class SequentialIntegratedGradients:
    r"""Integrated gradients of one token at a time, while all other tokens keep their embeddings.

    $(x_i - x'_i) \int_0^1 \partial f_t(x_{\setminus i}, x'_i + \alpha (x_i - x'_i)) / \partial x_i \, d\alpha$ (eq. 4
    of the paper). By the fundamental theorem of calculus the sum over embedding dimensions is
    $f_t(x) - f_t(x \text{ with } x_i = x'_i)$, which needs no gradient: `norms=False` asks for this signed sum alone.

    Attributes:
        n_steps: Points on each token's path.
        norms: Compute the gradients, and with them the L2 norms that Inseq shows. False: signed sums only, exact, from
            one forward per token.
        internal_batch_size: At most this many sequences per model call; chosen by available memory when None.
        return_convergence_delta: Add the step score `deltas`: sum of attributions minus $f_t(x) - f_t(x')$ with all
            tokens at their baselines; not zero in general, since tokens interact.
        quadrature: Rule for the integral, as in `integrated_gradients`.
        baseline: What absent tokens look like: "unk", "pad", "mask", "eos", "bos", "zero", "mean" or a token id.
        multiply_by_inputs: False leaves out the factor x - x'.
        reduction: "sum" (signed) or "norm" (L2 norm over dimensions).
        captum_compatible: Weights of "riemann_trapezoid" that sum to (n - 1) / n instead of 1, and scores that are too
            small by as much, as in captum and Inseq.
    """

    n_steps: int = 50
    norms: bool = True
    internal_batch_size: int | None = None
    return_convergence_delta: bool = False
    quadrature: Rule = "gausslegendre"
    baseline: Baseline = "unk"
    multiply_by_inputs: bool = True
    reduction: Reduction = "sum"
    captum_compatible: bool = False

    def __post_init__(self) -> None:
        """Check the options before any model runs."""
        quadrature(self.quadrature, self.n_steps, self.captum_compatible)
        if self.internal_batch_size is not None:
            check_least("internal_batch_size", self.internal_batch_size)
        if not self.norms and (self.reduction == "norm" or not self.multiply_by_inputs):
            raise InputError("norms=False gives signed sums only: it goes with reduction='sum' and multiply_by_inputs")

    def __call__(self, engine: Engine) -> Scores:
        """Scores of a batch."""
        if not self.norms and engine.granular:
            raise InputError("norms=False gives one number per token; granular scores need norms=True")
        inputs = {b: engine.embeddings(b).to(engine.dtype) for b in engine.blocks}
        baselines = {b: engine.baseline_embeddings(b, self.baseline).to(engine.dtype) for b in engine.blocks}
        parts = {b: self._block(engine, b, inputs[b], baselines[b]) for b in engine.blocks}
        extra = {}
        if self.return_convergence_delta:
            sums = sum(torch.where(engine.visible(b), part.sums, 0.0).sum(-1) for b, part in parts.items())
            extra["deltas"] = sums - (engine.values() - engine.values_at(baselines))
        if engine.granular:
            return Scores({b: p.whole for b, p in parts.items() if p.whole is not None}, ("embedding",), None, extra)
        norms = {b: p.norms for b, p in parts.items() if p.norms is not None}
        scores = norms if self.reduction == "norm" else {b: p.scores for b, p in parts.items()}
        return Scores(scores, norms=norms or None, step_scores=extra)

    def _block(self, engine: Engine, block: str, x: Tensor, start: Tensor) -> _Part:
        """The scores of one block, a few tokens at a time.

        Tokens before the ones that move stay as they are, so decoder-only models run from the moved ones on.
        """
        if not self.norms:
            sums = self._differences(engine, block, x, start)
            return _Part(sums, sums)
        width, shape = x.shape[1], (engine.batch.size, engine.batch.n_steps, x.shape[1])
        out = _Part(*(torch.zeros(shape, dtype=engine.dtype, device=x.device) for _ in range(3)))
        if engine.granular:
            out.whole = torch.zeros((*shape, x.shape[-1]), dtype=engine.dtype, device=x.device)
        nodes = quadrature(self.quadrature, self.n_steps, self.captum_compatible)
        alphas, weights = torch.tensor(nodes, dtype=engine.dtype).to(x.device)
        reuse = block == "target" and engine.reusable_prefix() is not None
        size = max(1, -(-width // 16)) if reuse else width
        for first in range(0, width, size):
            tokens = range(first, min(width, first + size))
            unchanged = first if reuse and first >= SHORTEST else 0
            here = slice(tokens.start, tokens.stop)
            if engine.steps_after(first).start == engine.batch.n_steps:
                break
            for steps, g in self._gradients(engine, block, x, start, tokens, unchanged, (alphas, weights)):
                moved = g * (x - start)[:, here].unsqueeze(1)
                scores = moved if self.multiply_by_inputs else g
                out.sums[:, steps, here], out.scores[:, steps, here] = moved.sum(-1), scores.sum(-1)
                if out.norms is not None:
                    out.norms[:, steps, here] = scores.norm(dim=-1)
                if out.whole is not None:
                    out.whole[:, steps, here] = scores
        return out

    def _gradients(
        self,
        engine: Engine,
        block: str,
        x: Tensor,
        start: Tensor,
        tokens: range,
        unchanged: int,
        rule: tuple[Tensor, Tensor],
    ) -> Iterator[tuple[slice, Tensor]]:
        """Mean gradient on the own paths of some tokens, slices of steps with `[batch, step, token, hidden]`.

        The moved token alone is the leaf of the graph, so no gradient of the others is kept. `rule` is the quadrature:
        points of a path and their weights.
        """
        alphas, weights = rule
        width, n = x.shape[1], self.n_steps

        @functools.lru_cache(maxsize=1)
        def path(i: int) -> Tensor:  # of a token, [point, batch, 1, hidden]
            a, b = start[:, i : i + 1], x[:, i : i + 1]
            return a + alphas.view(-1, 1, 1, 1) * (b - a)

        def point(number: float) -> dict[str, Tensor]:
            i, k = divmod(int(number), n)
            return {block: path(tokens.start + i)[k]}

        def tokens_of(numbers: Sequence[float]) -> Tensor:  # come in order
            return torch.arange(int(numbers[0]), int(numbers[-1]) + 1, device=x.device) // n

        def embed(leaves: Mapping[str, Tensor], numbers: Sequence[float]) -> dict[str, Tensor]:
            moved = tokens_of(numbers) + tokens.start
            here = torch.arange(width, device=x.device) == moved.repeat_interleave(engine.batch.size).unsqueeze(1)
            still = engine.embeddings(block).repeat(len(numbers), 1, 1)
            return {block: torch.where(here.unsqueeze(-1), leaves[block], still)}

        def reduce(_block: str, grads: Tensor, numbers: Sequence[float]) -> Tensor:
            out = grads.new_zeros((grads.shape[0], grads.shape[2], len(tokens), grads.shape[-1]))
            return out.index_add_(2, tokens_of(numbers), grads.squeeze(3).transpose(1, 2))

        numbers = [float(v) for v in range(len(tokens) * n)]
        every = weights.repeat(len(tokens))
        runs = engine.gradients(
            point, numbers, every, self.internal_batch_size, reduce=reduce, embed=embed, unchanged=unchanged
        )
        for steps, grads in runs:
            yield steps, grads[block]

    def _differences(self, engine: Engine, block: str, x: Tensor, start: Tensor) -> Tensor:
        """What each token's path adds up to, `[batch, step, position]`."""
        place = torch.arange(x.shape[1], device=x.device)

        def changes(first: int, last: int) -> dict[str, Tensor]:
            here = (place == place[first:last].unsqueeze(1)).view(last - first, 1, -1, 1)
            return {f"{block}_embeds": torch.where(here, start, x).flatten(0, 1).to(engine.model.dtype)}

        return (engine.values() - engine.rescore(x.shape[1], changes, in_order=True)).permute(1, 2, 0).to(engine.dtype)
