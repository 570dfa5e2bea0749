"""Tables that sort and figures, as the templates of the pages take them."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attriflow.views.common import as_float, compact

COSTS = {
    "forward_equivalents": ("forward equivalents", False),
    "target_tokens_per_second": ("tokens / s", True),
    "seconds": ("seconds", False),
    "peak_memory_mb": ("peak MB", False),
    "n_examples": ("examples", True),
}
"""Label, and whether more is better."""
BOARD_COSTS = ("forward_equivalents", "target_tokens_per_second")
"""Those that stand in a leaderboard, too."""
_PIXELS = 1.5  # of a picture per CSS pixel: the plots are made for dense screens


def column(
    label: str, first: str = "ascending", hint: str = "", *, kind: str = "number", sorted: bool = False
) -> dict[str, Any]:
    """Head of a column; `first` is the order that a first click sorts by."""
    return {"label": label, "kind": kind, "first": first, "hint": hint, "sorted": sorted}


def cell(value: Any, form: Callable[[Any], str], note: str = "") -> dict[str, Any]:
    """A number: its text, the value that it sorts by, and a note beside it."""
    real = as_float(value)
    sort = "" if real is None else repr(real)
    return {"kind": "number", "text": form(value), "sort": sort, "best": False, "part": None, "note": note}


def cost_columns(costs: Sequence[str], sorted: str = "") -> list[dict[str, Any]]:
    """Heads of costs, of which the table may be sorted by one."""
    return [column(COSTS[c][0], "descending" if COSTS[c][1] else "ascending", sorted=c == sorted) for c in costs]


def cost_table(
    heads: Sequence[dict[str, Any]],
    names: Callable[[Mapping[str, Any]], list[dict[str, Any]]],
    rows: Sequence[Mapping[str, Any]],
    costs: Sequence[str],
) -> dict[str, Any]:
    """What each row cost, the best by the first cost first, with bars for the parts of the largest.

    Args:
        heads, names: Heads of the columns that name a row, and its cells there.
        rows: Those that have costs.
        costs: Which ones; without any the table is empty.
    """
    if not costs:
        return {"head": [], "rows": []}
    largest = {name: max((as_float(row.get(name)) or 0.0 for row in rows), default=0.0) for name in costs}
    sign = -1 if COSTS[costs[0]][1] else 1
    body = []
    for row in sorted(rows, key=lambda row: sign * (as_float(row.get(costs[0])) or 0.0)):
        cells = names(row)
        for name in costs:
            found, value = cell(row.get(name), compact), as_float(row.get(name))
            found["part"] = None if value is None or largest[name] <= 0 else round(max(0.0, value) / largest[name], 3)
            cells.append(found)
        body.append({"cells": cells, "failed": False, "reason": ""})
    return {"head": [*heads, *cost_columns(costs, sorted=costs[0])], "rows": body}


def figure(png: bytes, caption: str = "", alt: str = "", *, name: str = "") -> dict[str, Any]:
    """A picture with its caption and alternative text, which a name stands in for."""
    caption = caption or name.replace("_", " ")
    width, height = struct.unpack(">II", png[16:24]) if png[:8] == b"\x89PNG\r\n\x1a\n" else (0, 0)
    return {
        "caption": caption,
        "alt": alt or f"Plot: {caption}",
        "width": round(width / _PIXELS),
        "height": round(height / _PIXELS),
        "wide": width > 820 * _PIXELS,
        "source": f"data:image/png;base64,{base64.b64encode(png).decode()}",
    }
