"""Further passes over the input of a `Forward`, for step functions that need them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attriflow.dropout import dropout, example_key
from attriflow.errors import InputError
from attriflow.models.base import Rows
from attriflow.types import Forward

if TYPE_CHECKING:
    from attriflow.engine import Engine


@dataclass(frozen=True)
class EnginePasses:
    """See `types.Passes`: the rows of one model call, run again."""

    engine: Engine
    rows: Rows
    steps: slice

    def dropout(self, n: int) -> list[Forward]:
        """`n` passes with dropout."""
        engine = self._usable()
        keys = [example_key(engine.seed, example) for example in engine.examples]
        keys *= self.rows.query.shape[0] // len(keys)
        found, calls = [], 0
        for number in range(n):
            with dropout(engine.model.hf, keys, number) as mode:
                found.append(engine.run(self.rows, self.steps))
            calls += mode.calls
        if not calls:
            warnings.warn(
                f"{engine.model.name} has no dropout: the average over {n} passes is the plain probability",
                stacklevel=2,
            )
        return found

    def lens(self, layer: int | None = None) -> list[Forward]:
        """What the LM head reads from earlier states."""
        from attriflow.lens import readouts

        engine = self._usable()
        return [engine.forward_of(logits, self.steps) for logits in readouts(engine, self.rows, layer)]

    def _usable(self) -> Engine:
        if self.rows.past is not None or self.rows.encoder_states is not None:
            raise InputError("this step function needs whole passes: register it with passes=True")
        return self.engine
