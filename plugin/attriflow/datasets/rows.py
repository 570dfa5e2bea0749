"""What every source of rows can do."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attriflow.datasets.splits import Split
from attriflow.errors import InputError

Row = Mapping[str, Any] | InputError
"""Values by column, or why a row could not be read."""


class Rows(ABC):
    """A part of a data set. Its rows can be read from any of them on, any number of times, in bounded memory."""

    columns: tuple[str, ...]

    def __init__(self, total: int, split: Split) -> None:
        """Rows of a data set that has `total` of them."""
        self.start, self.stop = split.bounds(total)

    def __len__(self) -> int:
        """Number of rows of the part."""
        return self.stop - self.start

    def read(self, start: int = 0) -> Iterator[Row]:
        """Rows of the part, from one on."""
        first = self.start + start
        return itertools.islice(self._from(first), max(0, self.stop - first))

    @abstractmethod
    def _from(self, index: int) -> Iterator[Row]:
        """Rows of the whole data set, from one on."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Facts that change when the data change."""


class ListRows(Rows):
    """Rows in memory."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], split: Split, name: str) -> None:
        """Rows that all have the columns of the first."""
        super().__init__(len(rows), split)
        self.rows, self.name = rows, name
        self.columns = tuple(rows[0]) if rows else ()

    def _from(self, index: int) -> Iterator[Row]:
        return itertools.islice(self.rows, index, None)

    def identity(self) -> dict[str, Any]:
        """Name and number of rows."""
        return {"name": self.name, "rows": len(self.rows)}
