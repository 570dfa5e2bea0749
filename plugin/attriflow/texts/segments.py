"""Parts of a text: sentences, paragraphs, the caller's own segments, and the turns of a chat."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attriflow.errors import InputError
from attriflow.texts.chats import Chat, chat_of, contents_in, messages_of

Part = tuple[int, int]
"""Characters `[start, end)` of a text."""

Inputs = str | Mapping[str, Any] | Sequence[str | Mapping[str, Any] | Sequence[Mapping[str, Any]]]
"""One text, several texts, one chat (a list of messages, or `{"messages": [...]}`) or several chats."""

Segments = Sequence[str | tuple[int, int]] | Sequence[Sequence[str | tuple[int, int]]]
"""Substrings or `(start, end)` pairs: one list for the only text, or one list per text."""

# -- sentences ---------------------------------------------------------------------------------------------------------

_CLOSING = r"[\"'”’»)\]」』）]*"
_END = re.compile(
    rf"(?P<stop>[.!?…]+){_CLOSING}(?:\s+|$)"  # a stop counts before white space only: "3.5", "example.org"
    rf"|[。！？｡।॥؟]+{_CLOSING}\s*"  # these scripts set no space after it
    r"|\s*\n\s*"
)
_TITLES = frozenset(
    ("mr", "mrs", "ms", "dr", "prof", "sr", "jr", "st", "vs", "cf", "fig", "eq", "vol", "approx", "resp")
)
# "e.g", "U.S", the initial of a name; the number of a list item at the start of a line
_NO_END = re.compile(r"(?:(?<!\w)(?:[^\W\d_]\.)+[^\W\d_]|(?<!\w)[A-HJ-Z]|(?:^|\n)[ \t]*\d+)$")


def sentences(text: str) -> list[Part]:
    """Sentences of a text, white space after them included; together they cover it.

    A sentence ends at ".", "!" or "?" before white space, at the stops of scripts without spaces and at a line break,
    but not after an abbreviation ("e.g.", "Mr."), an initial or the number of a list item. What ends a sentence is
    decided by the text up to the next sentence's first character, so that later text never changes it.
    """
    parts, start = [], 0
    for match in _END.finditer(text):
        near = text[max(start, match.start() - 40) : match.start()]
        if match["stop"] == "." and "\n" not in match[0] and _is_abbreviation(near):
            continue
        if match.end() < len(text) and text[start : match.end()].strip():
            parts.append((start, match.end()))
            start = match.end()
    return [*parts, (start, len(text))] if start < len(text) else parts


def paragraphs(text: str) -> list[Part]:
    """Paragraphs of a text, which end at blank lines, white space after them included; together they cover it."""
    starts = [0, *(m.end() for m in re.finditer(r"\S[^\S\n]*\n[^\S\n]*\n\s*(?=\S)", text)), len(text)]
    return [(a, b) for a, b in itertools.pairwise(starts) if a < b]


def _is_abbreviation(before: str) -> bool:
    word = re.search(r"[^\W\d_]+$", before)
    return (word is not None and word[0].lower() in _TITLES) or _NO_END.search(before) is not None


# -- the caller's segments ---------------------------------------------------------------------------------------------


def read_segments(texts: Sequence[str], segments: Segments | None) -> list[tuple[Part, ...]]:
    """Character spans of the caller's segments, one tuple per text.

    Args:
        texts: Input texts.
        segments: See `Segments`; None for no segments.

    Raises:
        InputError: A substring that does not follow the one before it, or spans that overlap or leave the text.
    """
    if segments is None:
        return [()] * len(texts)
    if isinstance(segments, (str, Mapping)) or not isinstance(segments, Sequence):
        raise InputError(f"segments must be lists of substrings or (start, end) pairs, not {segments!r}"[:200])
    given: list[Any] = list(segments)
    if all(_is_item(s) for s in given):
        if len(texts) > 1:
            raise InputError(f"segments must have one list per text: {len(texts)} texts, one list")
        given = [given]
    if len(given) != len(texts):
        raise InputError(f"{len(texts)} texts but segments for {len(given)}")
    return [_segments_of(text, items) for text, items in zip(texts, given, strict=True)]


def _is_item(item: Any) -> bool:
    return isinstance(item, str) or _is_pair(item)


def _is_pair(item: Any) -> bool:
    return isinstance(item, (tuple, list)) and len(item) == 2 and all(type(v) is int for v in item)


def _segments_of(text: str, items: Any) -> tuple[Part, ...]:
    if isinstance(items, str) or not isinstance(items, Sequence) or not all(_is_item(i) for i in items):
        raise InputError(f"the segments of a text must be substrings or (start, end) pairs, not {items!r}"[:200])
    found: list[Part] = []
    for item in items:
        last = found[-1][1] if found else 0
        if isinstance(item, str):
            start = text.find(item, last)
            if start < 0 or not item:
                where = " after the segment before it" if item and item in text else ""
                raise InputError(f"segment {item[:60]!r} is not found{where} in {text[:60]!r}")
            found.append((start, start + len(item)))
            continue
        start, end = item
        if not 0 <= start < end <= len(text):
            raise InputError(f"segment ({start}, {end}) is not within the input of {len(text)} characters")
        if start < last:
            raise InputError(f"segment ({start}, {end}) begins before the one before it ends, at {last}")
        found.append((start, end))
    return tuple(found)


# -- chats -------------------------------------------------------------------------------------------------------------


class ChatText(str):
    """A chat as its template renders it: special tokens are in the text already, and turns are known by their place."""

    __slots__ = ("turns",)
    turns: tuple[Part, ...]

    def __new__(cls, text: str, turns: Sequence[Part] = ()) -> ChatText:
        """Text and the spans of its turns."""
        made = super().__new__(cls, text)
        made.turns = tuple(turns)
        return made


def turns_of(text: str) -> tuple[Part, ...]:
    """Spans of the turns of a rendered chat; none for plain text."""
    return text.turns if isinstance(text, ChatText) else ()


def with_reply(prompt: str, text: str) -> str:
    """The whole text of a chat whose reply alone may be given; other texts as they are."""
    if not isinstance(prompt, ChatText):
        return text
    return ChatText(text if text.startswith(prompt) else f"{prompt!s}{text}", prompt.turns)


def read_inputs(tokenizer: Any, inputs: Any) -> list[str]:
    """Texts as a list, with chats rendered (see `Inputs`).

    Raises:
        InputError: Neither texts nor chats, a tokenizer without chat template, or a chat its template does not take.
    """
    if isinstance(inputs, (str, Mapping)):
        inputs = [inputs]
    elif not isinstance(inputs, Iterable):
        raise InputError(_not_texts(inputs))
    given = list(inputs)
    if not given:
        raise InputError("input_texts is empty")
    if all(isinstance(m, Mapping) for m in given) and not all("messages" in m for m in given):
        given = [given]
    return [_one(tokenizer, g) for g in given]


def _one(tokenizer: Any, given: Any) -> str:
    if isinstance(given, str):
        return given
    chat = chat_of(given)
    if chat is None:
        raise InputError(_not_texts(given))
    return render(tokenizer, chat)


def _not_texts(found: Any) -> str:
    wanted = "a string, a list of strings, a chat (a list of messages) or a list of chats"
    return f"input_texts must be {wanted}; found {type(found).__name__}: {found!r}"[:240]


def render(tokenizer: Any, chat: Chat) -> ChatText:
    """A chat with the header of the reply, as the tokenizer's template writes it, and the spans of its turns."""
    if not getattr(tokenizer, "chat_template", None):
        raise InputError("the tokenizer has no chat template: give texts, or set tokenizer.chat_template")
    messages, tools = messages_of(chat), chat["tools"] if isinstance(chat, dict) else None
    text = _rendered(tokenizer, messages, tools, reply=True)
    if tools and text == _rendered(tokenizer, messages, None, reply=True):
        raise InputError("the chat template has no place for tools: leave 'tools' out, or describe them in a message")
    return ChatText(text, _turns(tokenizer, messages, tools, text))


