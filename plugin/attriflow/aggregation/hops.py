"""Credit of an answer, followed through the reasoning that was written before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from attriflow.aggregation.scores import ScoresAggregator
from attriflow.errors import InputError
from attriflow.registry import aggregators
from attriflow.types import Attribution, Token

Sign = Literal["absolute", "positive", "signed"]


@aggregators.register("hops")
@dataclass(frozen=True, kw_only=True)
class HopsAggregator:
    r"""What an answer rests on, directly and by way of its reasoning; for explanations whose steps are spans.

    All spans but the last are parts of the reasoning, the last is the answer (see `attriflow.attribute_reasoning`).
    Row s of R holds the scores of span s over the tokens before it, divided by the sum of their absolute values; a
    span's own tokens are no evidence for it and are left out. With $w_0 = R_{answer}$ and
    $w_{k+1} = w_k[reasoning] \, R_{reasoning}$ (the mass of a part of the reasoning goes where that part has its own
    from), the credit of what is not reasoning is $\sum_k w_k$, and $w_K$ of the reasoning is what stays there. Credit
    and what stays sum to 1, unless signs cancel. After as many hops as there are parts, nothing stays, but in a part
    without any score. After FlashTrace (arXiv 2602.01914), for the rows of any method.

    Steps of the result are "direct", "hop 1", ... ($w_k$ over all tokens, the step score `in_reasoning` is its sum over
    the reasoning) and "all hops" (the credit, and for the reasoning what stays).

    Complexity: no pass of the model; `hops` products of a vector and a matrix [part, input].

    Attributes:
        hops: K, how often credit is passed on.
        sign: "absolute" values of scores, their "positive" parts, or "signed": a path has the product of its signs.
    """

    hops: int = 1
    sign: Sign = "absolute"

    def __post_init__(self) -> None:
        """Check the number."""
        if self.hops < 0:
            raise InputError(f"hops must be at least 0, not {self.hops}")

    def __call__(self, attribution: Attribution) -> Attribution:
        """The attribution with a step per hop; the one given is not changed."""
        a = attribution
        if not a.spans:
            raise InputError("hops need spans as steps, the answer as the last: use attriflow.attribute_reasoning")
        answer = a.spans[-1]
        if len(a.axes) > 2:
            a = ScoresAggregator()(a)
        rows, reasoning = self._rows(a), self._reasoning(a)
        moves = reasoning & rows[:-1].any(1, keepdim=True)  # a part without any score has it from nowhere
        moving = moves.any(0)
        mass = [rows[-1]]
        for _ in range(self.hops):
            mass.append((moves * mass[-1]).sum(1) @ rows[:-1])
        credit = torch.stack([torch.where(moving, 0.0, w) for w in mass]).sum(0)
        inside = reasoning.any(0)
        scores = torch.stack([*mass, torch.where(moving, mass[-1], credit)])
        names = ["direct", *(f"hop {k + 1}" for k in range(self.hops)), "all hops"]
        return a.replace(
            scores=scores,
            norms=None,
            targets=tuple(Token(text=name, id=-1, segment="generated") for name in names),
            start=answer[0],
            spans=(answer,) * len(names),
            step_scores={"in_reasoning": scores[:, inside].sum(1)},
            sequence_scores={},
        )

    def _rows(self, a: Attribution) -> Tensor:
        """R, `[span, input]`."""
        n = sum(t.segment == "source" for t in a.inputs)
        place = torch.arange(len(a.inputs)) - n
        before = place < torch.tensor([first for first, _ in a.spans or ()]).unsqueeze(1)
        scores = torch.where(before, a.scores.nan_to_num(), 0.0)
        if self.sign != "signed":
            scores = scores.abs() if self.sign == "absolute" else scores.clamp(min=0)
        total = scores.abs().sum(1, keepdim=True)
        return torch.where(total > 0, scores / total, 0.0)

    @staticmethod
    def _reasoning(a: Attribution) -> Tensor:
        """Which inputs are tokens of each part of the reasoning, bool `[part, input]`."""
        n = sum(t.segment == "source" for t in a.inputs)
        place = (torch.arange(len(a.inputs)) - n).unsqueeze(0)
        parts = torch.tensor((a.spans or ())[:-1], dtype=torch.long).reshape(-1, 2)
        return (place >= parts[:, :1]) & (place < parts[:, 1:])
