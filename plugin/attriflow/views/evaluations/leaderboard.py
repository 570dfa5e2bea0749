"""Leaderboards as every view reads them: order of the rows, direction of the metrics, best values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attriflow.views.common import as_float, as_text, rows_of

if TYPE_CHECKING:
    import pandas as pd


WIDEST = 8
"""Metrics that fit into a terminal of 100 columns; of more, the ranks by family are printed."""
RANK = "rank ("
"""Opens the names of columns with ranks by family of metrics."""


def metric_names(table: pd.DataFrame, directions: Mapping[str, bool]) -> list[str]:
    """The metrics of `directions` that a table has a column for."""
    return [name for name in directions if name in table.columns]


def arrow(higher_is_better: bool) -> str:
    """Which way is better."""
    return "↑" if higher_is_better else "↓"


def records(leaderboard: pd.DataFrame, alike: bool = False) -> list[dict[str, Any]]:
    """Rows of a leaderboard, best rank first, then unranked, then failed ones, with what views add.

    `failed`; `unranked`: why a row with values has no rank, "" otherwise; `name`: the method, with those that explain
    alike; `short`: the same where there is little room.

    Args:
        leaderboard: The table.
        alike: Rows of their own for methods that explain as another does, whose costs differ.
    """
    rows = rows_of(leaderboard)
    twins: dict[str, list[str]] = {}
    for row in rows:
        twins.setdefault(as_text(row.get("same_as")), []).append(as_text(row.get("method")))
    rows = [row for row in rows if alike or not as_text(row.get("same_as"))]
    for row in rows:
        status, method = as_text(row.get("status")), as_text(row.get("method"))
        others = [] if alike else twins.get(method, [])
        row["failed"] = status == "failed"
        row["name"] = " = ".join((method, *others))
        row["short"] = f"{method} (+ {len(others)} alike)" if others else method
        row["unranked"] = unranked(row)

    def position(row: dict[str, Any]) -> tuple[bool, float]:
        rank = as_float(row.get("rank"))
        return row["failed"], math.inf if rank is None else rank

    return sorted(rows, key=position)


def unranked(row: Mapping[str, Any]) -> str:
    """Why a row that has values has no rank; empty for others."""
    status = as_text(row.get("status"))
    if status == "gated":
        return f"gate not passed: {as_text(row.get('gates_failed'))}"
    return f"partial: {as_text(row.get('reason'))}" if status == "partial" else ""


def goodness(values: Iterable[Any], higher_is_better: bool) -> list[float | None]:
    """Where each value lies between the worst (0) and the best (1) of its column; 0.5 when all are equal."""
    numbers = [as_float(value) for value in values]
    known = [value for value in numbers if value is not None]
    if not known:
        return numbers
    low, high = min(known), max(known)

    def place(value: float) -> float:
        share = (value - low) / (high - low) if high > low else 0.5
        return share if higher_is_better else 1 - share

    return [None if value is None else place(value) for value in numbers]


def best(values: Sequence[Any], higher_is_better: bool) -> float | None:
    """The best value of a column; None when there is nothing to compare."""
    known = [value for value in map(as_float, values) if value is not None]
    if len(known) < 2:
        return None
    return max(known) if higher_is_better else min(known)
