"""What a method returns, and the reduction of embedding dimensions as they are produced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from attriflow.engine.bound import Bound
from attriflow.engine.spans import Spans
from attriflow.models.batch import Batch

Reduction = Literal["norm", "sum"]


@dataclass(frozen=True)
class Scores:
    """Raw scores of a batch.

    Attributes:
        blocks: Block ("source", "target") -> `[batch, step, position, ...]`; entries a step cannot see are ignored.
        axes: Names of the axes after "position": (), ("embedding",) or ("layer", "head").
        norms: Block -> `[batch, step, position]`, L2 norms over a reduced embedding axis.
        step_scores: Extra values per step, `[batch, step]`, such as convergence deltas.
        sequence_scores: "encoder_self" or "decoder_self" -> `[batch, credited token, receiving token, ...]`.
    """

    blocks: Mapping[str, Tensor]
    axes: tuple[str, ...] = ()
    norms: Mapping[str, Tensor] | None = None
    step_scores: Mapping[str, Tensor] = field(default_factory=dict)
    sequence_scores: Mapping[str, Tensor] = field(default_factory=dict)


def mean(several: Sequence[Scores]) -> Scores:
    """The mean of scores of the same batch, part by part."""

    def over(name: str) -> dict[str, Tensor]:
        parts = [getattr(scores, name) or {} for scores in several]
        return {key: torch.stack([part[key] for part in parts]).mean(0) for key in parts[0]}

    norms = None if several[0].norms is None else over("norms")
    others = {"step_scores": over("step_scores"), "sequence_scores": over("sequence_scores")}
    return Scores(over("blocks"), several[0].axes, norms, **others)


class EmbeddingReducer:
    """Collects `[batch, step, position, embedding]` chunks, reduced unless the engine is granular.

    The signed sum and the L2 norm are both kept; `reduction` says which of them is the score.
    """

    def __init__(self, bound: Bound, reduction: Reduction) -> None:
        """Start collecting for the blocks of an engine."""
        self.granular, self.reduction = bound.granular, reduction
        self.parts: dict[str, list[tuple[Tensor, Tensor]]] = {b: [] for b in bound.blocks}

    def add(self, block: str, scores: Tensor) -> None:
        """Take the scores of the next steps."""
        norm = scores.norm(dim=-1)
        if self.granular:
            self.parts[block].append((scores, norm))
        else:
            self.parts[block].append((norm if self.reduction == "norm" else scores.sum(-1), norm))

    def scores(self, step_scores: Mapping[str, Tensor] | None = None) -> Scores:
        """Everything collected."""
        blocks = {b: torch.cat([s for s, _ in p], 1) for b, p in self.parts.items()}
        norms = None if self.granular else {b: torch.cat([n for _, n in p], 1) for b, p in self.parts.items()}
        return Scores(blocks, ("embedding",) if self.granular else (), norms, step_scores or {})


def of_spans(scores: Scores, spans: Spans, read: Batch) -> Scores:
    """Scores of spans of those of their tokens, for methods that know no spans: their sums, or their means."""
    n = spans.batch.n_steps
    into = torch.where(spans.owner < 0, n, spans.owner)

    def pooled(values: Tensor, seen: Tensor | None = None) -> Tensor:
        if seen is not None:
            values = torch.where(seen.view(*seen.shape, *[1] * (values.ndim - 3)), values, 0.0)
        return spans.sums(values, into, slice(None), n, 1)

    return replace(
        scores,
        blocks={b: pooled(v, read.visible(b).to(v.device)) for b, v in scores.blocks.items()},
        norms=None,
        step_scores={name: pooled(v) for name, v in scores.step_scores.items()},
    )
