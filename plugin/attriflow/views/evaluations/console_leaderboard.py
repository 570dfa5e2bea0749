"""Leaderboards in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from attriflow.views.common import as_float, as_text, compact, number, printable
from attriflow.views.evaluations.leaderboard import RANK, WIDEST, arrow, best, metric_names, records

if TYPE_CHECKING:
    import pandas as pd


def leaderboard_table(df: pd.DataFrame, directions: Mapping[str, bool], title: str = "Attribution methods") -> Table:
    """A leaderboard as a table for the terminal: best value per metric bold, failed methods dim with their reason.

    Of more than `WIDEST` metrics, the ranks by family are shown instead.

    Args:
        df: Leaderboard with the columns `method`, `status`, `reason`, `rank`, one per metric, and costs; and
            `wins`, `ties` and `losses` where there were tests.
        directions: Metric -> whether higher is better.
        title: Title above the table.
    """
    rows = records(df)
    metrics = metric_names(df, directions)
    table = Table(title=Text(printable(title), style="bold"), box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    table.title_justify = "left"
    table.add_column("rank", justify="right", vertical="bottom", no_wrap=True)
    table.add_column(
        "method", min_width=min(36, max((len(row["name"]) for row in rows), default=12)), vertical="bottom"
    )
    tested = {"wins", "ties", "losses"} <= set(df.columns)
    if tested:
        table.add_column("wins–\nties–\nlosses", justify="right", vertical="bottom", no_wrap=True)
    by_family = [c for c in df.columns if c.startswith(RANK)] if len(metrics) > WIDEST else []
    notes = []
    if by_family:
        notes.append(Text(f"ranks by family of {len(metrics)} metrics; their values are in the other outputs"))
        metrics = []
    for name in by_family:
        table.add_column(
            Text(printable(name.removeprefix(RANK).removesuffix(")"))), justify="right", vertical="bottom", no_wrap=True
        )
    for name in metrics:
        # Rich breaks lines at spaces only; metric names are long and have none.
        lines = [part for part in name.split("_") if part]
        head = "_\n".join(printable(part) for part in lines) + f" {arrow(directions[name])}"
        table.add_column(Text(head), justify="right", vertical="bottom", no_wrap=True)
    costs = {
        "forward_equivalents": "forward\nequiv.",
        "target_tokens_per_second": "tokens\n/ s",
        "peak_memory_mb": "peak\nMB",
    }
    costs = {key: head for key, head in costs.items() if key in df.columns}
    for head in costs.values():
        table.add_column(head, justify="right", vertical="bottom", no_wrap=True)
    bests = {name: best([row[name] for row in rows if not row["failed"]], directions[name]) for name in metrics}
    for row in rows:
        method = printable(row["name"])
        cells = [Text(compact(row.get("rank")) if not row["failed"] else "✗"), Text(method)]
        if tested:
            cells.append(Text("" if row["failed"] else "–".join(compact(row[k]) for k in ("wins", "ties", "losses"))))
        cells += [Text(compact(row.get(name))) for name in by_family]
        for name in metrics:
            top = bests[name] is not None and as_float(row[name]) == bests[name] and not row["failed"]
            cells.append(Text(number(row[name]), style="bold green" if top else ""))
        cells += [Text(compact(row[key])) for key in costs]
        table.add_row(*cells, style="dim" if row["failed"] else "")
        if row["failed"]:
            notes.append(Text(f"✗ {method}: {_reason(row)}"))
        elif row["unranked"]:
            notes.append(Text(f"– {method}: {printable(row['unranked'])}"))
    if notes:
        table.caption, table.caption_justify, table.caption_style = Text("\n").join(notes), "left", "dim"
    return table


def _reason(row: Mapping[str, Any]) -> str:
    """The first line of why a method failed."""
    lines = printable(as_text(row.get("reason"))).strip().splitlines()
    return lines[0] if lines else "failed"
