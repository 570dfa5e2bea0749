"""Ids, readable tokens and character spans; ids never pass through text."""

from __future__ import annotations

import copy
import itertools
from collections.abc import KeysView, Sequence
from typing import Any

from attriflow.errors import InputError
from attriflow.texts.languages import check_prefix
from attriflow.types import Segment, Token

Span = tuple[int, int] | None


def special_ids(tokenizer: Any) -> KeysView[int]:
    """Ids that stand for no text: of named tokens (EOS, ...), then of others added as special (a chat's markers)."""
    named = getattr(tokenizer, "all_special_ids", None) or ()
    added = getattr(tokenizer, "added_tokens_decoder", None) or {}
    others = (int(i) for i, token in added.items() if getattr(token, "special", False))
    return dict.fromkeys([*named, *others]).keys()


def tokenize(tokenizer: Any, text: str, *, special: bool = True, target: bool = False) -> tuple[list[int], list[Span]]:
    """Ids and character spans (surrounding spaces cut off) of one text."""
    if not isinstance(text, str):
        raise InputError(f"a text must be a string, not {type(text).__name__}: {text!r}"[:200])
    if not target:
        check_prefix(tokenizer, text)
    options: dict[str, Any] = {"add_special_tokens": special}
    if getattr(tokenizer, "is_fast", False):
        options["return_offsets_mapping"] = True
    encoded = tokenizer(text_target=text, **options) if target else tokenizer(text, **options)
    ids = [int(i) for i in encoded["input_ids"]]
    offsets = encoded.get("offset_mapping")
    if offsets is None:
        return ids, decoded_spans(tokenizer, ids)
    return ids, [_trim(text, a, b) for a, b in _bytes_apart(text, [(int(a), int(b)) for a, b in offsets])]


def sides(tokenizer: Any) -> tuple[Any, Any]:
    """Tokenizers for sources and targets: one with a vocabulary for each encodes the one and decodes the other."""
    if not (hasattr(tokenizer, "get_src_vocab") and hasattr(tokenizer, "get_tgt_vocab")):
        return tokenizer, tokenizer
    source, target = copy.copy(tokenizer), copy.copy(tokenizer)
    source.decoder = {i: token for token, i in tokenizer.encoder.items()}
    target.encoder = {token: i for i, token in tokenizer.decoder.items()}
    source.tgt_lang, target.src_lang = tokenizer.src_lang, tokenizer.tgt_lang
    return source, target


def _bytes_apart(text: str, offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Offsets where the bytes of several unknown characters, which share one span, have that of their character."""
    out: list[tuple[int, int]] = []
    for (a, b), run in itertools.groupby(offsets):
        n = len(list(run))
        owners = [k for k in range(a, b) for _ in text[k].encode()] if b - a > 1 else []
        out += [(k, k + 1) for k in owners] if n == len(owners) else [(a, b)] * n
    return out


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


def decoded_spans(
    tokenizer: Any, ids: Sequence[int], text: str | None = None, *, before: Sequence[int] = (), start: int = 0
) -> list[Span]:
    """Character spans of tokens in the decoded text, found by decoding growing prefixes; `start` is added to all.

    The bytes of a torn character all have its span. Quadratic in the number of tokens, which is why it is only used for
    slow tokenizers, and for generated ids that the tokenizer would not choose for their text.

    Args:
        tokenizer: The tokenizer.
        ids: Token ids.
        text: Their text; decoded when None.
        before: Ids before them, since decoders treat the beginning of a text differently.
        start: Where their text begins.
    """
    known = len(decode(tokenizer, before, special=True)) if before else 0
    special = special_ids(tokenizer)

    def grown(n: int) -> str:
        if not before:
            return decode(tokenizer, ids[:n])
        return decode(tokenizer, [*before, *(i for i in ids[:n] if i not in special)], special=True)[known:]

    text = grown(len(ids)) if text is None else text
    spans: list[Span] = []
    end = 0  # of what is decoded
    torn: list[int] = []  # tokens that have added nothing yet
    for i, token in enumerate(ids):
        shown = grown(i + 1)
        after = max(end, _common(shown, text))
        # a decoder that cannot show a part of a character shows U+FFFD, or nothing
        part = after < len(text) and len(shown) > after and shown.endswith("\ufffd")
        spans.append(_trim(text, end, after + part))
        if after > end and torn and decode(tokenizer, [token]).strip(" ") != text[end:after].strip(" "):
            for j in torn:
                spans[j] = _trim(text, end, end + 1)
        if after > end or part or token in special:
            torn = []
        else:
            torn.append(i)
        end = after
    return [None if span is None else (span[0] + start, span[1] + start) for span in spans]


def _common(a: str, b: str) -> int:
    """How many characters two texts begin with alike."""
    n = min(len(a), len(b))
    return n if a[:n] == b[:n] else next(i for i in range(n) if a[i] != b[i])


def spans_as_forced(
    tokenizer: Any, ids: Sequence[int], forced: Sequence[int], forced_spans: Sequence[Span]
) -> list[Span] | None:
    """Spans of generated ids whose text, tokenised, has the same ids; None where it has others.

    Special tokens are not in the text of generated ids, and have no span.
    """
    special = special_ids(tokenizer)
    plain = [(i, span) for i, span in zip(forced, forced_spans, strict=True) if i not in special]
    if [i for i, _ in plain] != [i for i in ids if i not in special]:
        return None
    spans = iter([span for _, span in plain])
    return [None if i in special else next(spans) for i in ids]


def decode(tokenizer: Any, ids: Sequence[int], special: bool = False) -> str:
    """Text of ids without clean-up, and without special tokens unless asked for."""
    text: str = tokenizer.decode(list(ids), skip_special_tokens=not special, clean_up_tokenization_spaces=False)
    return text


def ids_to_tokens(
    tokenizer: Any, ids: Sequence[int], *, spans: Sequence[Span] | None = None, segment: Segment = "prompt"
) -> list[Token]:
    """Readable tokens: the decoded piece where that is printable, the vocabulary entry where it is not."""
    special = special_ids(tokenizer)
    raw = tokenizer.convert_ids_to_tokens(list(ids))
    out = []
    for i, (token_id, entry) in enumerate(zip(ids, raw, strict=True)):
        span = spans[i] if spans is not None else None
        piece = str(tokenizer.decode([token_id], clean_up_tokenization_spaces=False))
        text = piece.strip(" ") or piece
        if not text or "\ufffd" in text:
            text = f"<{token_id}>" if entry is None else str(entry)  # models may have more ids than their tokenizer
        start, end = span if span is not None else (None, None)
        out.append(
            Token(text=text, id=int(token_id), start=start, end=end, segment=segment, special=token_id in special)
        )
    return out
