"""Plots of an evaluation: leaderboards, scores and costs, as matplotlib figures that no global state knows of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter

from attriflow.views.colors import hexadecimal, ink
from attriflow.views.common import as_float, as_text, number, printable
from attriflow.views.evaluations.leaderboard import arrow, best, goodness, metric_names, records
from attriflow.views.figures import (
    BLUE,
    GREY,
    NOTHING,
    ORANGE,
    PANEL_TITLE,
    SKY,
    TITLE,
    blank,
    breakable,
    clean,
    message,
    note_of,
    panels_of,
    rgb255,
)
from attriflow.views.labels import place_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def metric_heatmap(leaderboard: pd.DataFrame, directions: Mapping[str, bool]) -> Figure:
    """Methods x metrics: the mean as text, how good it is within its column as colour; failed methods are hatched.

    Args:
        leaderboard: One row per method.
        directions: Metric -> whether higher is better.
    """
    rows = records(leaderboard)
    done = [row for row in rows if not row["failed"]]
    names = [n for n in metric_names(leaderboard, directions) if any(as_float(row[n]) is not None for row in done)]
    if not names:
        return message("No metric has a value for any method.")
    values = [[None if row["failed"] else as_float(row[name]) for name in names] for row in rows]
    columns = [goodness([row[j] for row in values], directions[name]) for j, name in enumerate(names)]
    shade = np.array([[np.nan if c[i] is None else c[i] for c in columns] for i in range(len(rows))], dtype=float)
    texts = np.array([[number(v) if v is not None else "" for v in row] for row in values], dtype=object)
    scale = {"label": "within the metric", "ticks": [0, 1], "aspect": max(14, len(rows)), "pad": 0.02}
    row_height = 0.44 if len(rows) <= 12 else 0.31
    figure = blank(2.9 + 1.15 * len(names), 1.5 + row_height * len(rows))
    axes = figure.add_subplot()
    # Light enough at its best end for dark numbers.
    palette = sns.light_palette(SKY, as_cmap=True)
    sns.heatmap(
        shade, ax=axes, annot=texts, fmt="", cmap=palette, vmin=0, vmax=1, linewidths=1.5, linecolor="white",
        annot_kws={"fontsize": 11}, cbar_kws=scale,
    )  # fmt: skip
    bar = axes.collections[0].colorbar
    if bar is not None:
        bar.ax.set_yticklabels(["worst", "best"], fontsize=10)
        bar.ax.yaxis.labelpad = -14
    tops = [best([row[j] for row in values], directions[name]) for j, name in enumerate(names)]
    for text in axes.texts:
        j, i = (int(place) for place in text.get_position())
        text.set_color(hexadecimal(ink(rgb255(palette(shade[i, j])))))
        text.set_fontweight("bold" if values[i][j] == tops[j] else "normal")
    for i, row in enumerate(values):
        for j in range(len(names)):
            if row[j] is None:
                axes.add_patch(Rectangle((j, i), 1, 1, facecolor=NOTHING, edgecolor="white", linewidth=1.5))
                if rows[i]["failed"]:
                    axes.add_patch(Rectangle((j, i), 1, 1, fill=False, hatch="////", edgecolor="#B0B0B0", linewidth=0))
                else:
                    axes.text(j + 0.5, i + 0.5, "–", ha="center", va="center", color="#444444")
    for i, record in enumerate(rows):
        if record["failed"]:
            badge = {"facecolor": NOTHING, "edgecolor": "none", "pad": 2}
            axes.text(
                len(names) / 2, i + 0.5, "failed", ha="center", va="center", fontsize=11, color="#444444", bbox=badge
            )
    heads = [f"{breakable(name)} {arrow(directions[name])}" for name in names]
    axes.set_xticks(np.arange(len(names)) + 0.5, heads, rotation=0, fontsize=10, parse_math=False)
    methods = [printable(row["short"]) for row in rows]
    axes.set_yticks(np.arange(len(rows)) + 0.5, methods, rotation=0, fontsize=11, parse_math=False)
    axes.tick_params(length=0)
    axes.set_title("Mean scores (best in bold)", **TITLE)
    return figure


def metric_distributions(scores: pd.DataFrame, directions: Mapping[str, bool]) -> Figure:
    """One panel per metric: how the examples' means spread for each method, with the median of `random` as a line.

    Args:
        scores: Tidy table with the columns example, step, method, metric and value.
        directions: Metric -> whether higher is better.
    """
    if scores.empty:
        return message("No metric has a value for any example.")
    table = scores.assign(value=pd.to_numeric(scores["value"], errors="coerce")).dropna(subset=["value"])
    means = table.groupby(["method", "metric", "example"], sort=False, as_index=False)["value"].mean()
    names = [name for name in directions if name in set(means["metric"])]
    if not names:
        return message("No metric has a value for any example.")
    order = _by_goodness(means, directions, names)
    figure, panels = panels_of(len(names), 3.9, 1.0 + 0.38 * len(order), columns=3)
    for index, (axes, name) in enumerate(zip(panels, names, strict=True)):
        part = means[means["metric"] == name]
        for control, color in ((False, BLUE), (True, GREY)):  # one colour at a time: a hue per method is far slower
            some = part[(part["method"] == "random") == control]
            if some.empty:
                continue
            sns.boxplot(
                data=some, x="value", y="method", order=order, color=color, saturation=1, ax=axes,
                width=0.62, fliersize=0, linewidth=1.1, boxprops={"alpha": 0.35},
                medianprops={"color": "#222222", "linewidth": 1.8},
            )  # fmt: skip
            _strip(axes, some, order, color)
        chance = part.loc[part["method"] == "random", "value"]
        if len(chance):
            axes.axvline(float(chance.median()), color=ORANGE, linestyle="--", linewidth=1.4, zorder=0.9)
        clean(axes, "x")
        axes.set_title(f"{printable(name)} {arrow(directions[name])}", **PANEL_TITLE)
        axes.set(xlabel="", ylabel="")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        shown = [printable(method) for method in order] if index % 3 == 0 else []
        axes.set_yticks(range(len(order)), shown or [""] * len(order), fontsize=10, parse_math=False)
    note = "one dot per example; ↑ higher is better, ↓ lower is better"
    note_of(figure, note + ("; dashed: median of random" if "random" in order else ""))
    return figure


def _strip(axes: Axes, means: pd.DataFrame, order: Sequence[str], color: str) -> None:
    """The single values as dots, evenly apart; seaborn's strips draw from numpy's global random generator."""
    numbers = means.groupby("method", sort=False).cumcount().to_numpy() + 1
    apart = numbers * 0.6180339887 % 1 - 0.5
    places = means["method"].map({method: place for place, method in enumerate(order)}).to_numpy()
    axes.scatter(means["value"], places + 0.4 * apart, s=10, color=color, alpha=0.55, linewidths=0, zorder=3)


def _by_goodness(means: pd.DataFrame, directions: Mapping[str, bool], names: Sequence[str]) -> list[str]:
    """Methods from good to bad over all metrics, so that all panels share one order."""
    overall = means.groupby(["method", "metric"], sort=False)["value"].mean().unstack("metric")
    total: dict[str, list[float]] = {method: [] for method in overall.index}
    for name in names:
        for method, place in zip(overall.index, goodness(overall[name], directions[name]), strict=True):
            if place is not None:
                total[method].append(place)
    return sorted(total, key=lambda method: -sum(total[method]) / max(1, len(total[method])))


def quality_cost(leaderboard: pd.DataFrame, directions: Mapping[str, bool], quality: str = "aopc_compr") -> Figure:
    """A metric against the cost in forward-pass equivalents (log scale), with the Pareto front.

    Better is always up. When the table has no such metric, the first one that has values is taken.

    Args:
        leaderboard: One row per method, with a column `forward_equivalents`.
        directions: Metric -> whether higher is better.
        quality: The metric on the vertical axis.
    """
    rows = [
        row
        for row in records(leaderboard, alike=True)
        if not row["failed"] and as_float(row.get("forward_equivalents")) is not None
    ]
    present = [n for n in metric_names(leaderboard, directions) if any(as_float(row[n]) is not None for row in rows)]
    if not present:
        return message("No method has both a quality and a cost.")
    quality = quality if quality in present else present[0]
    higher = directions[quality]
    known = [row for row in rows if as_float(row[quality]) is not None]
    names = [printable(as_text(row["method"])) for row in known]
    costs = [max(0.0, float(row["forward_equivalents"])) for row in known]
    figure = blank(8, 5)
    axes = figure.add_subplot()
    clean(axes)
    x, y = _cost_axis(axes, costs), [float(row[quality]) for row in known]
    axes.margins(y=0.14)
    if not higher:
        axes.invert_yaxis()
    front = _front([(cost, value if higher else -value) for cost, value in zip(costs, y, strict=True)])
    axes.step(
        [x[i] for i in front] + [max(x) * 2], [y[i] for i in front] + [y[front[-1]]],
        where="post", color=ORANGE, linewidth=1.6, linestyle="--", label="Pareto front", zorder=1,
    )  # fmt: skip
    colors = [GREY if name == "random" else ORANGE if i in front else BLUE for i, name in enumerate(names)]
    axes.scatter(x, y, c=colors, s=64, edgecolors="white", linewidths=1, zorder=3)
    axes.set_xlabel("cost: forward-pass equivalents (log scale)", fontsize=11)
    axes.set_ylabel(f"{printable(quality)} ({'higher' if higher else 'lower'} is better)", fontsize=11)
    axes.set_title("Quality and cost", **TITLE)
    axes.legend(loc="lower right", frameon=False, fontsize=10)
    place_labels(figure, axes, x, y, names)
    return figure


def _cost_axis(axes: Axes, costs: Sequence[float]) -> list[float]:
    """Set up the cost axis and say where on it each method stands.

    A logarithmic axis has no 0: methods without passes stand on a tick of their own, left of all others.
    """
    paid = [cost for cost in costs if cost > 0] or [1.0]
    free = min(paid) / 4
    places = [cost or free for cost in costs]
    axes.set_xscale("log")
    axes.set_xlim(min(places) / 1.6, max(places) * 2.2)
    powers = range(math.floor(math.log10(min(paid))), math.ceil(math.log10(max(paid))) + 1)
    ticks: list[float] = []
    for digits in ((1,), (1, 2, 5), tuple(range(1, 10))):
        ticks = [digit * 10.0**power for power in powers for digit in digits]
        ticks = [tick for tick in ticks if 0.7 * min(paid) < tick < 2.2 * max(paid)]
        if len(ticks) > 1:
            break
    minor = [digit * 10.0**power for power in (powers[0] - 1, *powers) for digit in range(2, 10)]
    axes.xaxis.set_minor_locator(FixedLocator([tick for tick in minor if tick > free * 1.6]))
    axes.xaxis.set_minor_formatter(NullFormatter())
    heads = [f"{tick:g}" for tick in ticks]
    if min(costs) == 0:
        ticks, heads = [free, *ticks], ["0", *heads]
        axes.axvline(free * 1.6, color="#BBBBBB", linewidth=1, linestyle=":")
    axes.set_xticks(ticks, heads)
    return places


def _front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of (cost, quality) points that no other one beats, from cheap to expensive."""
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front


