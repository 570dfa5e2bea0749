"""What is perturbed together: tokens, words, sentences, the caller's segments, or the turns of a chat."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from attriflow.engine import Engine
from attriflow.errors import InputError, check_choice
from attriflow.models.segments import Part, sentences
from attriflow.types import Example, Token

Unit = Literal["token", "word", "sentence", "segment", "turn"]
UNITS: tuple[str, ...] = get_args(Unit)


def check_unit(unit: Any) -> None:
    """Raise `UnknownNameError` for a unit that does not exist."""
    check_choice("unit", unit, UNITS)


def check_groups(groups: Any) -> None:
    """Raise `InputError` unless `groups` is None or lists of positions, each position in one list only."""
    if groups is None:
        return
    lists = isinstance(groups, (list, tuple)) and all(isinstance(g, (list, tuple)) for g in groups)
    if not lists or not all(type(i) is int and i >= 0 for g in groups for i in g):
        raise InputError(f"groups must be lists of positions in the attribution's inputs, not {groups!r}"[:200])
    flat = [i for g in groups for i in g]
    twice = sorted({i for i in flat if flat.count(i) > 1})
    if twice:
        raise InputError(f"input {twice[0]} is in more than one place of groups")


def unit_index(engine: Engine, block: str, unit: str) -> Tensor:
    """Index of the unit each token of a block belongs to, `[batch, position]`; -1 on padding.

    A word is what stands between white space. Sentences are split in the input and in the generated text. Segments and
    turns lie in the input; tokens outside them are units of their own, and so are special tokens without characters. A
    token belongs to the part that holds its first character, and a unit never spans input and generated tokens.
    """
    return _padded(engine, block, [_numbers(e, _read(e, block), unit) for e in engine.examples])


def joint_index(
    engine: Engine, unit: str, groups: Sequence[Sequence[int]] | None = None
) -> tuple[dict[str, Tensor], list[int]]:
    """The same with one numbering over the blocks of an engine, source units first.

    Args:
        engine: The batch.
        unit: See `unit_index`.
        groups: In place of `unit`: positions in the attribution's inputs that belong together; others are single.

    Returns:
        Block -> `[batch, position]` (-1 on padding), and the number of units of each example.
    """
    rows: dict[str, list[list[int]]] = {b: [] for b in engine.blocks}
    counts = []
    for example in engine.examples:
        tokens = [_read(example, b) for b in engine.blocks]
        if groups is None:
            parts = [_numbers(example, t, unit) for t in tokens]
            offsets = [0, *(max(p) + 1 for p in parts)]
            parts = [[n + offsets[i] for n in part] for i, part in enumerate(parts)]
        else:
            joined = _grouped(example, sum(len(t) for t in tokens), groups, "target" in engine.blocks)
            parts = [joined[: len(tokens[0])], joined[len(tokens[0]) :]]
        for block, part in zip(engine.blocks, parts, strict=False):
            rows[block].append(part)
        counts.append(max(n for part in parts for n in part) + 1)
    return {b: _padded(engine, b, r) for b, r in rows.items()}, counts


def _read(example: Example, block: str) -> tuple[Token, ...]:
    """Tokens of a block that the model reads; the last explained one is never an input."""
    return example.source if block == "source" else example.target[: example.stop - 1]


def _padded(engine: Engine, block: str, rows: Sequence[Sequence[int]]) -> Tensor:
    present = engine.present(block)
    index = torch.full(present.shape, -1, dtype=torch.long)
    for row, numbers in enumerate(rows):
        index[row, : len(numbers)] = torch.tensor(numbers, dtype=torch.long)
    return index.to(present.device)


def _numbers(example: Example, tokens: Sequence[Token], unit: str) -> list[int]:
    """Unit of each token, counted from 0."""
    if unit == "token":
        return list(range(len(tokens)))
    if unit == "word":
        breaks = [not _same_word(example, a, b) for a, b in pairwise(tokens)]
        return list(accumulate(breaks, initial=0))
    keys = [("single", i) if place is None else place for i, place in enumerate(_places(example, tokens, unit))]
    return _numbered(keys)


def _numbered(keys: Sequence[tuple[str, int]]) -> list[int]:
    """Keys as numbers in the order in which they first appear, so that later tokens do not change earlier numbers."""
    numbers: dict[tuple[str, int], int] = {}
    return [numbers.setdefault(key, len(numbers)) for key in keys]


def _text(example: Example, token: Token) -> str:
    """The text that a token's span refers to."""
    return example.target_text if token.segment == "generated" else example.input_text


def _same_word(example: Example, a: Token, b: Token) -> bool:
    if a.end is None or b.start is None or a.segment != b.segment or b.start > a.end:
        return False
    text = _text(example, b)
    return not (text[a.end - 1 : a.end].isspace() or text[b.start : b.start + 1].isspace())


def _places(example: Example, tokens: Sequence[Token], unit: str) -> list[tuple[str, int] | None]:
    """The part of the text that holds each token, or None."""
    inputs = parts_of(example, unit)
    # the generated text of decoder-only models follows the prompt in the same text, but is split on its own
    offset = 0 if example.source else len(example.input_text)
    generated = [(a + offset, b + offset) for a, b in sentences(example.target_text[offset:])]
    places: list[tuple[str, int] | None] = []
    for token in tokens:
        before = places[-1] if places else None
        if token.start is None or token.end is None:
            # spaces, or the later bytes of a character, go with the token before them
            follows = not token.special and before is not None and before[0] == token.segment
            places.append(before if follows else None)
            continue
        parts = inputs if token.segment != "generated" else generated if unit == "sentence" else []
        part = _holder(parts, _first(_text(example, token), token.start, token.end))
        places.append(None if part is None else (token.segment, part))
    return places


def parts_of(example: Example, unit: str) -> Sequence[Part]:
    """Spans of the sentences, segments or turns of an example's input.

    Raises:
        InputError: The example has no segments or turns.
    """
    if unit == "sentence":
        return sentences(example.input_text)
    if unit == "segment" and not example.segments:
        raise InputError(f"unit='segment' needs segments=, and {example.input_text[:60]!r} has none")
    if unit == "turn" and not example.turns:
        raise InputError(
            f"unit='turn' needs a chat (messages with role and content) whose template shows every message's content; "
            f"{example.input_text[:60]!r} has no turns"
        )
    return example.segments if unit == "segment" else example.turns


def _first(text: str, start: int, end: int) -> int:
    """A token's first character that is not white space; its first one where all are."""
    shown = text[start:end]
    return start + len(shown) - len(shown.lstrip()) if shown.strip() else start


def _holder(parts: Sequence[Part], place: int) -> int | None:
    """Index of the part that holds a character."""
    index = bisect_right(parts, (place, float("inf"))) - 1
    return index if index >= 0 and place < parts[index][1] else None


def _grouped(example: Example, n: int, groups: Sequence[Sequence[int]], decoder: bool) -> list[int]:
    """Unit of each of `n` inputs that are read, where groups of positions go together."""
    n_inputs = n + decoder  # the last decoder token is an input of the attribution that no step reads
    owner = {i: number for number, group in enumerate(groups) for i in group}
    if owner and max(owner) >= n_inputs:
        allowed = f"inputs 0 to {n_inputs - 1}"
        raise InputError(f"groups name input {max(owner)}, but {example.input_text[:60]!r} has {allowed}")
    return _numbered([("group", owner[i]) if i in owner else ("single", i) for i in range(n)])
