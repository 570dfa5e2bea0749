"""Chats in the forms that people have them in, read into one: messages whose contents are texts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from attriflow.errors import InputError, check_unicode

Message = dict[str, Any]
"""`{"role": ..., "content": <a text>}`; other keys go to the chat template as they are."""

Chat = list[Message] | dict[str, Any]
"""Messages, or `{"messages": [...], "tools": [...]}` where tools are described to the model."""

CALLS = ("tool_calls", "function_call")
"""Keys of what a message without content has instead."""
_FORMS = "a list of messages with a role and a content, or {'messages': [...]}"


def chat_of(value: Any) -> Chat | None:
    """A chat in its one form; None for what is no chat.

    Args:
        value: Messages in a list, tuple or array (as Parquet files give them); a single message; or a mapping that has
            them as "messages", as requests to chat models do (it may have "tools", too). A content may be a list of
            parts, all of them texts; keys without a value are left out, and the JSON of a tool call's arguments is
            read.

    Raises:
        InputError: It is a chat, but a message has something else than texts, or says neither who speaks nor what.
    """
    value = plain(value)
    if isinstance(value, dict) and "messages" in value:
        messages, tools = value["messages"], value.get("tools")
        if not _are_messages(messages):
            raise InputError(f"'messages' must be a list of messages, not {messages!r}"[:200])
        if tools and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
            raise InputError(f"'tools' must be a list of objects, not {tools!r}"[:200])
        read = [_message(m) for m in messages]
        return {"messages": read, "tools": [_filled(tool) for tool in tools]} if tools else read
    if isinstance(value, dict) and "role" in value:
        value = [value]
    return [_message(m) for m in value] if _are_messages(value) else None


def of_cell(label: str, value: Any) -> str | Chat:
    """A cell of a table: a text, a chat (see `chat_of`), or a chat as JSON, as CSV files have them.

    Raises:
        InputError: Neither; `label` says what it should have been.
    """
    chat = chat_of(_from_json(value) if isinstance(value, str) else value)
    if chat is not None:
        return chat
    if isinstance(value, str) and value.strip():
        return check_unicode(str(value))
    or_chat = "" if isinstance(value, str) else f" or a chat ({_FORMS})"
    raise InputError(f"{label} must be a text that is not empty{or_chat}, not {value!r}"[:240])


def is_cell(value: Any) -> bool:
    """Whether a cell holds a text or has the shape of a chat."""
    value = value if isinstance(value, str) else plain(value)
    return isinstance(value, str) or _are_messages(value) or (isinstance(value, dict) and "messages" in value)


def messages_of(chat: Chat) -> list[Message]:
    """The messages of a chat in its one form."""
    return list(chat["messages"]) if isinstance(chat, dict) else chat


def text_of_chat(chat: Chat) -> str:
    """The contents of the messages, one after the other with a line break between: what evidence refers to."""
    return "\n".join(message["content"] for message in messages_of(chat))


def contents_in(messages: Sequence[Message], text: str) -> list[tuple[int, int] | None]:
    """Where the content of each message, without the white space around it, stands in what a template made of all."""
    found, at = list[tuple[int, int] | None](), 0
    for message in messages:
        content = message["content"].strip()
        start = text.find(content, at) if content else -1
        found.append(None if start < 0 else (start, start + len(content)))
        at = at if start < 0 else start + len(content)
    return found


def plain(value: Any) -> Any:
    """Nested arrays, tuples and mappings as lists and dictionaries; other values as they are."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(v) for key, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def _are_messages(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(m, dict) for m in value)


def _from_json(text: str) -> Any:
    """The chat that a text is the JSON of, else the text."""
    if text.strip()[:1] in ("[", "{"):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return text
        first = found[0] if isinstance(found, list) and found else found
        if isinstance(first, dict) and (
            "role" in first or (first is found and isinstance(first.get("messages"), list))
        ):
            return found
    return text


def _message(given: dict[str, Any]) -> Message:
    message = _filled(given)
    content, calls = message.get("content"), [key for key in CALLS if message.get(key)]
    if isinstance(content, list):
        content = "\n".join(_part(part) for part in content)
    if content is None and calls:
        content = ""
    if not isinstance(message.get("role"), str) or not isinstance(content, str):
        raise InputError(f"a message needs a role and a content, both strings, not {given!r}"[:240])
    message["content"] = check_unicode(content)
    if isinstance(message.get("tool_calls"), list):
        message["tool_calls"] = [_call(call) for call in message["tool_calls"]]
    return message


def _part(part: Any) -> str:
    """The text of a part of a content."""
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type", part) if isinstance(part, dict) else part
    raise InputError(f"a message has a part that is no text ({kind!r}); parts must be {{'type': 'text', ...}}"[:240])


def _call(call: Any) -> Any:
    """A tool call with its arguments as an object, which templates write out; requests have it as JSON."""
    function = call.get("function") if isinstance(call, dict) else None
    arguments = function.get("arguments") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(arguments, str):
        return call
    try:
        read = json.loads(arguments)
    except ValueError:
        return call
    return {**call, "function": {**function, "arguments": read}} if isinstance(read, dict) else call


def _filled(value: Any) -> Any:
    """Without keys that have no value: tables give every row the keys of all."""
    if isinstance(value, dict):
        return {key: _filled(v) for key, v in value.items() if v is not None}
    return [_filled(v) for v in value] if isinstance(value, list) else value
