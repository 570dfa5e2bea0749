"""What callers give: texts, and which of the generated positions are to be explained."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from attriflow.errors import InputError, NothingToExplainError
from attriflow.types import Example


def given_texts(name: str, texts: str | Sequence[str]) -> list[str]:
    """One or several texts as a list.

    Raises:
        InputError: There is none, or something else than a text.
    """
    if isinstance(texts, bytes) or not isinstance(texts, Iterable):
        raise InputError(f"{name} must be a string or a list of strings, not {type(texts).__name__}: {texts!r}"[:200])
    given = [texts] if isinstance(texts, str) else list(texts)
    for text in given:
        if not isinstance(text, str):
            raise InputError(
                f"{name} must be a string or a list of strings; found {type(text).__name__}: {text!r}"[:200]
            )
        if any("\ud800" <= c <= "\udfff" for c in text):
            raise InputError(f"{name} holds half of a surrogate pair, which is no text: {text!r}"[:200])
    if not given:
        raise InputError(f"{name} is empty")
    return given


def restricted(example: Example, start: int | None, end: int | None) -> Example:
    """Restrict the steps; the start is moved up to the first generated token, the end is exclusive.

    Negative positions count from the end, as in Python; only the start of decoder-only models does not, where Inseq
    (and so this) takes anything before the generated tokens, negative numbers too, for "from their beginning".

    Raises:
        NothingToExplainError: No step is left.
    """
    if start is None and end is None:
        return example
    length = len(example.target)
    if start is not None and start < 0 and example.source:
        start += length
    if end is not None and end < 0:
        end += length
    low = max(example.start, example.start if start is None else start)
    high = example.stop if end is None else min(end, example.stop)
    if high <= low:
        place = max(example.start, high)
        raise NothingToExplainError(
            f"no step left to explain: attr_pos_start={start}, attr_pos_end={end}, but the generated tokens are at "
            f"positions {example.start} to {example.stop - 1}",
            dataclasses.replace(example, start=place, stop=place),
        )
    return dataclasses.replace(example, start=low, stop=high)
