"""Where the products of all steps begin: tensors of one graph, and what each step's value gives to them.

A step's value depends on the logits at its own position only, and these on the LM head's input at that position only.
One backward for all steps together therefore goes down to there, and every step finds its own share in its own place.
From there on each step needs a product of its own. (`last_block` goes one block further.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from attriflow.engine.stretches import Stretches
from attriflow.models.base import Rows


class Cut(ABC):
    """The part of a graph that every step needs a product of its own through.

    Attributes:
        roots: Tensors of the graph that the products start from.
        scale: What each value was multiplied by to stay within float16, `[row, step]`; None where nothing was.
        below: The rest of the graph, where it is made later (see `stretches`).
    """

    roots: list[Tensor]
    scale: Tensor | None = None
    below: Stretches | None = None

    @abstractmethod
    def vectors(self, steps: slice) -> list[Tensor]:
        """What the values of some steps give to each root, `[step, *root]`."""


class AtValues(Cut):
    """The values themselves, for objectives that may mix steps."""

    def __init__(self, values: Tensor) -> None:
        """Take the values, `[row, step]`."""
        self.roots = [values]

    def vectors(self, steps: slice) -> list[Tensor]:
        """Ones."""
        (values,) = self.roots
        out = values.new_zeros((steps.stop - steps.start, *values.shape))
        torch.diagonal(out[:, :, steps], dim1=0, dim2=2).fill_(1)
        return [out]


class AtHead(Cut):
    """The input of the LM head."""

    def __init__(
        self, hidden: Tensor, values: Tensor, rows: Rows, before: int = 0, owner: Tensor | None = None
    ) -> None:
        """Send all values through the head.

        Args:
            hidden: `[row, position, hidden]`, of all positions or of the span between the first and the last query.
            values: `[row, step]`.
            rows: What was run, and where each step is read.
            before: Positions that the model puts before the text.
            owner: `[row, token]`, the step that each token which is read belongs to, -1 for none; its own when None.
        """
        low, high = rows.span
        whole = hidden.shape[1] != high - low + 1
        self.place = (rows.query + before if whole else rows.query - low).to(hidden.device)
        self.owner = None if owner is None else owners_at(owner.to(hidden.device), self.place, hidden.shape[1])
        self.roots = [hidden]
        (self.cotangent,) = torch.autograd.grad(values.sum(), hidden, retain_graph=True)

    def vectors(self, steps: slice) -> list[Tensor]:
        """Zero but at the step's position."""
        if self.owner is not None:
            return [of_owners(self.cotangent, self.owner, steps)]
        return [at_places(self.cotangent, self.place, steps)]


def owners_at(owner: Tensor, place: Tensor, width: int) -> Tensor:
    """`[row, position]`: the span that is read at each position, from `owner` and `place` of tokens, `[row, token]`."""
    out = owner.new_full((len(owner), width), -1)
    return out.scatter_reduce(1, place, owner, "amax")  # what pads a batch repeats positions, and belongs to none


def of_owners(cotangent: Tensor, owner: Tensor, steps: slice) -> Tensor:
    """`[step, row, position, hidden]`: that of all at the positions `[row, position]` of each span, zero elsewhere."""
    numbers = torch.arange(steps.start, steps.stop, device=cotangent.device)[:, None, None]
    return torch.where((owner == numbers).unsqueeze(-1), cotangent, 0.0)


def at_places(cotangent: Tensor, place: Tensor, steps: slice) -> Tensor:
    """`[step, row, position, hidden]`: what steps find at their `place [row, step]` in that of all, zero elsewhere."""
    out = cotangent.new_zeros((steps.stop - steps.start, *cotangent.shape))
    row, place = torch.arange(cotangent.shape[0], device=cotangent.device), place[:, steps].T
    out[torch.arange(len(place), device=cotangent.device).unsqueeze(1), row, place] = cotangent[row, place]
    return out
