"""Which tokens of an answer are explained together: all, sentences, turns, the answer after its reasoning, ranges."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby, pairwise
from typing import Any

from attriflow.errors import InputError, NothingToExplainError, check_choice
from attriflow.texts.segments import Part
from attriflow.texts.units import part_keys, parts_of, unit_numbers
from attriflow.types import Example, SpanValue

TargetSpans = str | re.Pattern[str] | Mapping[str, Any] | Sequence[Any]
"""What `find_spans` takes."""

NAMES = ("all", "sentence", "turn", "answer")
ANSWER = re.compile(r".*(?:</think>|####)\s*(.*\S)", re.DOTALL)
"""What comes after the last end of a reasoning, or after the last mark of a final answer (as GSM8K has it)."""
KEYS = ("tokens", "characters", "pattern")


def with_spans(example: Example, spans: TargetSpans, value: SpanValue = "sum") -> Example:
    """The example with spans as its steps (see `find_spans`); one without steps stays as it is."""
    return replace(example, spans=find_spans(example, spans), span_value=value) if example.n_steps else example


def as_json(spans: TargetSpans) -> TargetSpans:
    """What is asked for all texts, as JSON has it: patterns as objects.

    Raises:
        InputError: It is neither a name, nor ranges, nor a pattern.
    """
    if isinstance(spans, re.Pattern):
        return {"pattern": spans.pattern}
    if isinstance(spans, str):
        check_choice("target_spans", spans, NAMES)
        return spans
    if isinstance(spans, Mapping):
        kind, given = _entry(spans)
        if kind == "pattern":
            _compiled(given)
        return {kind: given}
    if isinstance(spans, Sequence) and _is_ranges(spans):
        return [list(r) for r in spans]
    raise InputError(f"target_spans must be one of {', '.join(NAMES)}, ranges or a pattern, not {spans!r}")


def for_texts(spans: TargetSpans, n: int) -> list[TargetSpans]:
    """What is asked for each of `n` texts: the same for all, or a list with an entry per text.

    Raises:
        InputError: A list of another length.
    """
    if isinstance(spans, (str, re.Pattern, Mapping)) or not isinstance(spans, Sequence) or _is_ranges(spans):
        return [spans] * n
    if len(spans) != n:
        raise InputError(f"target_spans: {len(spans)} entries for {n} texts; allowed: one for all, or one for each")
    return list(spans)


def _is_ranges(spans: Sequence[Any]) -> bool:
    return bool(spans) and all(
        isinstance(s, Sequence) and len(s) == 2 and all(type(i) is int for i in s) for s in spans
    )


def find_spans(example: Example, spans: TargetSpans) -> tuple[tuple[int, int], ...]:
    """Ranges of decoder positions `[first, stop)`, in order and apart from each other.

    Args:
        example: Whose explained tokens are meant.
        spans: One of `NAMES`: "all" of them as one; every "sentence"; every "turn" of a chat (what was generated is
            one); the "answer" after `</think>` or `####`. Or ranges of decoder positions `[(first, stop), ...]`, also
            as `{"tokens": ...}`; `{"characters": [(first, stop), ...]}` of the generated text; a compiled pattern, also
            as `{"pattern": ...}`: each match in the generated text, or its first group, is a span.

    Raises:
        InputError: Something else; ranges that are empty, overlap, or lie outside of what is explained; no answer.
    """
    if isinstance(spans, str):
        check_choice("target_spans", spans, NAMES)
        if spans == "all":
            return ((example.start, example.stop),)
        if spans == "sentence":
            return _runs(example, [("", n) for n in unit_numbers(example, example.target, "sentence")], single=True)
        if spans == "turn":
            parts = parts_of(example, "turn")
            whole = [(0, len(example.target_text))]
            return _runs(example, part_keys(example, example.target, parts, whole), single=True)
        return _matches(example, ANSWER, "answer after '</think>' or '####' (a pattern finds others)")
    if isinstance(spans, re.Pattern):
        return _matches(example, spans, f"match of {spans.pattern!r}")
    if isinstance(spans, Mapping):
        return _keyed(example, spans)
    if not isinstance(spans, Sequence):
        raise InputError(f"target_spans must be one of {', '.join(NAMES)}, ranges or a pattern, not {spans!r}")
    return _tokens(example, spans)


def _keyed(example: Example, spans: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
    """Spans of which a mapping with one entry says what they are."""
    kind, given = _entry(spans)
    if kind == "tokens":
        return _tokens(example, given)
    if kind == "characters":
        offset = _offset(example)
        parts = [(a + offset, b + offset) for a, b in _checked(given, len(example.target_text) - offset, "characters")]
        return _parts(example, parts, f"token in the characters {given}")
    return _matches(example, _compiled(given), f"match of {given!r}")


def _entry(spans: Mapping[str, Any]) -> tuple[str, Any]:
    """The key and the value of a mapping that has one."""
    if len(spans) != 1 or next(iter(spans)) not in KEYS:
        raise InputError(f"target_spans: a mapping has one of the keys {', '.join(KEYS)}, not {list(spans)}")
    ((kind, given),) = spans.items()
    return kind, given


def _compiled(given: Any) -> re.Pattern[str]:
    try:
        return re.compile(given)
    except (re.error, TypeError) as error:
        raise InputError(f"target_spans: {given!r} is no pattern ({error})") from None


def _checked(given: Any, length: int, what: str) -> list[Part]:
    """Ranges, in order and apart from each other, within `length`."""
    if not isinstance(given, Sequence) or not _is_ranges(given):
        raise InputError(f"target_spans: ranges are pairs of integers [(first, stop), ...], not {given!r}")
    ranges = [(int(a), int(b)) for a, b in given]
    for a, b in ranges:
        if not 0 <= a < b <= length:
            raise InputError(f"target_spans: ({a}, {b}) is no range of the {length} {what} there")
    for before, after in pairwise(ranges):
        if after[0] < before[1]:
            raise InputError(f"target_spans must be in order and not overlap, but {after} follows {before}")
    return ranges


def _tokens(example: Example, given: Any) -> tuple[tuple[int, int], ...]:
    ranges = _checked(given, len(example.target), "decoder tokens")
    for a, b in ranges:
        if a < example.start or b > example.stop:
            allowed = f"the explained ones are [{example.start}, {example.stop})"
            raise InputError(f"target_spans: ({a}, {b}) has tokens that are not explained; {allowed}")
    return tuple(ranges)


def _offset(example: Example) -> int:
    """Where the generated text begins in the text that its tokens' spans refer to."""
    return len(example.input_text) if any(t.segment == "prompt" for t in example.target) else 0


def _matches(example: Example, pattern: re.Pattern[str], what: str) -> tuple[tuple[int, int], ...]:
    offset = _offset(example)
    number = 1 if pattern.groups else 0
    found = [m.span(number) for m in pattern.finditer(example.target_text[offset:])]
    parts = [(a + offset, b + offset) for a, b in found if a < b]
    return _parts(example, parts, what)


def _parts(example: Example, parts: Sequence[Part], what: str) -> tuple[tuple[int, int], ...]:
    """The explained tokens in parts of the generated text."""
    found = _runs(example, part_keys(example, example.target, (), parts), single=False) if parts else ()
    if not found:
        rest = replace(example, stop=example.start)
        raise NothingToExplainError(f"{example.target_text[_offset(example) :][:60]!r} has no {what}", rest)
    return found


def _runs(example: Example, keys: Sequence[tuple[str, int]], *, single: bool) -> tuple[tuple[int, int], ...]:
    """Explained tokens with equal keys as ranges; `single`: those that belong to no part, too."""
    inside = range(example.start, example.stop)
    ranges = [(key, list(group)) for key, group in groupby(inside, key=lambda i: keys[i])]
    return tuple((r[0], r[-1] + 1) for key, r in ranges if single or key[0] != "single")
