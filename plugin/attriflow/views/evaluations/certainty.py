"""What the examples of an evaluation tell about its methods: intervals, wins and losses, and what is still open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attriflow.views.common import as_float, as_text, compact, number, rows_of
from attriflow.views.evaluations.boards import cell, column
from attriflow.views.evaluations.leaderboard import arrow

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]


def certainty(summary: pd.DataFrame, comparisons: pd.DataFrame, directions: Mapping[str, bool]) -> dict[str, Any]:
    """A sortable table with one row per metric and method.

    Args:
        summary: One row per method and metric: mean, low, high, n.
        comparisons: One row per metric and pair of methods: a, b, p_holm, examples_needed, n, better.
        directions: Metric -> whether higher is better.

    Returns:
        `head` and `rows` of a board; the rows by metric, best mean first.
    """
    head = [
        column("metric", kind="text"),
        column("method", kind="name"),
        column("mean", "descending"),
        column("95% interval", "descending", "bootstrap over examples; sorted by its lower end"),
        column("n", "descending", "examples with a value"),
        column(
            "better than", "descending", "methods that it beats after Holm's correction for all pairs of the metric"
        ),
        column("not told apart", "ascending", "methods from which these examples do not tell it"),
        column("worse than", "ascending"),
        column("p against random", "ascending", "paired permutation test, after Holm's correction"),
        column("examples missing", "ascending", "for the nearest undecided pair, if it differs as much as seen"),
    ]
    pairs = _by_method(comparisons)
    rows = []
    for name, higher in directions.items():
        found = rows_of(summary[summary["metric"] == name]) if len(summary) else []
        for row in sorted(found, key=lambda row: (as_float(row["mean"]) or 0.0) * (-1 if higher else 1)):
            method = as_text(row["method"])
            rows.append(_row(f"{name}\u00a0{arrow(higher)}", method, row, pairs.get((name, method), [])))
    return {"head": head if rows else [], "rows": rows}


def _row(metric: str, method: str, row: Row, pairs: list[Row]) -> dict[str, Any]:
    winners = [as_text(pair["better"]) for pair in pairs]
    open_pairs = [pair for pair, winner in zip(pairs, winners, strict=True) if not winner]
    missing = [
        needed - int(pair["n"])
        for pair in open_pairs
        if (needed := as_float(pair["examples_needed"])) is not None and needed > int(pair["n"])
    ]
    chance = [pair["p_holm"] for pair in pairs if "random" in (pair["a"], pair["b"]) and method != "random"]
    interval = cell(row["low"], number)
    interval["text"] = f"[{number(row['low'])}, {number(row['high'])}]"
    cells = [
        {"kind": "text", "text": metric},
        {"kind": "name", "text": method},
        cell(row["mean"], number),
        interval,
        cell(row["n"], compact),
        cell(winners.count(method), compact),
        cell(len(open_pairs), compact),
        cell(len(pairs) - winners.count(method) - len(open_pairs), compact),
        cell(chance[0] if chance else None, _p_value),
        cell(min(missing, default=None), compact),
    ]
    return {"cells": cells, "failed": False, "reason": ""}


def _p_value(value: Any) -> str:
    real = as_float(value)
    if real is None:
        return "–"
    return "< 0.001" if real < 0.001 else f"{real:.3f}"


def _by_method(comparisons: pd.DataFrame) -> dict[tuple[str, str], list[Row]]:
    """The pairs that each method takes part in, by metric and method."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows_of(comparisons):
        for method in (row["a"], row["b"]):
            found.setdefault((as_text(row["metric"]), as_text(method)), []).append(row)
    return found
