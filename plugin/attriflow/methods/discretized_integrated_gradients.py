"""Discretized integrated gradients: paths that stay close to real words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from attriflow.engine import EmbeddingReducer, Engine, Scores
from attriflow.engine.baselines import TokenBaseline, baseline_ids
from attriflow.engine.scores import Reduction
from attriflow.errors import check_least
from attriflow.kernels.transfer import sent
from attriflow.methods._neighbours import neighbours
from attriflow.registry import methods
from attriflow.texts.tokens import special_ids

Strategy = Literal["greedy", "maxcount"]


@methods.register(
    "discretized_integrated_gradients",
    family="path",
    blind="The path goes over words near in the embedding table, whatever they mean; scores need not add up.",
    cost="n forwards + T x n products",
    axes="step, input (embedding)",
    deterministic=True,
    signed=True,
    paper="Sanyal and Ren 2021, arXiv:2108.13654",
    demo={"n_steps": 20},
    trial={"n_steps": 5, "n_neighbors": 10},
    memory=lambda sizes, n_steps, **_: sizes.gradients(n_steps - 1),
)
@dataclass(frozen=True)
class DiscretizedIntegratedGradients:
    r"""Integrated gradients along monotonic paths through the embeddings of neighbouring words.

    From the word to the baseline, every point is the embedding of one of the last word's nearest neighbours, moved
    where needed so that each dimension goes monotonically towards the baseline (section 3 of the paper). Scores are the
    Riemann sum $\sum_k (p_{k+1} - p_k)\, \partial f_t(p_k) / \partial x$ over the path. Special tokens stay where they
    are and jump to their baseline on the last segment. One path serves all steps.

    Attributes:
        n_steps: Points on the path, both ends included.
        strategy: Choice of the next word: "greedy" (smallest change to make it monotonic) or "maxcount" (most
            dimensions that are monotonic already).
        n_neighbors: Candidates for the next word.
        internal_batch_size: At most this many sequences per model call; chosen by available memory when None.
        return_convergence_delta: Add the step score `deltas`: sum of attributions minus $f_t(x) - f_t(x')$.
        baseline: Token that stands for absent ones: "unk", "pad", "mask", "eos", "bos" or a token id.
        multiply_by_inputs: Times x - x' once more, as Inseq's option of that name does.
        reduction: "sum" (signed) or "norm" (L2 norm over dimensions).
    """

    n_steps: int = 50
    strategy: Strategy = "greedy"
    n_neighbors: int = 50
    internal_batch_size: int | None = None
    return_convergence_delta: bool = False
    baseline: TokenBaseline = "unk"
    multiply_by_inputs: bool = False
    reduction: Reduction = "sum"

    def __post_init__(self) -> None:
        """Check the options before any model runs."""
        check_least("n_steps", self.n_steps, 2)
        check_least("n_neighbors", self.n_neighbors)
        if self.internal_batch_size is not None:
            check_least("internal_batch_size", self.internal_batch_size)

    def __call__(self, engine: Engine) -> Scores:
        """Scores of a batch."""
        paths = {block: self._paths(engine, block) for block in engine.blocks}  # [point, batch, position, hidden]

        def point(k: float) -> dict[str, Tensor]:
            return {block: path[int(k)] for block, path in paths.items()}

        def reduce(block: str, grads: Tensor, points: Sequence[float]) -> Tensor:
            first, last = int(points[0]), int(points[-1]) + 1  # points come in order
            path = paths[block]
            return torch.einsum("tpbih,pbih->tbih", grads, path[first + 1 : last + 1] - path[first:last])

        out = EmbeddingReducer(engine, self.reduction)
        sums = torch.zeros_like(engine.batch.step_ids, dtype=engine.dtype)
        numbers = [float(k) for k in range(self.n_steps - 1)]
        for steps, grads in engine.gradients(point, numbers, max_rows=self.internal_batch_size, reduce=reduce):
            for block, g in grads.items():
                difference = (paths[block][-1] - paths[block][0]).unsqueeze(1)
                sums[:, steps] += g.sum((-1, -2))
                out.add(block, g * difference if self.multiply_by_inputs else g)
        if not self.return_convergence_delta:
            return out.scores()
        base = engine.values_at({block: path[0] for block, path in paths.items()})
        return out.scores({"deltas": sums - (engine.values() - base)})

    @torch.no_grad()
    def _paths(self, engine: Engine, block: str) -> Tensor:
        """From baseline to input, `[point, batch, position, hidden]`; equal pairs of tokens share one path."""
        ids, base = engine.planned_ids(block), baseline_ids(engine, block, self.baseline)
        pairs, place = torch.unique(torch.stack([ids.flatten(), base.flatten()], 1), dim=0, return_inverse=True)
        still = torch.isin(pairs[:, 0], torch.tensor(sorted(special_ids(engine.model.tokenizer)), dtype=ids.dtype))
        pairs, place, still = sent([pairs, place, still], engine.model.device)
        words = self._words(engine, block, pairs[:, 0], pairs[:, 1], still)
        table = engine.model.embedding_table(block)
        end, points = table[pairs[:, 1]], [table[words[:, 0]]]
        for k in range(1, words.shape[1]):
            points.append(_monotonic(table[words[:, k]], end, points[-1], self.n_steps))
        points.append(end)
        path = torch.stack(points[::-1]).to(engine.dtype)  # [point, pair, hidden]
        return path[:, place].unflatten(1, ids.shape)

    def _words(self, engine: Engine, block: str, words: Tensor, base: Tensor, still: Tensor) -> Tensor:
        """Anchor words of each path, the word itself first, `[pair, n_steps - 1]`."""
        table = engine.model.embedding_table(block)
        path = [words]
        for _ in range(self.n_steps - 2):
            last = path[-1]
            near = neighbours(engine.model, block, last, self.n_neighbors)  # [pair, neighbour]
            taken = (near.unsqueeze(-1) == torch.stack(path, 1).unsqueeze(1)).any(-1) | (near == base.unsqueeze(1))
            here, end = table[last].unsqueeze(1), table[base].unsqueeze(1)
            anchors = table[near]
            if self.strategy == "greedy":
                cost = (anchors - _monotonic(anchors, end, here, self.n_steps)).norm(dim=-1)
            else:
                cost = (~_is_monotonic(anchors, end, here)).sum(-1).to(table.dtype)
            best = near.gather(1, cost.masked_fill(taken, torch.inf).argmin(1, keepdim=True)).squeeze(1)
            best = torch.where(taken.all(1) | (last == base), base, best)
            path.append(torch.where(still, words, best))
        return torch.stack(path, 1)


def _is_monotonic(anchor: Tensor, end: Tensor, start: Tensor) -> Tensor:
    """Dimensions in which the anchor lies between start and end."""
    return ((end >= anchor) & (anchor >= start)) | ((end <= anchor) & (anchor <= start))


def _monotonic(anchor: Tensor, end: Tensor, start: Tensor, n_steps: int) -> Tensor:
    """The anchor, moved one n-th of the way from start to end in the dimensions where it does not lie between."""
    return torch.where(_is_monotonic(anchor, end, start), anchor, start - (start - end) / n_steps)
