"""A leaderboard over many evaluations as a page, as text tables and as data."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd

from attriflow.statistics.standings import Standings
from attriflow.views.common import as_float, as_text, compact, number, rows_of
from attriflow.views.evaluations.boards import BOARD_COSTS, COSTS, cell, column, cost_columns, cost_table, figure
from attriflow.views.evaluations.leaderboard import arrow, best, unranked
from attriflow.views.page import FRAME, render

Row = Mapping[str, Any]
WHAT = {"method": "Attribution methods", "model": "Models", "both": "Attribution methods per model"}
_SECTIONS = {
    "leaderboard": "Leaderboard",
    "comparisons": "Comparisons",
    "costs": "Costs",
    "failures": "Failures",
    "runs": "Runs",
}
_CAPTIONS = {
    "metric_heatmap": "Mean score per row and metric; the stronger the colour, the better within the metric.",
    "critical_differences": "Mean places on single examples. Between rows that share a bar, no difference was found.",
    "quality_cost": "What a good rank costs; no row beats those on the dashed line in both.",
}


def flat(board: Standings) -> pd.DataFrame:
    """The rows as they are exported: without what only the statistics need."""
    frame = board.rows.drop(columns=["group", "row"])
    optional = ("gates_failed", "same_as", "scored_by_own")
    frame = frame.drop(columns=[c for c in optional if c in frame and not frame[c].fillna("").any()])
    return frame[[c for c in frame.columns if not frame[c].isna().all() or c in ("rank", *board.metrics)]]


def plotted(board: Standings, group: str | None = None) -> pd.DataFrame:
    """The rows as the plots of an evaluation take them: `method` is the label."""
    rows = board.rows if group is None else board.rows[board.rows["group"] == group]
    named = rows["row"] if group is not None else rows["label"]
    names = dict(zip(zip(rows["group"], rows["row"], strict=True), named, strict=True))
    same = [names.get(key, "") for key in zip(rows["group"], rows["same_as"], strict=True)]
    return rows.assign(method=named, same_as=same)


def shared(board: Standings) -> list[dict[str, Any]]:
    """The rows, those that share a place as one: `row` and `label` name all of them."""
    rows = rows_of(board.rows)
    others: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        others.setdefault((row["group"], row["same_as"]), []).append(as_text(row["row"]))
    out = []
    for row in (r for r in rows if not r["same_as"]):
        names = others.get((row["group"], row["row"]), [])
        out.append(row | {key: " = ".join((as_text(row[key]), *names)) for key in ("row", "label")})
    return out


def as_json(board: Standings, runs: Sequence[Row] = ()) -> str:
    """Everything, as strict JSON."""
    frames = {"rows": flat(board), "pairs": board.pairs, "failures": board.failures, "families": board.by_family()}
    content = {
        "by": board.by,
        "metrics": {
            name: {"family": board.families[name], "higher_is_better": board.higher_is_better.get(name)}
            for name in board.metrics
        },
        **{name: [_plain(row) for row in rows_of(frame)] for name, frame in frames.items()},
        "notes": list(board.notes),
        "runs": [_plain(row) for row in runs],
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(row: Row) -> dict[str, Any]:
    out = {}
    for key, value in row.items():
        if hasattr(value, "item"):
            value = value.item()
        out[str(key)] = None if isinstance(value, float) and not math.isfinite(value) else value
    return out


def markdown(board: Standings) -> str:
    """A table for READMEs, issues and summaries of builds."""
    names = list(board.metrics)
    heads = ["", "rank", "wins–ties–losses", *(_head(n, board) for n in names), "forward equivalents"]
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    for row in shared(board):
        label = _escaped(as_text(row["label"]))
        if row["status"] == "failed":
            lines.append(f"| {label} | failed: {_escaped(as_text(row['reason']))} |" + " |" * (len(heads) - 2))
            continue
        scores = [_score(row, name) for name in names]
        rank = compact(row["rank"]) if row["status"] == "ok" else f"– ({_escaped(unranked(row))})"
        cells = [label, rank, record(row), *scores, compact(row["forward_equivalents"])]
        lines.append("| " + " | ".join(cells) + " |")
    notes = [f"- {_escaped(note)}" for note in (*legend(board), *board.notes)]
    return f"## {WHAT[board.by]}\n\n" + "\n".join(lines) + "\n\n" + "\n".join(notes) + "\n"


def legend(board: Standings) -> list[str]:
    """How to read the numbers."""
    return [
        "Means over examples, with 95% bootstrap intervals over examples; ↑ higher is better, ↓ lower is better.",
        "Rank: mean place over the metrics of a family, then over families; 1 is best. Who lacks values has none.",
        "Wins and losses: differences on the same examples that a permutation test finds at 5% after Holm's correction "
        "for all pairs, over all metrics.",
    ]


def record(row: Row) -> str:
    """Wins, ties and losses."""
    return f"{int(row['wins'])}–{int(row['ties'])}–{int(row['losses'])}"


def interval(row: Row, metric: str) -> str:
    """The interval of a metric; empty without one."""
    low, high = as_float(row[f"{metric}_low"]), as_float(row[f"{metric}_high"])
    return "" if low is None or high is None else f"[{number(low)}, {number(high)}]"


def _score(row: Row, metric: str) -> str:
    return f"{number(row[metric])} {interval(row, metric)}".strip()


def _head(metric: str, board: Standings) -> str:
    return f"{metric} {arrow(board.higher_is_better[metric])}" if metric in board.higher_is_better else metric


def _escaped(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


# -- the page ----------------------------------------------------------------------------------------------------------


def standings_html(
    board: Standings, *, title: str, figures: Mapping[str, bytes], runs: Sequence[Row] = (), facts: Row | None = None
) -> str:
    """One self-contained page: leaderboard, comparisons, costs, failures and the runs behind it, as tabs.

    Args:
        board: What was compared.
        title: Heading of the page.
        figures: Name -> PNG bytes; names may have a suffix after a colon, which is shown.
        runs: Where the numbers come from: name, run id, model, data, start, of each run.
        facts: What opens the page, by name.
    """
    rows = shared(board)
    homes = {"quality_cost": "costs", "critical_differences": "comparisons"}
    shown: dict[str, list[dict[str, Any]]] = {"leaderboard": [], "comparisons": [], "costs": []}
    for name, png in figures.items():
        kind, _, suffix = name.partition(": ")
        caption = _CAPTIONS.get(kind, kind.replace("_", " "))
        found = figure(png, f"{suffix}: {caption}" if suffix else caption, name=kind)
        shown[homes.get(kind, "leaderboard")].append(found)
    groups = list(dict.fromkeys(board.rows["group"]))
    return render(
        "standings.html.j2",
        title=title,
        scripts=(*FRAME, "report"),
        styles=("explorer", "report", "standings"),
        sections=list(_SECTIONS.items()),
        headline=[(key, as_text(value)) for key, value in (facts or {}).items() if as_text(value)],
        summary=_summary(rows),
        legend=legend(board),
        notes=board.notes,
        leaderboard=_leaderboard(board, rows),
        families=_families(board),
        matrices=[_matrix(board, group) for group in groups if (board.rows["group"] == group).sum() > 1],
        costs=_cost_table(board, rows_of(board.rows)),
        failures=[
            (as_text(f["row"]), as_text(f["model"]), as_text(f["metric"]) or "all metrics", as_text(f["reason"]))
            for f in rows_of(board.failures)
        ],
        runs=[[as_text(value) for value in row.values()] for row in runs],
        run_heads=list(runs[0]) if runs else [],
        figures=shown,
    )


def _summary(rows: Sequence[Row]) -> str:
    failed = sum(row["status"] == "failed" for row in rows)
    leaders = []
    for group in dict.fromkeys(row["group"] for row in rows):
        ranked = [r for r in rows if r["group"] == group and as_float(r["rank"]) is not None]
        if len(ranked) > 1:
            leaders.append(f"{as_text(ranked[0]['label'])} ({compact(ranked[0]['rank'])})")
    text = f"{len(rows)} row{'s' * (len(rows) != 1)}"
    if leaders:
        text += f"; best mean rank: {', '.join(leaders[:6])}{', ...' if len(leaders) > 6 else ''}"
    return f"{text}; {failed} failed." if failed else f"{text}."


def _names(board: Standings) -> list[dict[str, Any]]:
    """Heads of the columns that say what a row is."""
    heads = [column({"model": "model"}.get(board.by, "method"), kind="name")]
    if board.by == "both":
        heads.append(column("model", kind="text"))
    if board.by != "model":
        heads.append(column("family", kind="text"))
    return heads


def _name_cells(board: Standings, row: Row) -> list[dict[str, Any]]:
    cells = [{"kind": "name", "text": as_text(row["row"])}]
    if board.by == "both":
        cells.append({"kind": "text", "text": as_text(row["model"])})
    if board.by != "model":
        cells.append({"kind": "text", "text": as_text(row["family"])})
    return cells


def _leaderboard(board: Standings, rows: Sequence[Row]) -> dict[str, Any]:
    """Heads, groups of heads and cells; metrics of a family stand together."""
    ranks = [c for c in board.rows.columns if c.startswith("rank (")]
    costs = [c for c in BOARD_COSTS if board.rows[c].notna().any()]
    heads = [
        column("rank", "ascending", "mean place over the families of metrics, 1 is best", sorted=True),
        *_names(board),
    ]
    heads += [
        column(
            "wins – ties – losses", "descending", "significant wins, ties and losses over all metrics and opponents"
        ),
        column("Pareto", "descending", "nobody is both better and cheaper"),
    ]
    groups = [("", len(heads))]
    if ranks:
        heads += [column(name.removeprefix("rank (").removesuffix(")"), "ascending", "mean place") for name in ranks]
        groups.append(("rank by family of metrics", len(ranks)))
    gained = "places_gained" in board.rows and board.rows["places_gained"].notna().any()
    if gained:
        hint = "mean place on other faithfulness metrics less that on metrics that replace tokens as the method does"
        heads.append(column("places gained by its own perturbation", "descending", hint))
        groups.append(("", 1))
    for name in board.metrics:
        higher = board.higher_is_better.get(name)
        hint = "not ranked" if higher is None else f"{'higher' if higher else 'lower'} is better"
        label = _head(name, board).replace(" ", "\u00a0")
        heads.append(column(label, "ascending" if higher is False else "descending", hint))
    families = [board.families[name] for name in board.metrics]
    groups += [(family or "other", families.count(family)) for family in dict.fromkeys(families)]
    heads += cost_columns(costs)
    groups += [("cost", len(costs))] if costs else []
    tops = {
        (group, name): best(board.rows.loc[board.rows["group"] == group, name], board.higher_is_better[name])
        for group in dict.fromkeys(board.rows["group"])
        for name in board.higher_is_better
    }
    body = []
    for row in rows:
        failed = row["status"] == "failed"
        cells = [cell(row["rank"], compact, unranked(row)), *_name_cells(board, row)]
        if not failed:
            cells.append({**cell(row["wins"], compact), "text": record(row)})
            cells.append({**cell(float(row["pareto"]), compact), "text": "●" if row["pareto"] else ""})
            cells += [cell(row[name], compact) for name in ranks]
            if gained:
                cells.append(cell(row["places_gained"], compact, as_text(row["scored_by_own"])))
            for name in board.metrics:
                found, top = cell(row[name], number, interval(row, name)), tops.get((row["group"], name))
                found["best"] = top is not None and as_float(row[name]) == top
                cells.append(found)
            cells += [cell(row[c], compact) for c in costs]
        body.append({"cells": cells, "failed": failed, "reason": as_text(row["reason"]) or "no reason given"})
    return {"head": heads, "rows": body, "groups": groups}


def _families(board: Standings) -> dict[str, Any]:
    """Methods by family."""
    table = board.by_family()
    heads = [column("family", kind="name"), column("methods"), column("mean rank"), column("best method", kind="text")]
    heads.append(column("its rank"))
    if board.by == "both":
        heads.insert(1, column("model", kind="text"))
    models = dict(zip(board.rows["group"], board.rows["model"], strict=True))
    body = []
    for row in rows_of(table):
        cells: list[dict[str, Any]] = [
            {"kind": "name", "text": as_text(row["family"]) or "other"},
            cell(row["methods"], compact),
            cell(row["rank"], compact),
            {"kind": "text", "text": as_text(row["best"])},
            cell(row["best_rank"], compact),
        ]
        if board.by == "both":
            cells.insert(1, {"kind": "text", "text": as_text(models[row["group"]])})
        body.append({"cells": cells, "failed": False, "reason": ""})
    return {"head": heads, "rows": body}


def _matrix(board: Standings, group: str) -> dict[str, Any]:
    """Wins and losses of each row against each other row of its group, over the metrics."""
    part = board.rows[(board.rows["group"] == group) & (board.rows["status"] != "failed")]
    part = part[part["same_as"] == ""]
    pairs = board.pairs[board.pairs["group"] == group]
    names = [as_text(name) for name in part["row"]]
    if pairs.empty or len(names) < 2:
        return {"title": "", "names": [], "rows": []}
    won: dict[tuple[str, str], int] = {}
    tests: dict[frozenset[str], int] = {}
    for pair in rows_of(pairs):
        tests[frozenset((pair["a"], pair["b"]))] = tests.get(frozenset((pair["a"], pair["b"])), 0) + 1
        if pair["winner"]:
            key = (pair["winner"], pair["b"] if pair["winner"] == pair["a"] else pair["a"])
            won[key] = won.get(key, 0) + 1
    lines = []
    for name in names:
        cells = []
        for other in names:
            total = tests.get(frozenset((name, other)), 0)
            wins, losses = won.get((name, other), 0), won.get((other, name), 0)
            level = round(20 * (wins - losses) / total) if total else 0
            shade = "" if not total or name == other else f"p{level}" if level >= 0 else f"n{-level}"
            text = "" if name == other else f"{wins}–{total - wins - losses}–{losses}" if total else "–"
            cells.append((text, shade))
        lines.append((name, cells))
    title = as_text(part["model"].iloc[0]) if group else ""
    return {"title": title, "names": names, "rows": lines}


def _cost_table(board: Standings, rows: Sequence[Row]) -> dict[str, Any]:
    """What each row cost."""
    costs = [c for c in COSTS if c in board.rows and board.rows[c].notna().any()]
    return cost_table(_names(board), partial(_name_cells, board), [r for r in rows if r["status"] != "failed"], costs)
