"""The HTML report: one page that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from attriflow.types import Attribution
from attriflow.views.common import as_float, as_text, compact, number
from attriflow.views.evaluations.boards import BOARD_COSTS, COSTS, cell, column, cost_columns, cost_table, figure
from attriflow.views.evaluations.cards import card
from attriflow.views.evaluations.certainty import certainty
from attriflow.views.evaluations.evaluated import evaluated
from attriflow.views.evaluations.leaderboard import RANK, arrow, best, metric_names, records
from attriflow.views.evaluations.multiverse import stability_table
from attriflow.views.page import EXPLORER, render
from attriflow.views.payload import payload

if TYPE_CHECKING:
    import pandas as pd

BUDGET = 1_500_000  # bytes for the scores of the examples
_SECTIONS = {
    "leaderboard": "Leaderboard",
    "certainty": "Certainty",
    "choices": "Choices",
    "methods": "Methods on one example",
    "steps": "Step scores",
    "throughput": "Throughput",
    "cards": "Method cards",
    "settings": "Settings",
}
# Where a plot is shown, when not below the leaderboard.
_HOMES = {
    "step_scores": "steps",
    "quality_cost": "throughput",
    "metric_correlations": "certainty",
    "multiverse": "choices",
}

# Settings that open the page, under these names.
_HEADLINE = {
    "model": "Model",
    "data": "Data",
    "dataset": "Data",
    "n_examples": "Examples",
    "attributed_fn": "Attributed function",
    "target_spans": "Target spans",
    "target_spans.pattern": "Target spans",
    "device": "Device",
    "dtype": "Precision",
    "seed": "Seed",
}
# Caption and alternative text; the numbers themselves are in the tables of the page.
_FIGURES = {
    "metric_heatmap": (
        "Mean score per method and metric; the stronger the colour, the better within the metric.",
        "Heat map of methods by metrics with the means that are also in the leaderboard table.",
    ),
    "metric_distributions": (
        "How the scores of single examples spread.",
        "Box plots with one panel per metric and one box per method, over the means of the examples.",
    ),
    "removal_curves": (
        "The target's probability while tokens go or come in a method's order, and as many random tokens (dashed).",
        "Line plots, one panel per metric: mean over the examples by share of the tokens, the best methods in colour.",
    ),
    "quality_cost": (
        "What a method's quality costs; no method beats those on the dashed line in both.",
        "Scatter plot of a metric against the forward-pass equivalents of each method, with the Pareto front.",
    ),
    "agreement": (
        "How far methods agree on the order of the tokens (rank correlation of magnitudes), alike ones side by side.",
        "Heat map of methods by methods with the rank correlation of each pair, ordered by a tree of similarity.",
    ),
    "multiverse": (
        "How often a method stands before another over all choices tried (bold: whatever is chosen), and its places.",
        "Heat map of methods by methods with percentages, and beside it a range of places for each method.",
    ),
    "metric_correlations": (
        "Which metrics order the methods alike: correlation of their places within examples, alike ones side by side.",
        "Heat map of metrics by metrics with the correlation of each pair, ordered by a tree of similarity.",
    ),
    "step_scores": (
        "What the model's own scores do along the generated sequence.",
        "Line plots with one panel per step function: mean over the examples by step, and their spread as a band.",
    ),
}


def report_html(
    *,
    title: str,
    leaderboard: pd.DataFrame,
    directions: Mapping[str, bool],
    scores: pd.DataFrame,
    step_scores: pd.DataFrame,
    summary: pd.DataFrame,
    comparisons: pd.DataFrame,
    attributions: Mapping[str, Sequence[Attribution]],
    rationales: Sequence[Tensor | None] | None = None,
    settings: Mapping[str, Any],
    figures: Mapping[str, bytes],
    cards: Sequence[Mapping[str, Any]] = (),
    choices: tuple[str, pd.DataFrame] | None = None,
    max_examples: int = 5,
) -> str:
    """One self-contained page whose tabs are the sections: leaderboard, certainty, methods on one example and so on.

    The page forbids itself every network access (content security policy) and escapes all text.

    Args:
        title: Heading of the page.
        leaderboard: One row per method: method, family, status, reason, rank, one column per metric, costs.
        directions: Metric -> whether higher is better.
        scores: Tidy table with the columns example, step, token, method, metric, value, skipped.
        step_scores: Tidy table with the columns example, step, token, step_function, value, unit.
        summary: Means with intervals, see `certainty`.
        comparisons: Tests of all pairs of methods, see `certainty`.
        attributions: Method -> one attribution per example.
        rationales: Per example the evidence, bool `[step, input]`, or None.
        settings: What was run with what; nested mappings become dotted names.
        figures: Name -> PNG bytes.
        cards: See `attriflow.evaluation.cards`.
        choices: What a multiverse says, in words and as its table of stability.
        max_examples: Most examples with token heat maps.
    """
    rows = records(leaderboard)
    shown, total = evaluated(rows, attributions, rationales, scores, step_scores, max_examples)
    examples, notes = payload(shown, BUDGET)
    if len(shown) < total:
        notes.insert(0, f"The first {len(shown)} of {total} examples can be chosen.")
    flat = list(_flat(settings))
    return render(
        "report.html.j2",
        title=title,
        scripts=(*EXPLORER, "report"),
        styles=("explorer", "report"),
        sections=[(key, name) for key, name in _SECTIONS.items() if key != "choices" or choices is not None],
        choices=None if choices is None else {"verdict": choices[0], "rows": stability_table(choices[1])},
        headline=_headline(flat, rows),
        summary=_summary(rows),
        leaderboard=_leaderboard(rows, metric_names(leaderboard, directions), directions),
        certainty=certainty(summary, comparisons, directions),
        throughput=_throughput(rows),
        skipped=_skipped(scores),
        figures={
            section: [
                figure(png, *_FIGURES.get(name, ("", "")), name=name)
                for name, png in figures.items()
                if _HOMES.get(name, "leaderboard") == section
            ]
            for section in ("leaderboard", "certainty", "choices", "steps", "throughput")
        },
        examples=examples,
        notes=notes,
        cards=[card(one) for one in cards],
        settings=flat,
    )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        elif isinstance(value, (list, tuple, set, frozenset)):
            yield name, ", ".join(map(str, value))
        else:
            yield name, as_text(value)


def _headline(settings: Sequence[tuple[str, str]], rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    known = dict(settings)
    counts = {compact(row["n_examples"]) for row in rows if as_float(row.get("n_examples")) is not None}
    if len(counts) == 1:
        known.setdefault("n_examples", counts.pop())
    return [(label, known[key]) for key, label in _HEADLINE.items() if known.get(key)]


def _summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """The result in one or two sentences."""
    done = [row for row in rows if not row["failed"]]
    failed = len(rows) - len(done)
    if not done:
        return f"All {failed} methods failed." if failed else "No methods were evaluated."
    ranked = [row for row in done if as_float(row.get("rank")) is not None]
    text = f"{len(done)} method{'s' * (len(done) != 1)} evaluated"
    if len(ranked) > 1:
        first = [row for row in ranked if as_float(row["rank"]) == as_float(ranked[0]["rank"])]
        *others, last = [as_text(row["method"]) for row in first]
        names = f"{', '.join(others)} and {last}" if others else last
        text += f"; best mean rank: {names} ({compact(first[0]['rank'])})"
    return f"{text}; {failed} failed." if failed else f"{text}."


def _leaderboard(
    rows: Sequence[Mapping[str, Any]], metrics: Sequence[str], directions: Mapping[str, bool]
) -> dict[str, Any]:
    """Head and cells of the leaderboard; each cell with the value it sorts by."""
    head = [
        column("rank", "ascending", "mean over families of metrics of the mean rank, 1 is best", sorted=True),
        column("method", kind="name"),
        column("family", kind="text"),
    ]
    ranks = [key for key in (rows[0] if rows else {}) if key.startswith(RANK)]
    head += [column(f"{key}", "ascending", "mean rank over the metrics of the family") for key in ranks]
    gained = _known(rows, "places_gained")
    if gained:
        hint = "mean place on other faithfulness metrics less that on metrics that replace tokens as the method does"
        head.append(column("places gained by its own perturbation", "descending", hint))
    for name in metrics:
        higher = directions[name]
        hint = f"{'higher' if higher else 'lower'} is better"
        head.append(column(f"{name}\u00a0{arrow(higher)}", "descending" if higher else "ascending", hint))
    costs = [key for key in BOARD_COSTS if _known(rows, key)]
    head += cost_columns(costs)
    done = [row for row in rows if not row["failed"]]
    bests = {name: best([row[name] for row in done], directions[name]) for name in metrics}
    body = []
    for row in rows:
        cells = [cell(row.get("rank"), compact), *_names(row)]
        if not row["failed"]:
            cells += [cell(row.get(key), compact) for key in ranks]
            if gained:
                cells.append(cell(row.get("places_gained"), compact))
            for name in metrics:
                n = as_float(row.get(f"{name}_n"))
                few = n is not None and 0 < n < (as_float(row.get("n_examples")) or 0)
                found = cell(row[name], number, f"n={n:g}" if few else "")
                found["best"] = bests[name] is not None and as_float(row[name]) == bests[name]
                cells.append(found)
            cells += [cell(row.get(key), compact) for key in costs]
        body.append(
            {"cells": cells, "failed": row["failed"], "reason": as_text(row.get("reason")) or "no reason given"}
        )
    return {"head": head, "rows": body}


def _names(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"kind": "name", "text": as_text(row.get("name") or row.get("method")), "note": row["unranked"]},
        {"kind": "text", "text": as_text(row.get("family"))},
    ]


def _throughput(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What each method cost."""
    costs = [key for key in COSTS if _known(rows, key)]
    done = [row for row in rows if not row["failed"]]
    if len({as_float(row.get("n_examples")) for row in done}) == 1:
        costs = [key for key in costs if key != "n_examples"]  # the same for all: a fact about the run
    return cost_table([column("method", kind="name"), column("family", kind="text")], _names, done, costs)


def _known(rows: Sequence[Mapping[str, Any]], key: str) -> bool:
    return any(as_float(row.get(key)) is not None for row in rows)


def _skipped(scores: pd.DataFrame) -> list[tuple[str, str, str, int]]:
    """Method, metric, reason and how many tokens have no value because of it."""
    if not len(scores) or "skipped" not in scores:
        return []
    part = scores[scores["skipped"].map(lambda value: bool(as_text(value)))]
    counts = part.groupby(["metric", "skipped", "method"], sort=False).size()
    grouped: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for (metric, reason, method), count in counts.items():
        grouped.setdefault((as_text(metric), as_text(reason)), []).append((as_text(method), int(count)))
    lines = []
    for (metric, reason), found in grouped.items():
        same = len({count for _, count in found}) == 1 and len(found) > 1
        parts = [(f"{len(found)} methods, each", found[0][1])] if same else found
        lines += [(metric, reason, method, count) for method, count in parts]
    return lines[:60]
