"""Curves of the target's probability while tokens go or come, beside those of as many random tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from attriflow.evaluation.chance import RANDOM_TOKENS
from attriflow.views.common import printable
from attriflow.views.evaluations.leaderboard import arrow
from attriflow.views.figures import PANEL_TITLE, clean, message, note_of, panels_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = ("#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
"""Of the best methods; the others are grey."""
GRID = np.linspace(0, 1, 41)


def mean_curves(curves: pd.DataFrame) -> dict[str, dict[str, np.ndarray]]:
    """Metric -> method -> y at `GRID`: straight lines between points, means over steps, then over examples."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for (metric, method), part in curves.groupby(["metric", "method"], sort=False):
        step = part.groupby(["example", "step"], sort=False, dropna=False).ngroup().to_numpy()
        order = np.argsort(step, kind="stable")
        begins = np.flatnonzero(np.diff(step[order], prepend=-1))
        xs, ys = (np.split(part[axis].to_numpy(float)[order], begins[1:]) for axis in ("x", "y"))
        lines = np.stack([np.interp(GRID, x, y) for x, y in zip(xs, ys, strict=True)])  # [step of an example, point]
        example = part["example"].factorize()[0][order][begins]
        sums = np.zeros((example.max() + 1, len(GRID)))
        np.add.at(sums, example, lines)
        found.setdefault(str(metric), {})[str(method)] = (sums / np.bincount(example)[:, None]).mean(0)
    return found


def best_methods(found: Mapping[str, Mapping[str, np.ndarray]], directions: Mapping[str, bool]) -> list[str]:
    """Methods by their mean place over the metrics, by the areas under the curves."""
    areas = pd.DataFrame({m: {k: y.mean() for k, y in lines.items()} for m, lines in found.items() if m in directions})
    areas = areas.drop(index=RANDOM_TOKENS, errors="ignore")
    signed = areas * [-1.0 if directions[m] else 1.0 for m in areas.columns]
    return [str(method) for method in signed.rank().mean(axis=1).sort_values(kind="stable").index]


def removal_curves(curves: pd.DataFrame, directions: Mapping[str, bool]) -> Figure:
    """One panel per metric with a curve: the best methods in colour, the others grey, random tokens dashed.

    Args:
        curves: Tidy table with the columns example, step, method, metric, x and y.
        directions: Metric -> whether higher is better.
    """
    found = mean_curves(curves)
    if not found:
        return message("No metric has a curve.")
    order = best_methods(found, directions)
    color = dict(zip(order, COLORS, strict=False))
    figure, panels = panels_of(len(found), 4.2, 3.2, columns=3)
    for axes, (name, lines) in zip(panels, found.items(), strict=True):
        for method in reversed(order):  # the best on top
            if method in lines:
                label, width = (printable(method), 2.0) if method in color else (None, 0.9)
                axes.plot(GRID, lines[method], label=label, color=color.get(method, "#BBBBBB"), linewidth=width)
        if RANDOM_TOKENS in lines:
            axes.plot(GRID, lines[RANDOM_TOKENS], color="#222222", linestyle="--", linewidth=1.8, label=RANDOM_TOKENS)
        clean(axes)
        heading = f"{printable(name)} {arrow(directions[name])}" if name in directions else printable(name)
        axes.set_title(heading, **PANEL_TITLE)
        axes.set_xlabel("share of the tokens", fontsize=10)
        axes.set_ylabel("difference" if name == "morf_lerf" else "probability", fontsize=10)
    handles = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    names = [n for n in (*map(printable, order), RANDOM_TOKENS) if n in handles]
    figure.legend([handles[n] for n in names], names, loc="outside lower center", ncols=3, frameon=False, fontsize=10)
    more = len(order) - len(color)
    others = f"; {more} other methods in grey" if more > 0 else ""
    what = "mean over examples; area under the curve: ↑ higher is better, ↓ lower is better"
    note_of(figure, what + others, above=True)
    return figure
