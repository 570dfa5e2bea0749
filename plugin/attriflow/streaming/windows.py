"""Windows of rows as units of work: what a worker is sent, and what it sends back."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from attriflow.datasets import Row, Rows
from attriflow.errors import no_memory
from attriflow.io import lines
from attriflow.streaming.fields import Fields
from attriflow.streaming.rows import Explain, explain_window, reason, records
from attriflow.types import Attribution
from attriflow.workers import Done, Unit

Window = tuple[int, list[Row]]
"""Rows, and the number of the first."""


@dataclass(frozen=True, kw_only=True)
class Explained:
    """What came of a window.

    Attributes:
        first, rows: Which rows these were.
        block: Lines of the journal.
        wrong: Rows that failed, and why.
        shown: The attributions, where somebody wants to see them.
        forward_rows, backward_rows: What they took of the model.
        no_memory: Whether memory ran out for a row.
    """

    first: int
    rows: int
    block: list[str]
    wrong: list[tuple[int, str]]
    shown: list[Attribution]
    forward_rows: float = 0
    backward_rows: float = 0
    no_memory: bool = False


@dataclass(frozen=True, kw_only=True)
class WindowExplainer:
    """Makes what explains windows (a factory of `run_units`).

    Attributes:
        load: Makes what explains texts.
        fields: Columns.
        run: Mark of the run, on every line; None where nothing is written.
        show: Whether attributions are sent back.
    """

    load: Callable[[], Explain]
    fields: Fields
    run: str | None
    show: bool = False

    def __call__(self) -> Callable[[Window], Explained]:
        """Load the model."""
        return functools.partial(self._explain, self.load())

    def _explain(self, explain: Explain, window: Window) -> Explained:
        first, rows = window
        results = explain_window(rows, self.fields, explain)
        good = [a for result in results if not isinstance(result, Exception) for a in result]
        return Explained(
            first=first,
            rows=len(rows),
            block=[lines.line(record, self.run) for record in records(first, results)] if self.run else [],
            wrong=[(row, reason(r)) for row, r in enumerate(results, first) if isinstance(r, Exception)],
            shown=good if self.show else [],
            forward_rows=sum(a.provenance.forward_rows for a in good),
            backward_rows=sum(a.provenance.backward_rows for a in good),
            no_memory=any(isinstance(r, Exception) and no_memory(r) for r in results),
        )

    def result(self, done: Done) -> Explained:
        """What came of a unit; the rows of one whose workers were lost have failed. Raises what the work raised."""
        if done.cause is not None:
            raise done.cause
        if done.error is None and isinstance(done.result, Explained):
            return done.result
        first, rows = done.unit.payload
        wrong = [(row, str(done.error)) for row in range(first, first + len(rows))]
        block = [lines.line({"row": row, "error": why}, self.run) for row, why in wrong] if self.run else []
        return Explained(first=first, rows=len(rows), block=block, wrong=wrong, shown=[])


def windows(rows: Rows, start: int, size: int) -> Iterator[Unit]:
    """Units of the rows from one on."""
    source = rows.read(start)
    while block := list(itertools.islice(source, size)):
        yield Unit(str(start), (start, block))
        start += len(block)
