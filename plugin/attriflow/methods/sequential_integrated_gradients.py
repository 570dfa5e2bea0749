"""Sequential integrated gradients: one path per token, all other tokens in place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attriflow.engine import Engine
from attriflow.errors import InputError
from attriflow.methods._quadrature import Rule, quadrature
from attriflow.methods._scores import EmbeddingReducer, Reduction, Scores
from attriflow.registry import methods


@methods.register(
    "sequential_integrated_gradients",
    family="path",
    cost="L x n forwards + T x L x n products; L + 1 forwards with norms=False",
    axes="step, input (embedding)",
    deterministic=True,
    signed=True,
    paper="Enguehard 2023, arXiv:2305.15853",
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
    """

    n_steps: int = 50
    norms: bool = True
    internal_batch_size: int | None = None
    return_convergence_delta: bool = False
    quadrature: Rule = "gausslegendre"
    baseline: str | int = "unk"
    multiply_by_inputs: bool = True
    reduction: Reduction = "sum"

    def __post_init__(self) -> None:
        """Check the options before any model runs."""
        quadrature(self.quadrature, self.n_steps)
        if self.internal_batch_size is not None and self.internal_batch_size < 1:
            raise InputError(f"internal_batch_size must be at least 1, not {self.internal_batch_size}")
        if not self.norms and (self.reduction == "norm" or not self.multiply_by_inputs):
            raise InputError("norms=False gives signed sums only: it goes with reduction='sum' and multiply_by_inputs")

    def __call__(self, engine: Engine) -> Scores:
        """Scores of a batch."""
        if not self.norms and engine.granular:
            raise InputError("norms=False gives one number per token; granular scores need norms=True")
        inputs = {b: engine.embeddings(b).to(engine.dtype) for b in engine.blocks}
        baselines = {b: engine.baseline_embeddings(b, self.baseline).to(engine.dtype) for b in engine.blocks}
        sums = torch.zeros_like(engine.batch.step_ids, dtype=engine.dtype)
        out = EmbeddingReducer(engine, self.reduction)
        plain: dict[str, Tensor] = {}
        for block in engine.blocks:
            if self.norms:
                for steps, g in self._gradients(engine, block, inputs[block], baselines[block]):
                    difference = (inputs[block] - baselines[block]).unsqueeze(1)
                    sums[:, steps] += (g * difference).sum((-1, -2))
                    out.add(block, g * difference if self.multiply_by_inputs else g)
            else:
                plain[block] = self._differences(engine, block, inputs[block], baselines[block])
                sums += (plain[block] * engine.visible(block)).sum(-1)
        extra = {}
        if self.return_convergence_delta:
            moved = {f"{b}_embeds": baselines[b].to(engine.model.dtype) for b in engine.blocks}
            extra["deltas"] = sums - (engine.values() - engine.rescore(1, lambda _start, _stop: moved)[0])
        return out.scores(extra) if self.norms else Scores(plain, step_scores=extra)

    def _gradients(self, engine: Engine, block: str, x: Tensor, start: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Mean gradient on every token's own path, slices of steps with `[batch, step, position, hidden]`.

        The moved token alone is the leaf of the graph, so no gradient of the others is kept.
        """
        alphas, weights = quadrature(self.quadrature, self.n_steps)
        width, n = x.shape[1], self.n_steps

        def point(number: float) -> dict[str, Tensor]:
            i, k = divmod(int(number), n)
            return {block: (start + alphas[k] * (x - start))[:, i : i + 1]}

        def embed(leaves: Mapping[str, Tensor], numbers: Sequence[float]) -> dict[str, Tensor]:
            moved = torch.tensor([int(v) // n for v in numbers], device=x.device).repeat_interleave(engine.batch.size)
            here = torch.arange(width, device=x.device) == moved.unsqueeze(1)
            still = engine.embeddings(block).repeat(len(numbers), 1, 1)
            return {block: torch.where(here.unsqueeze(-1), leaves[block], still)}

        def reduce(_block: str, grads: Tensor, numbers: Sequence[float]) -> Tensor:
            out = grads.new_zeros((grads.shape[0], grads.shape[2], width, grads.shape[-1]))
            index = torch.tensor([int(v) // n for v in numbers], device=grads.device)
            return out.index_add_(2, index, grads.squeeze(3).transpose(1, 2))

        numbers = [float(v) for v in range(width * n)]
        every = weights * width
        runs = engine.gradients(point, numbers, every, self.internal_batch_size, reduce=reduce, embed=embed)
        for steps, grads in runs:
            yield steps, grads[block]

    def _differences(self, engine: Engine, block: str, x: Tensor, start: Tensor) -> Tensor:
        """What each token's path adds up to, `[batch, step, position]`."""
        place = torch.arange(x.shape[1], device=x.device)

        def changes(first: int, last: int) -> dict[str, Tensor]:
            here = (place == place[first:last].unsqueeze(1)).view(last - first, 1, -1, 1)
            return {f"{block}_embeds": torch.where(here, start, x).flatten(0, 1).to(engine.model.dtype)}

        return (engine.values() - engine.rescore(x.shape[1], changes, in_order=True)).permute(1, 2, 0).to(engine.dtype)
