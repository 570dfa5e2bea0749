"""Further passes over the input of a `Forward`, for step functions that need them."""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attriflow.engine.bound import Bound
from attriflow.engine.dropout import dropout, example_key
from attriflow.engine.lens import readouts, states
from attriflow.errors import InputError, check_keywords
from attriflow.models.base import BLOCKS, Rows
from attriflow.types import Forward

CHANGEABLE = tuple(f"{block}_{what}" for block in BLOCKS for what in ("ids", "embeds", "mask"))


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

    def ids(self, block: str = "target") -> Tensor:
        """Token ids; those of the batch where only embeddings differ."""
        bound = self._usable()
        own: Tensor | None = getattr(self.rows, f"{block}_ids", None)
        if own is not None:
            return own
        ids = bound.ids(block)
        return ids.repeat(len(self.rows.query) // len(ids), 1)

    def embeddings(self, block: str = "target") -> Tensor:
        """Input embeddings."""
        bound = self._usable()
        own: Tensor | None = getattr(self.rows, f"{block}_embeds", None)
        return bound.model.embed(self.ids(block), block) if own is None else own

    def mask(self, block: str = "target") -> Tensor | None:
        """Which positions are tokens."""
        self._usable()
        found: Tensor | None = getattr(self.rows, f"{block}_mask")
        return found

    def positions(self) -> Tensor:
        """Where each step is read."""
        return self.rows.query[:, self.steps]

    def hidden_states(self) -> list[Tensor]:
        """States before the first layer and after each."""
        return [state[:, self.steps] for state in states(self._usable(), self.rows)]

    def again(self, **changes: Tensor) -> Forward:
        """One more pass with some inputs changed."""
        check_keywords("passes.again", changes, CHANGEABLE)
        free: dict[str, Any] = {name.replace("_ids", "_embeds"): None for name in changes if name.endswith("_ids")}
        return self._usable().run(dataclasses.replace(self.rows, **{**free, **changes}), self.steps)

    def _usable(self) -> Bound:
        if self.rows.past is not None or self.rows.encoder_states is not None:
            raise InputError("this step function needs whole passes: register it with passes=True")
        return self.bound
