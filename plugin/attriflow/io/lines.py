"""JSON lines: one record per line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from attriflow.datasets import limits
from attriflow.errors import InputError
from attriflow.io.records import Record, dumps


def write(records: Iterable[Record], path: Path, run: str | None) -> None:
    """One line per record; each has the mark of its run."""
    with path.open("w", encoding="utf-8", newline="\n") as f:
        f.writelines(line(record, run) for record in records)


def line(record: Record, run: str | None) -> str:
    """A record as a line."""
    return dumps(record if run is None else {**record, "run": run}) + "\n"


def read(path: Path) -> Iterator[Record]:
    """Records of the lines; empty lines are skipped."""
    with path.open(encoding="utf-8") as f:
        for number, text in enumerate(limits.lines(f, path), 1):
            if text.strip():
                yield check_record(_parsed(text, number), f"{path}, line {number},")


def run_of(path: Path) -> str | None:
    """Mark on the first line."""
    return next((record.get("run") for record in read(path)), None)


def check_record(record: Any, where: str) -> Record:
    """A record that may be an attribution; anything else is an error."""
    if not isinstance(record, dict) or not {"scores", "error"} & set(record):
        raise InputError(f"{where} is JSON, but not an attribution that attriflow wrote")
    return record


def _parsed(text: str, number: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {number}: {error}") from error
