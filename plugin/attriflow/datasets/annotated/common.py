"""What the formats share: reading JSON, errors that name the row, tokens to character spans."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attriflow.datasets import limits
from attriflow.errors import InputError

Span = list[int]
"""`[start, end)` in characters."""


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    try:
        return json.loads(limits.whole_json(path))
    except InputError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read {path}: {error}") from None


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Objects of a JSON lines file (or of a JSON file that holds a list), each with its place for error messages."""
    try:
        text = limits.whole_json(path)
        whole = text.lstrip().startswith("[")
        items = json.loads(text) if whole else [json.loads(line) for line in text.splitlines() if line.strip()]
    except InputError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    for i, item in enumerate(items):
        if not isinstance(item, dict):
            raise InputError(f"{path}, row {i}: expected an object, not {type(item).__name__}")
        yield f"{path}, row {i}", item


def text_field(row: Mapping[str, Any], name: str, where: str) -> str:
    """A field that must be a text."""
    value = row.get(name)
    if not isinstance(value, str):
        raise InputError(f"{where}: expected a text in '{name}'; there are {', '.join(map(str, row)) or 'no fields'}")
    return value


def token_spans(tokens: Sequence[str], start: int = 0) -> list[Span]:
    """Character spans of tokens in `" ".join(tokens)`, which begins at `start`."""
    spans = []
    for token in tokens:
        spans.append([start, start + len(token)])
        start += len(token) + 1
    return spans


def merged(spans: Sequence[Span], text: str) -> list[Span]:
    """Spans in order, those with nothing but space between them joined."""
    out: list[Span] = []
    for start, end in sorted(spans):
        if out and not text[out[-1][1] : start].strip():
            out[-1][1] = max(out[-1][1], end)
        else:
            out.append([start, end])
    return out
