"""Spans of generated tokens as steps: the value of a span is the sum, or the mean, of those of its tokens.

The model is still read token by token; from the values on there is one number per span, so that a span costs one
product, one path or one set of changed inputs, however long it is.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from attriflow.aggregation._apply import reduce_spans
from attriflow.aggregation._spans import span_function
from attriflow.models.batch import Batch
from attriflow.types import Example


@dataclass(frozen=True)
class Spans:
    """The spans of a batch.

    Attributes:
        batch: The batch with a step per span, read where its last token is.
        place: `[batch, token]`, on the host: where each explained token is read.
        owner: `[batch, token]`, on the host: the number of the span that it belongs to, -1 for none.
        weight: `[batch, token]`, on the host: what a token's value counts for in that of its span.
    """

    batch: Batch
    place: Tensor
    owner: Tensor
    weight: Tensor

    @classmethod
    def of(cls, examples: Sequence[Example], read: Batch) -> Spans | None:
        """The spans of some examples, whose batch reads token by token; None where tokens are the steps."""
        if all(e.spans is None for e in examples):
            return None
        host, most = read.host, max(e.n_steps for e in examples)
        owner = torch.full_like(host.query, -1)
        weight = torch.zeros(host.query.shape, dtype=torch.float64)
        last = torch.zeros((len(examples), most), dtype=torch.long)
        mask = torch.zeros((len(examples), most), dtype=torch.bool)
        for row, example in enumerate(examples):
            ranges = example.spans
            if ranges is None:
                ranges = tuple((i, i + 1) for i in range(example.start, example.stop))
            for number, (first, stop) in enumerate(ranges):
                inside = slice(first - example.start, stop - example.start)
                owner[row, inside] = number
                weight[row, inside] = 1 / (stop - first) if example.span_value == "mean" else 1.0
                last[row, number], mask[row, number] = stop - 1 - example.start, True
            last[row, len(ranges) :] = last[row, 0]  # as in batches: the span of positions stays short
        batch = dataclasses.replace(
            host,
            query=host.query.gather(1, last),
            step_ids=host.step_ids.gather(1, last),
            step_mask=mask,
            planned=None,
        )
        return cls(batch.to(read.query.device), host.query, owner, weight)

    def reads(self, steps: slice) -> slice:
        """The tokens that a range of spans reads, the same for all examples: from the first to the last of any."""
        inside = ((self.owner >= steps.start) & (self.owner < steps.stop)).any(0).nonzero()
        return slice(int(inside[0]), int(inside[-1]) + 1)

    def owners(self, reads: slice, steps: slice, since: int = 0) -> Tensor:
        """`[batch, token]`: which of a range of spans each of a range of tokens belongs to, -1 for none.

        Tokens that are read before the position `since` belong to none.
        """
        own = self.owner[:, reads] - steps.start
        inside = (own >= 0) & (own < steps.stop - steps.start) & (self.place[:, reads] >= since)
        return torch.where(inside, own, -1)

    def pool(self, values: Tensor, reads: slice = slice(None), steps: slice | None = None, since: int = 0) -> Tensor:
        """Values of spans, `[..., batch, span]`, of those of their tokens, `[..., batch, token]`.

        Args:
            values: Of a range of tokens.
            reads: Which tokens these are.
            steps: Which spans are wanted; all when None.
            since: Tokens that are read before this position do not count.
        """
        steps = steps or slice(0, self.batch.n_steps)
        n, own = steps.stop - steps.start, self.owners(reads, steps, since)
        return self.sums(values, torch.where(own < 0, n, own), reads, n, -1)

    def sums(self, values: Tensor, into: Tensor, reads: slice, n: int, axis: int) -> Tensor:
        """Weighted sums of values `[..., batch, token, ...]`, the tokens along `axis`: `[..., batch, n, ...]`.

        Args:
            values: Of a range of tokens.
            into: `[batch, token]`, which sum each of them goes to; `n` for none, whatever its value is.
            reads: Which tokens these are.
            n: Number of sums.
            axis: Of the tokens.
        """
        axis %= values.ndim
        shape = [1] * values.ndim
        shape[axis - 1 : axis + 1] = into.shape
        values = values * self.weight[:, reads].to(values).view(shape)
        out = values.new_zeros((*values.shape[:axis], n + 1, *values.shape[axis + 1 :]))
        return out.scatter_add(axis, into.to(values.device).view(shape).expand_as(values), values).narrow(axis, 0, n)


def of_steps(example: Example, values: Mapping[str, Tensor], args: Mapping[str, Any]) -> dict[str, Tensor]:
    """Step scores of an example's spans, `[span]`, of those of its explained tokens: as they are registered to combine.

    Args:
        example: The example; one without spans keeps the values of its tokens.
        values: Name -> `[token]`.
        args: Options of the step functions, as `step_scores_args`.
    """
    if example.spans is None:
        return dict(values)
    ranges = [(first - example.start, stop - example.start) for first, stop in example.spans]
    # what lies between spans is nobody's
    parts = {name: torch.cat([v[a:b] for a, b in ranges]) for name, v in values.items()}
    ends = list(itertools.accumulate((b - a for a, b in ranges), initial=0))
    return {name: reduce_spans(span_function(name, args), v, list(pairwise(ends)), 0) for name, v in parts.items()}
