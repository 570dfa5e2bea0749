"""Language codes of multilingual tokenizers, which take one that they lack for an unknown word and say nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from attriflow.errors import UnknownNameError, nearest

_DEFAULTS = ("en", "en_XX", "eng_Latn")
"""Of tokenizers that were told no source language, whether they have these or not."""
_LIKE_CODES = re.compile(r"__(\w{2,10})__|([a-z]{2,3}_[A-Z]\w{1,3})")


def language_id(tokenizer: Any, code: str) -> int:
    """Id of the token that stands for a language.

    Raises:
        UnknownNameError: The tokenizer has none for this code.
    """
    for name in (code, f"__{code}__"):  # M2M100 and PLBART write them so
        found = tokenizer.convert_tokens_to_ids(name)
        if found is not None and found != tokenizer.unk_token_id:
            return int(found)
    matches = [m for m in map(_LIKE_CODES.fullmatch, tokenizer.all_special_tokens) if m]
    codes = sorted({m[1] or m[2] for m in matches})
    close = nearest(str(code), codes)
    hint = f"; did you mean {close!r}?" if close else f"; it has {', '.join(codes[:10])}, ..." if codes else ""
    raise UnknownNameError(f"the tokenizer has no language code {code!r}{hint}")


def check_languages(tokenizer: Any, given: Mapping[str, Any]) -> None:
    """Raise `UnknownNameError` where the tokenizer lacks a language that it was told.

    Args:
        tokenizer: Any; those with a vocabulary for each side have no tokens for languages.
        given: Options that it was loaded with.
    """
    if hasattr(tokenizer, "get_src_vocab"):
        return
    multilingual = hasattr(tokenizer, "set_src_lang_special_tokens")
    for name in ("src_lang", "tgt_lang"):
        own = getattr(tokenizer, name, None) if multilingual else None
        code = given.get(name) or (None if own in _DEFAULTS else own)
        if code is not None:
            language_id(tokenizer, code)


def check_prefix(tokenizer: Any, text: str) -> None:
    """Raise `UnknownNameError` for a source that opens with a language (">>fra<< ...") that Marian lacks."""
    if text.startswith(">>") and getattr(tokenizer, "supported_language_codes", None):
        code = re.match(r">>\S+<<", text)
        if code:
            language_id(tokenizer, code[0])
