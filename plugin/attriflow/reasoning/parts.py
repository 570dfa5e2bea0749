"""What of a generated text is reasoning, in which parts, and what is the answer."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Literal

from attriflow.errors import NothingToExplainError
from attriflow.texts.target_spans import find_spans
from attriflow.types import Example

Reasoning = Literal["think", "sentence"] | tuple[int, int]
"""What of a generated text is reasoning: all up to the last `</think>`; all sentences but the last; or a range of
decoder positions."""

_THOUGHT = re.compile(r"\A\s*(?:<think>)?\s*(.*\S)\s*</think>", re.DOTALL)
_ANSWER = re.compile(r".*</think>\s*(.*\S)", re.DOTALL)


def reasoning_spans(example: Example, reasoning: Reasoning, unit: str = "sentence") -> tuple[tuple[int, int], ...]:
    """The parts of the reasoning, and last the answer, as ranges of decoder positions.

    Raises:
        NothingToExplainError: There is no reasoning, or nothing behind it.
    """
    if reasoning == "think":
        (thought,), (answer,) = find_spans(example, _THOUGHT), find_spans(example, _ANSWER)
    elif reasoning == "sentence":
        *before, answer = find_spans(_without_end(example), "sentence")
        if not before:
            raise NothingToExplainError(f"{example.target_text[-60:]!r} has no sentence before its last one")
        thought = (before[0][0], before[-1][1])
    else:
        ((first, stop),) = find_spans(example, [tuple(reasoning)])
        thought, answer = (first, stop), (stop, _without_end(example).stop)
        if answer[0] >= answer[1]:
            raise NothingToExplainError(f"nothing stands behind the reasoning [{first}, {stop})")
    inside = replace(example, start=thought[0], stop=thought[1])
    parts = find_spans(inside, "sentence") if unit == "sentence" else [(i, i + 1) for i in range(*thought)]
    return (*parts, answer)


def _without_end(example: Example) -> Example:
    """The example without special tokens at its end."""
    stop = example.stop
    while stop > example.start and example.target[stop - 1].special:
        stop -= 1
    return replace(example, stop=stop)
