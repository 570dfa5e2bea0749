"""The HTML page of a data set: its first rows."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from pathlib import Path

from attriflow.io import write_content
from attriflow.io.records import Record, from_record

ROWS = 100
"""Rows that a page shows; a browser could not show a million."""

EMPTY = "<!doctype html><title>attriflow</title><p>There are no attributions.</p>"


def write_page(records: Iterable[Record], path: Path, run: str, *, overwrite: bool = False) -> int:
    """Write the page; returns the number of rows on it."""
    from attriflow.views.html import to_html

    good = (from_record(record) for record in records if "error" not in record)
    shown = list(itertools.islice(good, ROWS))
    page = to_html(shown) if shown else EMPTY
    write_content(f"{page}\n<!-- attriflow run {run} -->\n", path, overwrite=overwrite)
    return len(shown)


def page_run(path: Path) -> str | None:
    """Mark of the run that wrote a page."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 100))
        found = re.search(r"<!-- attriflow run (\w+) -->\s*$", file.read().decode("utf-8", errors="replace"))
    return found[1] if found else None
