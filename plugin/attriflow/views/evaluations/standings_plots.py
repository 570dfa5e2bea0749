"""Plots of leaderboards over many evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from attriflow.statistics.standings import LEVEL, Standings
from attriflow.views.common import printable, shorten
from attriflow.views.evaluations.leaderboard import arrow
from attriflow.views.figures import BLUE, GREY, ORANGE, PANEL_TITLE, blank, message, note_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LINE = 0.27  # inches per label


def critical_differences(board: Standings, metrics: Sequence[str], group: str = "") -> Figure:
    """Mean places with bars over rows between which no difference was found (Demšar 2006).

    The bars come from the same paired permutation tests with Holm's correction as wins and losses, not from differences
    of mean ranks, which depend on who else is in the table (Benavoli, Corani and Mangili 2016).

    Args:
        board: The leaderboard.
        metrics: One panel each.
        group: The group of rows.
    """
    panels = [(metric, found) for metric in metrics if len(found := mean_places(board, metric, group)) > 1]
    if not panels:
        return message("There are no two rows to compare.")
    bars = {metric: cliques(board, metric, group, list(found)) for metric, found in panels}
    heights = [0.85 + _LINE * ((len(found) + 1) // 2) + 0.12 * len(bars[metric]) for metric, found in panels]
    figure = blank(8.4, sum(heights) + 0.45)
    layout = figure.get_layout_engine()
    if layout is not None:
        layout.set(h_pad=0.08)  # type: ignore[call-arg]
    grid = figure.subplots(len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": heights})
    for axes, height, (metric, found) in zip(grid[:, 0], heights, panels, strict=True):
        _panel(axes, height, found, bars[metric])
        axes.set_title(f"{printable(metric)} {arrow(board.higher_is_better[metric])}", **PANEL_TITLE)
    found_by = f"paired permutation tests, Holm, {LEVEL:.0%}"
    note = f"mean place on single examples, best on the right; bars: no difference found ({found_by})"
    note_of(figure, note)
    return figure


def mean_places(board: Standings, metric: str, group: str) -> dict[str, float]:
    """Row -> mean place on single examples, best first."""
    part = board.rows[board.rows["group"] == group]
    known = part[part[f"{metric}_place"].notna()].sort_values(f"{metric}_place", kind="stable")
    return {str(row): float(place) for row, place in zip(known["row"], known[f"{metric}_place"], strict=True)}


def cliques(board: Standings, metric: str, group: str, order: Sequence[str]) -> list[tuple[int, int]]:
    """First and last index of the longest runs of rows, in order, none of whose pairs differ."""
    pairs = board.pairs[(board.pairs["group"] == group) & (board.pairs["metric"] == metric)]
    index = {row: i for i, row in enumerate(order)}
    same = np.zeros((len(order), len(order)), dtype=bool)
    for a, b, winner in zip(pairs["a"], pairs["b"], pairs["winner"], strict=True):
        if a in index and b in index:
            same[index[a], index[b]] = same[index[b], index[a]] = winner == ""
    found: list[tuple[int, int]] = []
    for first in range(len(order)):
        last = first
        while last + 1 < len(order) and same[first : last + 1, last + 1].all():
            last += 1
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found


def _panel(axes: Axes, height: float, places: Mapping[str, float], bars: Sequence[tuple[int, int]]) -> None:
    names, values = list(places), np.array(list(places.values()))
    low, high = np.floor(values.min()), np.ceil(values.max())
    if low == high:
        high += 1
    # best on the right; labels of the better half hang on the right side, the others on the left
    axes.set_xlim(high + 0.04 * (high - low), low - 0.04 * (high - low))
    inch = 1 / height
    axes.set_ylim(0, 1)
    top = 1 - 0.28 * inch
    axes.spines[["left", "right", "bottom"]].set_visible(False)
    axes.xaxis.tick_top()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
    axes.tick_params(labelsize=10, color="#888888", pad=1)
    axes.set_yticks([])
    below = top - 0.12 * inch * (len(bars) + 0.6)
    half = (len(names) + 1) // 2
    for i, (name, value) in enumerate(zip(names, values, strict=True)):
        right = i < half
        slot = i if right else len(names) - 1 - i
        y = below - _LINE * inch * (slot + 0.5)
        edge = 1.01 if right else -0.01
        color = GREY if name == "random" else BLUE
        axes.plot([value, value], [1, y], color=color, linewidth=1.1, zorder=1)
        axes.annotate(
            f"{shorten(printable(name), 44)}  {value:.2f}" if right else f"{value:.2f}  {shorten(printable(name), 44)}",
            xy=(value, y), xycoords="data", xytext=(edge, y), textcoords=("axes fraction", "data"),
            ha="left" if right else "right", va="center", fontsize=10, parse_math=False,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 1.1, "shrinkA": 2, "shrinkB": 0},
        )  # fmt: skip
    axes.plot(values, np.ones(len(values)), "o", color=BLUE, markersize=4, clip_on=False, zorder=3)
    for level, (first, last) in enumerate(bars):
        y = top - 0.12 * inch * level
        ends = [values[first], values[last]]
        pad = 0.004 * (high - low)
        axes.plot([ends[0] - pad, ends[1] + pad], [y, y], color=ORANGE, linewidth=3.5, solid_capstyle="round", zorder=2)
