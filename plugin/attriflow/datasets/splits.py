"""Splits as Hugging Face writes them: "train", "train[:20]", "test[10%:20%]"."""

from __future__ import annotations

import re
from dataclasses import dataclass

from attriflow.errors import InputError

_SPLIT = re.compile(r"(?P<name>[\w.-]+)(?:\[(?P<low>-?\d+%?)?:(?P<high>-?\d+%?)?\])?")


@dataclass(frozen=True)
class Split:
    """A split's name and the part of it that is meant: ends as in Python's slices, or in per cent."""

    name: str = "train"
    low: str | None = None
    high: str | None = None

    @classmethod
    def parse(cls, text: str) -> Split:
        """Read a split; `InputError` for anything else."""
        found = _SPLIT.fullmatch(text.strip())
        if not found:
            raise InputError(
                f"cannot read the split {text!r}: expected a name such as train, train[:20] or train[10%:20%]"
            )
        return cls(**found.groupdict())

    @classmethod
    def of_file(cls, text: str) -> Split:
        """The same for files, which are the split "train"."""
        split = cls.parse(text)
        if split.name != "train":
            raise InputError(f"there is no split {split.name!r}: files are the split 'train'")
        return split

    def bounds(self, total: int) -> tuple[int, int]:
        """First row and the row after the last, of `total` rows."""
        start, stop, _ = slice(_index(self.low, total), _index(self.high, total)).indices(total)
        return start, max(start, stop)


def _index(end: str | None, total: int) -> int | None:
    if end is None:
        return None
    return round(int(end[:-1]) * total / 100) if end.endswith("%") else int(end)
