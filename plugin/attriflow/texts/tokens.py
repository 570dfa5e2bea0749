"""Ids, readable tokens and character spans; ids never pass through text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attriflow.errors import InputError
from attriflow.types import Segment, Token

Span = tuple[int, int] | None


def tokenize(tokenizer: Any, text: str, *, special: bool = True, target: bool = False) -> tuple[list[int], list[Span]]:
    """Ids and character spans (surrounding spaces cut off) of one text."""
    if not isinstance(text, str):
        raise InputError(f"a text must be a string, not {type(text).__name__}: {text!r}"[:200])
    options: dict[str, Any] = {"add_special_tokens": special}
    if getattr(tokenizer, "is_fast", False):
        options["return_offsets_mapping"] = True
    encoded = tokenizer(text_target=text, **options) if target else tokenizer(text, **options)
    ids = [int(i) for i in encoded["input_ids"]]
    offsets = encoded.get("offset_mapping")
    if offsets is None:
        return ids, decoded_spans(tokenizer, ids)
    return ids, [_trim(text, int(a), int(b)) for a, b in offsets]


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """A span without the spaces at its ends; empty where it has nothing else."""
    while start < end and text[start] == " ":
        start += 1
    while end > start and text[end - 1] == " ":
        end -= 1
    return start, end


def _trim(text: str, start: int, end: int) -> Span:
    start, end = trimmed(text, start, end)
    return (start, end) if end > start else None


def decoded_spans(tokenizer: Any, ids: Sequence[int], start: int = 0, text: str | None = None) -> list[Span]:
    """Character spans of tokens in the decoded text, found by decoding growing prefixes; `start` is added to all.

    Quadratic in the number of tokens, which is why it is only used for generated ids and slow tokenizers.
    """
    spans: list[Span] = []
    text = decode(tokenizer, ids) if text is None else text
    before = 0
    for i in range(len(ids)):
        after = min(len(text), len(decode(tokenizer, ids[: i + 1])))
        span = _trim(text, before, after)
        spans.append(None if span is None else (span[0] + start, span[1] + start))
        before = max(before, after)
    return spans


def decode(tokenizer: Any, ids: Sequence[int], special: bool = False) -> str:
    """Text of ids without clean-up, and without special tokens unless asked for."""
    text: str = tokenizer.decode(list(ids), skip_special_tokens=not special, clean_up_tokenization_spaces=False)
    return text


def ids_to_tokens(
    tokenizer: Any, ids: Sequence[int], *, spans: Sequence[Span] | None = None, segment: Segment = "prompt"
) -> list[Token]:
    """Readable tokens: the decoded piece where that is printable, the vocabulary entry where it is not."""
    special = set(tokenizer.all_special_ids)
    raw = tokenizer.convert_ids_to_tokens(list(ids))
    out = []
    for i, (token_id, entry) in enumerate(zip(ids, raw, strict=True)):
        span = spans[i] if spans is not None else None
        piece = str(tokenizer.decode([token_id], clean_up_tokenization_spaces=False))
        text = piece.strip(" ") or piece
        if not text or "\ufffd" in text:
            text = str(entry)
        start, end = span if span is not None else (None, None)
        out.append(
            Token(text=text, id=int(token_id), start=start, end=end, segment=segment, special=token_id in special)
        )
    return out
