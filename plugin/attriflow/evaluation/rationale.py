"""Evidence given as character spans in the input, turned into rows of input tokens per explained token.

A rationale is either one flat list of `[start, end)` spans, the evidence for the whole target, or one list of spans per
whitespace-separated word of the target.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from attriflow.errors import InputError
from attriflow.texts.chats import Chat, contents_in, messages_of, plain
from attriflow.types import Example, Token

Span = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rationale:
    """Evidence spans in an input text: one list per target word, or (`per_word` False) one list for every word.

    With `open_end`, target words after the last list have no evidence.
    """

    spans: tuple[tuple[Span, ...], ...]
    per_word: bool
    open_end: bool = False


def parse_rationale(value: Any, text: str, where: str = "rationale") -> Rationale | None:
    """Read evidence from nested lists, arrays, JSON or text; None for a missing value.

    Words are separated by whitespace. Forms:

    - character spans `[[start, end], ...]` for all target words, or one such list per target word;
    - masks `[0, 1, 1, ...]`, one entry per word of the text (ferret's form), or one mask per target word. Two words
      could be a span or a mask: a list of pairs is read as spans;
    - alignments `"0-0 2-1"`, word of the text - word of the target (Pharaoh format), both from 0;
    - the text itself with its evidence between `<hon>` and `<hoff>` (PECoRe's SCAT+).

    Raises:
        InputError: None of these, or outside the text; `where` begins the message.
    """
    if isinstance(value, str) and _TAG.search(value):
        return _tagged(value, text, where)
    if isinstance(value, str) and _ALIGNMENT.fullmatch(value) and value.strip():
        return _aligned(value, text, where)
    if isinstance(value, str) and not value.strip():
        return None
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise InputError(f"{where}: not JSON: {error}") from None
    if value is None or type(value).__name__ == "NAType" or (isinstance(value, float) and value != value):
        return None
    value = plain(value)  # arrays and tuples, as Parquet gives them back, as lists
    if not isinstance(value, list):
        raise InputError(f"{where}: expected lists of [start, end) character spans, not {value!r}")
    if _is_mask(value):
        return Rationale(spans=(_masked(value, text, where),), per_word=False)
    if value and all(_is_mask(v) for v in value) and not all(len(v) == 2 for v in value):
        return Rationale(spans=tuple(_masked(v, text, where) for v in value), per_word=True)
    flat = all(_is_span(v) for v in value)
    words = [value] if flat else value
    for spans in words:
        if not isinstance(spans, list) or not all(_is_span(s) for s in spans):
            expected = "a list of [start, end) spans, one such list per word, masks of 0 and 1, or alignments"
            raise InputError(f"{where}: expected {expected}, not {spans!r}")
        for start, end in spans:
            if not 0 <= start < end <= len(text):
                raise InputError(f"{where}: span [{start}, {end}) is not within the input of {len(text)} characters")
    return Rationale(spans=tuple(tuple((s, e) for s, e in spans) for spans in words), per_word=not flat)


_TAG = re.compile(r"<(?:hon|hoff)>")
_ALIGNMENT = re.compile(r"\s*(?:\d+-\d+\s*)*")


def _tagged(value: str, text: str, where: str) -> Rationale:
    """Spans between tags."""
    spans: list[Span] = []
    plain, begin = "", None
    for piece in re.split(r"(<hon>|<hoff>)", value):
        if (piece == "<hon>") == (begin is not None) and piece in ("<hon>", "<hoff>"):
            raise InputError(f"{where}: <hon> and <hoff> must take turns")
        if piece == "<hon>":
            begin = len(plain)
        elif piece == "<hoff>":
            spans.append((begin or 0, len(plain)))
            begin = None
        else:
            plain += piece
    if begin is not None:
        raise InputError(f"{where}: a <hon> has no <hoff>")
    if plain != text:
        raise InputError(f"{where}: without its tags the text is not that of the input: {plain[:60]!r}")
    return Rationale(spans=(tuple(s for s in spans if s[0] < s[1]),), per_word=False)


def _aligned(value: str, text: str, where: str) -> Rationale:
    """Spans of the words of the text that are aligned to each word of the target."""
    words = words_of(text)
    pairs = [tuple(map(int, pair.split("-"))) for pair in value.split()]
    for i, _ in pairs:
        if i >= len(words):
            raise InputError(f"{where}: there is no word {i} in the input, it has {len(words)} words (from 0)")
    last = max(j for _, j in pairs)
    spans = tuple(tuple(words[i] for i, to in sorted(set(pairs)) if to == j) for j in range(last + 1))
    return Rationale(spans=spans, per_word=True, open_end=True)


def _is_mask(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, (int, bool)) and v in (0, 1) for v in value)


def _masked(mask: Sequence[int], text: str, where: str) -> tuple[Span, ...]:
    """Spans of the words that a mask marks."""
    words = words_of(text)
    if len(mask) != len(words):
        raise InputError(f"{where}: the mask has {len(mask)} entries, the input has {len(words)} words")
    return tuple(span for span, marked in zip(words, mask, strict=True) if marked)


def _is_span(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(v) is int for v in value)


def words_of(text: str, start: int = 0) -> list[Span]:
    """Character spans of the whitespace-separated words from `start` on."""
    return [(m.start(), m.end()) for m in re.compile(r"\S+").finditer(text, start)]


def target_words(example: Example) -> list[Span]:
    """Spans, in the text that target tokens refer to, of the words a rationale speaks of.

    Decoder-only models: the target text begins with the prompt, whose words are not the target's.
    """
    full, prompt = example.target_text, example.input_text
    return words_of(full, len(prompt) if not example.source and full.startswith(prompt) else 0)


def in_template(rationale: Rationale, chat: Chat, text: str) -> Rationale:
    """Evidence in the contents of a chat (see `text_of_chat`) as spans of what the chat template made of them.

    Raises:
        InputError: The template left out, or changed, a content that has evidence.
    """
    messages = messages_of(chat)
    places, begin = [], 0
    for message, found in zip(messages, contents_in(messages, text), strict=True):
        places.append((begin, found))
        begin += len(message["content"]) + 1

    def moved(span: Span) -> Iterator[Span]:
        for message, (begin, found) in zip(messages, places, strict=True):
            content = message["content"]
            blank = begin + len(content) - len(content.lstrip())
            a, b = max(span[0], blank), min(span[1], blank + len(content.strip()))
            if a < b and found is None:
                raise InputError(f"the chat template does not show {content[:60]!r}, which has evidence, as it is")
            if a < b and found is not None:
                yield found[0] + a - blank, found[0] + b - blank

    return replace(rationale, spans=tuple(tuple(m for span in spans for m in moved(span)) for spans in rationale.spans))


def rationale_matrix(rationale: Rationale, example: Example, attribute_target: bool = False) -> Tensor:
    """Bool `[step, input]`: which inputs are evidence for which explained token.

    A token is evidence when it shares a character with a span; a step belongs to the target word(s) it, or a token of
    its span, shares characters with. Tokens without characters (special tokens) are never evidence, and a step without
    any has none.

    Raises:
        InputError: The number of lists is not the number of words in the target.
    """
    words, inputs = target_words(example), example.inputs(attribute_target)
    spans = rationale.spans if rationale.per_word else rationale.spans * len(words)
    if rationale.open_end:
        spans = (*spans, *((),) * (len(words) - len(spans)))
    if len(spans) != len(words):
        raise InputError(f"the rationale has {len(spans)} lists of spans, the target has {len(words)} words")
    per_word = torch.tensor([[_is_evidence(t, evidence) for t in inputs] for evidence in spans], dtype=torch.bool)
    per_word = per_word.reshape(len(words), len(inputs))
    out = torch.zeros((example.n_steps, len(inputs)), dtype=torch.bool)
    for step in range(example.n_steps):
        tokens = example.target[slice(*example.positions(step))]
        for word, span in enumerate(words):
            if any(_overlaps(token, span) for token in tokens):
                out[step] |= per_word[word]
    return out


def rationale_size(matrices: Sequence[Tensor | None]) -> int | None:
    """Mean number of tokens that are evidence, over the steps that have any, as a whole number; None without any."""
    sizes = [int(n) for m in matrices if m is not None for n in m.sum(-1).tolist() if n]
    return max(1, round(sum(sizes) / len(sizes))) if sizes else None


def _is_evidence(token: Token, spans: Sequence[Span]) -> bool:
    # generated tokens refer to the target; evidence is only ever given in the input
    return token.segment != "generated" and any(_overlaps(token, span) for span in spans)


def _overlaps(token: Token, span: Span) -> bool:
    return token.start is not None and token.end is not None and token.start < span[1] and span[0] < token.end
