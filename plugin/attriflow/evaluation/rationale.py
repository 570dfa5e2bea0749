"""Evidence given as character spans in the input, turned into rows of input tokens per explained token.

A rationale is either one flat list of `[start, end)` spans, the evidence for the whole target, or one list of spans per
whitespace-separated word of the target.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attriflow.errors import InputError
from attriflow.types import Example, Token

Span = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rationale:
    """Evidence spans in an input text: one list per target word, or (`per_word` False) one list for every word."""

    spans: tuple[tuple[Span, ...], ...]
    per_word: bool


def parse_rationale(value: Any, text: str, where: str = "rationale") -> Rationale | None:
    """Read spans from nested lists, arrays or JSON; None for a missing value.

    Raises:
        InputError: Not spans, or spans outside the text; `where` begins the message.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise InputError(f"{where}: not JSON: {error}") from None
    if value is None or (isinstance(value, float) and value != value):
        return None
    value = _plain(value)
    if not isinstance(value, list):
        raise InputError(f"{where}: expected lists of [start, end) character spans, not {value!r}")
    flat = all(_is_span(v) for v in value)
    words = [value] if flat else value
    for spans in words:
        if not isinstance(spans, list) or not all(_is_span(s) for s in spans):
            expected = "a list of [start, end) spans, or one such list per word"
            raise InputError(f"{where}: expected {expected}, not {spans!r}")
        for start, end in spans:
            if not 0 <= start < end <= len(text):
                raise InputError(f"{where}: span [{start}, {end}) is not within the input of {len(text)} characters")
    return Rationale(spans=tuple(tuple((s, e) for s, e in spans) for spans in words), per_word=not flat)


def _plain(value: Any) -> Any:
    """Nested arrays and tuples (as Parquet gives them back) as nested lists."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


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


def rationale_matrix(rationale: Rationale, example: Example, attribute_target: bool = False) -> Tensor:
    """Bool `[step, input]`: which inputs are evidence for which explained token.

    A token is evidence when it shares a character with a span; a step belongs to the target word(s) it shares
    characters with. Tokens without characters (special tokens) are never evidence, and a step without any has none.

    Raises:
        InputError: The number of lists is not the number of words in the target.
    """
    words, inputs = target_words(example), example.inputs(attribute_target)
    spans = rationale.spans if rationale.per_word else rationale.spans * len(words)
    if len(spans) != len(words):
        raise InputError(f"the rationale has {len(spans)} lists of spans, the target has {len(words)} words")
    per_word = torch.tensor([[_is_evidence(t, evidence) for t in inputs] for evidence in spans], dtype=torch.bool)
    per_word = per_word.reshape(len(words), len(inputs))
    out = torch.zeros((example.n_steps, len(inputs)), dtype=torch.bool)
    for step, token in enumerate(example.target[example.start : example.stop]):
        for word, span in enumerate(words):
            if _overlaps(token, span):
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
