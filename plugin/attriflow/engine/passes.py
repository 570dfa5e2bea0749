"""Further passes over the input of a `Forward`, for step functions that need them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch

from attriflow.engine.bound import Bound
from attriflow.engine.dropout import dropout, example_key
from attriflow.engine.lens import readouts
from attriflow.errors import InputError
from attriflow.models.base import Rows
from attriflow.types import Forward


@dataclass(frozen=True)
class EnginePasses:
    """See `types.Passes`: the rows of one model call, run again."""

    bound: Bound
    rows: Rows
    steps: slice

    def dropout(self, n: int) -> list[Forward]:
        """`n` passes with dropout."""
        bound = self._usable()
        bound.watched()
        keys = torch.tensor([example_key(bound.seed, example) for example in bound.examples]).to(bound.model.device)
        keys = keys.repeat(self.rows.query.shape[0] // len(keys))
        found, calls = [], 0
        for number in range(n):
            with dropout(bound.model.hf, keys, number) as mode:
                found.append(bound.run(self.rows, self.steps))
            calls += mode.calls
        if not calls:
            warnings.warn(
                f"{bound.model.name} has no dropout: the average over {n} passes is the plain probability",
                stacklevel=2,
            )
        return found

    def lens(self, layer: int | None = None) -> list[Forward]:
        """What the LM head reads from earlier states."""
        bound = self._usable()
        return [bound.forward_of(logits, self.steps) for logits in readouts(bound, self.rows, layer)]

    def _usable(self) -> Bound:
        if self.rows.past is not None or self.rows.encoder_states is not None:
            raise InputError("this step function needs whole passes: register it with passes=True")
        return self.bound
