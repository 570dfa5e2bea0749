"""The HTML page of a data set: its first rows."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from pathlib import Path

from attriflow.io import write_with
from attriflow.io.records import Record, from_record

ROWS = 100
"""Rows that a page shows; a browser could not show a million."""

EMPTY = "<!doctype html><title>attriflow</title><p>There are no attributions.</p>"


def write_page(records: Iterable[Record], path: Path, run: str) -> int:
    """Write the page; returns the number of rows on it."""
    from attriflow.views.html import to_html

    good = (from_record(record) for record in records if "error" not in record)
    shown = list(itertools.islice(good, ROWS))

    def write(temporary: Path) -> None:
        page = to_html(shown) if shown else EMPTY
        temporary.write_text(f"{page}\n<!-- attriflow run {run} -->\n", encoding="utf-8")

    write_with(write, path)
    return len(shown)


def page_run(path: Path) -> str | None:
    """Mark of the run that wrote a page."""
    found = re.search(r"<!-- attriflow run (\w+) -->\s*$", path.read_text(encoding="utf-8", errors="replace")[-100:])
    return found[1] if found else None