def step_scores(step_scores: pd.DataFrame) -> Figure:
    """One panel per step function: mean over examples by step, with the middle 80% of the examples as a band.

    Args:
        step_scores: Tidy table with the columns example, step, step_function, value and unit.
    """
    if step_scores.empty:
        return message("No step scores were computed.")
    table = step_scores.assign(value=pd.to_numeric(step_scores["value"], errors="coerce")).dropna(subset=["value"])
    names = list(dict.fromkeys(table["step_function"]))
    if not names:
        return message("No step scores were computed.")
    figure, panels = panels_of(len(names), 4.2, 2.9, columns=3)
    for axes, name in zip(panels, names, strict=True):
        part = table[table["step_function"] == name]
        sns.lineplot(
            data=part, x="step", y="value", ax=axes, errorbar=("pi", 80), color=BLUE, marker="o", markersize=6,
            linewidth=1.8, err_kws={"alpha": 0.2, "linewidth": 0},
        )  # fmt: skip
        clean(axes)
        units = [as_text(unit) for unit in dict.fromkeys(part.get("unit", pd.Series(dtype=object))) if as_text(unit)]
        unit = printable(units[0]) if units else ""
        axes.set_title(printable(name), **PANEL_TITLE)
        axes.set_ylabel(unit or "value", fontsize=10)
        axes.set_xlabel("step", fontsize=10)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        if part["step"].nunique() == 1:
            only = int(part["step"].iloc[0])
            axes.set_xlim(only - 1, only + 1)
    count = table["example"].nunique() if "example" in table else 0
    note = f"mean over {count} example{'s' * (count != 1)}; band: 10th to 90th percentile"
    note_of(figure, f"{note}; step 0 is the first that was explained")
    return figure
