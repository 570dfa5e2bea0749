"""What belongs together in a text: tokens as words, sentences, paragraphs, the caller's segments or turns of a chat.

Perturbation methods leave such units out together, aggregators merge their scores. Everything is read off the tokens'
own character spans; no text is tokenised again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, Literal, Protocol, get_args

from attriflow.errors import InputError, check_choice
from attriflow.texts.segments import Part, paragraphs, sentences
from attriflow.types import Token

Unit = Literal["token", "word", "sentence", "paragraph", "segment", "turn"]
UNITS: tuple[str, ...] = get_args(Unit)
_BLANKS = " ▁Ġ"
_SPLIT = {"sentence": sentences, "paragraph": paragraphs}


class Texts(Protocol):
    """What tokens' spans refer to: an `Example` or an `Attribution`."""

    @property
    def input_text(self) -> str:
        """Source or prompt."""
        ...

    @property
    def target_text(self) -> str:
        """Target; of decoder-only models, prompt and continuation."""
        ...

    @property
    def segments(self) -> tuple[Part, ...]:
        """Spans of the caller's segments in the input."""
        ...

    @property
    def turns(self) -> tuple[Part, ...]:
        """Spans of the turns in the input."""
        ...


def check_unit(unit: Any) -> None:
    """Raise `UnknownNameError` for a unit that does not exist."""
    check_choice("unit", unit, UNITS)


def unit_numbers(texts: Texts, tokens: Sequence[Token], unit: str) -> list[int]:
    """The unit each token belongs to, counted from 0 in the order in which units begin; later tokens change nothing.

    A word is what stands between white space. Sentences and paragraphs (between blank lines) are split in the input and
    in the generated text. Segments and turns lie in the input; tokens outside them are units of their own, and so are
    special tokens without characters. A token belongs to the part that holds its first character, and a unit never
    spans input and generated tokens.

    Args:
        texts: The texts, segments and turns that the spans refer to.
        tokens: Tokens of one side in their order: the source, or the decoder's (prompt first).
        unit: One of `UNITS`.
    """
    if unit == "token":
        return list(range(len(tokens)))
    if unit == "word":
        return _words(texts, tokens)
    generated: Sequence[Part] = ()
    if unit in _SPLIT:
        # the generated text of decoder-only models follows the prompt in the same text, but is split on its own
        offset = len(texts.input_text) if any(t.segment == "prompt" for t in tokens) else 0
        generated = [(a + offset, b + offset) for a, b in _SPLIT[unit](texts.target_text[offset:])]
    return numbered(part_keys(texts, tokens, parts_of(texts, unit), generated))


def input_units(texts: Texts, inputs: Sequence[Token], unit: str) -> list[int]:
    """The same for all inputs of an attribution: source tokens first, then the decoder's, whose numbers go on."""
    sides = [[t for t in inputs if (t.segment == "source") is source] for source in (True, False)]
    source, decoder = (unit_numbers(texts, tokens, unit) for tokens in sides)
    return [*source, *(number + max(source, default=-1) + 1 for number in decoder)]


def part_keys(
    texts: Texts, tokens: Sequence[Token], inputs: Sequence[Part], generated: Sequence[Part] = ()
) -> list[tuple[str, int]]:
    """A key per token: equal for the tokens of a part of the input or of the generated text, else the token's own."""
    keys: list[tuple[str, int]] = []
    for i, token in enumerate(tokens):
        if token.start is None or token.end is None:
            # spaces, or the later bytes of a character, go with the token before them
            follows = not token.special and i > 0 and keys[-1][0] == token.segment
            keys.append(keys[-1] if follows else ("single", i))
            continue
        parts = generated if token.segment == "generated" else inputs
        part = _holder(parts, _first(text_of(texts, token), token.start, token.end))
        keys.append(("single", i) if part is None else (token.segment, part))
    return keys


def numbered(keys: Sequence[tuple[str, int]]) -> list[int]:
    """Keys as numbers in the order in which they first appear, so that later tokens do not change earlier numbers."""
    numbers: dict[tuple[str, int], int] = {}
    return [numbers.setdefault(key, len(numbers)) for key in keys]


def text_of(texts: Texts, token: Token) -> str:
    """The text that a token's span refers to."""
    return texts.target_text if token.segment == "generated" else texts.input_text


def is_marker(texts: Texts, token: Token) -> bool:
    """Whether a token is a special one and not the tokenizer's stand-in for characters that it does not know."""
    if not token.special:
        return False
    return token.start is None or text_of(texts, token)[token.start : token.end] == token.text


def _words(texts: Texts, tokens: Sequence[Token]) -> list[int]:
    numbers: list[int] = []
    open_segment: str | None = None  # of the word that a further token may belong to
    end = 0  # where the last characters ended
    blank: int | None = None  # width of a token of spaces just before
    for token in tokens:
        joins = token.segment == open_segment
        if is_marker(texts, token):
            joins, open_segment, blank = False, None, None
        elif token.start is None or token.end is None:
            # the later bytes of a character have no span of their own; spaces begin the word that they stand before
            spaces = not token.text.strip(_BLANKS)
            joins = joins and not spaces and blank is None
            open_segment, blank = token.segment, len(token.text) if spaces else None
        else:
            text = text_of(texts, token)
            if blank is not None:
                # "▁" + "word" is one word; in "▁" + "▁word" the second token brings a space of its own
                joins = joins and token.start - end <= blank and not text[token.start].isspace()
            else:
                # bytes of one character share its span
                seam = text[end - 1 : token.start + 1] if token.start >= end else text[token.start : token.start + 1]
                joins = joins and not any(c.isspace() for c in seam)
            open_segment, blank, end = token.segment, None, max(end, token.end)
        numbers.append(numbers[-1] + (not joins) if numbers else 0)
    return numbers


def parts_of(texts: Texts, unit: str) -> Sequence[Part]:
    """Spans of the sentences, paragraphs, segments or turns of the input.

    Raises:
        InputError: There are no segments or turns.
    """
    if unit in _SPLIT:
        return _SPLIT[unit](texts.input_text)
    if unit == "segment" and not texts.segments:
        raise InputError(f"the unit 'segment' needs segments=, and {texts.input_text[:60]!r} has none")
    if unit == "turn" and not texts.turns:
        raise InputError(
            "the unit 'turn' needs a chat (messages with role and content) whose template shows every message's "
            f"content; {texts.input_text[:60]!r} has no turns"
        )
    return [(start, end) for start, end in (texts.segments if unit == "segment" else texts.turns)]


def _first(text: str, start: int, end: int) -> int:
    """A token's first character that is not white space; its first one where all are."""
    shown = text[start:end]
    return start + len(shown) - len(shown.lstrip()) if shown.strip() else start


def _holder(parts: Sequence[Part], place: int) -> int | None:
    """Index of the part that holds a character."""
    index = bisect_right(parts, (place, float("inf"))) - 1
    return index if index >= 0 and place < parts[index][1] else None