def _rendered(tokenizer: Any, messages: list[dict[str, Any]], tools: Any, reply: bool) -> str:
    from jinja2 import TemplateError

    more = {"tools": tools} if tools else {}
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=reply, **more)
    except (TemplateError, TypeError, ValueError, KeyError, IndexError) as error:
        raise InputError(f"the chat template does not take this chat: {error}") from error
    return str(text)


def _turns(tokenizer: Any, messages: list[dict[str, Any]], tools: Any, text: str) -> tuple[Part, ...]:
    """Each message with the markers around it, found by rendering growing chats.

    Where a template does not allow that (a system message that becomes part of the first question, say), the contents
    of the messages only; nothing where they are not found either. A BOS token before the chat is no part of it.
    """
    ends = [0]
    try:
        for n in range(1, len(messages) + 1):
            shown = _rendered(tokenizer, messages[:n], tools, reply=False)
            if not text.startswith(shown) or len(shown) <= ends[-1]:
                break
            ends.append(len(shown))
    except InputError:
        pass
    if len(ends) > len(messages):
        bos = getattr(tokenizer, "bos_token", None)
        ends[0] = len(bos) if bos and text.startswith(bos) else 0
        return tuple(itertools.pairwise(ends))
    found = contents_in(messages, text)
    written = [span for span, message in zip(found, messages, strict=True) if message["content"].strip()]
    return () if None in written else tuple(span for span in written if span is not None)
