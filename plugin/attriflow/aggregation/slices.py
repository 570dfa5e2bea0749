"""Keep ranges of inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attriflow.aggregation._sides import Spans, moved, on_both_sides, sides_of
from attriflow.registry import aggregators
from attriflow.types import Attribution


@aggregators.register("slices")
@dataclass(frozen=True, kw_only=True)
class SlicesAggregator:
    """Only the given ranges of inputs, with their scores as they are; all steps stay.

    Generated tokens from the first explained one on are kept in any case; a side without ranges stays whole.

    Attributes:
        source_spans: Pair (start, end) of positions in the source, or in a decoder-only model's prompt, or several.
        target_spans: The same for decoder tokens: of decoder-only models the prompt and what was generated.
    """

    source_spans: Spans | None = None
    target_spans: Spans | None = None

    def __call__(self, attribution: Attribution) -> Attribution:
        """The attribution with fewer inputs; the one given is not changed."""
        a, sides = attribution, sides_of(attribution)
        spans = on_both_sides(sides, self.source_spans, self.target_spans)
        source, decoder = (
            sorted({i for start, end in s for i in range(start, end)}) if s else list(range(n))
            for s, n in zip(spans, (len(sides.source), len(sides.decoder)), strict=True)
        )
        before = [i for i in decoder if i < sides.first]
        kept = [*before, *range(sides.first, len(sides.decoder))]
        inputs = [*source, *(len(sides.source) + i for i in kept if i < sides.read)]
        return a.replace(
            scores=a.scores[:, inputs],
            norms=None if a.norms is None else a.norms[:, inputs],
            inputs=tuple(a.inputs[i] for i in inputs),
            start=len(before),
            spans=moved(a.spans, [(i, i + 1) for i in kept]),
            sequence_scores={
                name: _square(values, source if name.startswith("encoder") else kept)
                for name, values in a.sequence_scores.items()
            },
        )


def _square(values: Tensor, keep: list[int]) -> Tensor:
    index = torch.tensor([i for i in keep if i < len(values)], dtype=torch.long, device=values.device)
    return values.index_select(0, index).index_select(1, index)
