"""Which columns of a data set hold what, and the texts of a row."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attriflow.datasets import Row
from attriflow.errors import InputError, UnknownNameError, check_unicode, unknown
from attriflow.texts.chats import of_cell

USUAL = ("input_text", "input", "text", "messages")


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Names of columns.

    Attributes:
        inputs: Input texts, or chats as lists of messages. None: "input_text", "input", "text",
            "messages" or the only column.
        targets: Forced targets; None generates them.
        contrast_targets, contrast_sources: Texts that contrastive step functions compare with.
    """

    inputs: str | None = None
    targets: str | None = None
    contrast_targets: str | None = None
    contrast_sources: str | None = None

    def resolved(self, columns: Sequence[str]) -> Fields:
        """The same with the column of inputs named; `UnknownNameError` for a column that is not there."""
        for name in dataclasses.astuple(self):
            if name is not None and name not in columns:
                raise UnknownNameError(unknown("column", name, columns))
        if self.inputs is not None:
            return self
        found = next((name for name in USUAL if name in columns), columns[0] if len(columns) == 1 else None)
        if found is None:
            raise InputError(f"name the column of input texts; there are {', '.join(columns) or 'none'}")
        return dataclasses.replace(self, inputs=found)

    def texts(self, row: Row) -> dict[str, Any]:
        """Keyword of `attribute` -> text; `InputError` says what is wrong with a row."""
        if isinstance(row, Exception):
            raise row
        keywords = ("input_texts", "generated_texts", "contrast_targets", "contrast_sources")
        names = dict(zip(keywords, dataclasses.astuple(self), strict=True))
        return {key: _text(row, name, chat=key == "input_texts") for key, name in names.items() if name is not None}


def _text(row: Mapping[str, Any], name: str, chat: bool) -> Any:
    if name not in row:
        raise InputError(f"there is no '{name}'")
    value = row[name]
    if chat:
        return of_cell(f"'{name}'", value)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"'{name}' must be a text that is not empty, not {value!r}"[:200])
    return check_unicode(value)
