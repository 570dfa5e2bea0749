"""How far a ranking depends on choices: who beats whom in how many of them, and where each method may stand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import seaborn as sns

from attriflow.statistics.multiverse import OVERALL
from attriflow.views.colors import hexadecimal, ink
from attriflow.views.common import number, printable, rows_of
from attriflow.views.figures import BLUE, GREY, NOTE, NOTHING, ORANGE, TITLE, blank, clean, message, rgb255

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def multiverse(wins: pd.DataFrame, places: pd.DataFrame) -> Figure:
    """Methods x methods: in how many worlds the row's stands before the column's; beside it, all places of a method.

    Args:
        wins: From `attriflow.statistics.multiverse.wins`.
        places: From `spans`.
    """
    overall = places[places["family"] == OVERALL].set_index("method")
    matrix = wins.pivot(index="first", columns="second", values="share")
    mean = matrix.mean(axis=1)
    order = [m for m in mean.sort_values(ascending=False, kind="stable").index if not np.isnan(mean[m])]
    if len(order) < 2:
        return message("No two methods have values that could be compared.")
    matrix = matrix.loc[order, order]
    count, longest = len(order), max(len(printable(name)) for name in order)
    labels = 0.3 + 0.08 * longest  # inches
    cell = 0.44 if count <= 12 else 0.36
    figure = blank(labels + cell * count + 3.6, cell * count + labels + 1.1)
    layout = figure.get_layout_engine()
    if layout is not None:
        layout.set(h_pad=0.1, w_pad=0.08)  # type: ignore[call-arg]
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[cell * count, 2.6])
    _who_beats_whom(left, matrix, small=8 if count <= 12 else 7)
    _where(right, overall.reindex(order), count)
    figure.suptitle("Does the ranking depend on choices?", x=0.01, ha="left", fontsize=12, fontweight="bold")
    return figure


def _who_beats_whom(axes: Axes, matrix: pd.DataFrame, small: int) -> None:
    """Percentages, orange where the row's method loses; what no choice changes is bold."""
    palette = sns.diverging_palette(30, 245, s=90, l=55, as_cmap=True)
    sns.heatmap(matrix, ax=axes, cmap=palette, vmin=0, vmax=1, linewidths=1, linecolor="white", cbar=False)
    axes.set_facecolor(NOTHING)
    for (i, j), share in np.ndenumerate(matrix.to_numpy()):
        if not np.isnan(share):
            sure = share in (0, 1)
            text = f"{min(99, max(1, round(100 * share)))}" if not sure else f"{round(100 * share)}"
            axes.text(
                j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=small,
                fontweight="bold" if sure else "normal", color=hexadecimal(ink(rgb255(palette(share)))),
            )  # fmt: skip
    names = [printable(name) for name in matrix.index]
    middle = np.arange(len(names)) + 0.5
    axes.set_xticks(middle, names, rotation=90, fontsize=9, parse_math=False)
    axes.set_yticks(middle, names, rotation=0, fontsize=9, parse_math=False)
    axes.tick_params(length=0)
    axes.set(xlabel="", ylabel="")
    axes.set_title("% of choices in which\nthe row stands before the column", **{**TITLE, "fontsize": 10})


def _where(axes: Axes, places: pd.DataFrame, count: int) -> None:
    """Best and worst place of each method as a line, the one as set as a dot."""
    middle = np.arange(count) + 0.5
    axes.hlines(middle, places["best"], places["worst"], color=BLUE, linewidth=4, alpha=0.35)
    axes.scatter(places["as_set"], middle, s=34, color=ORANGE, zorder=3, clip_on=False)
    clean(axes, "x")
    axes.tick_params(axis="y", length=0, labelleft=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlim(0.5, count + 0.5)
    axes.set_title("place: as set (dot), best to worst", **{**TITLE, "fontsize": 10})
    axes.axvline(1, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_xlabel("1 is best", **NOTE)


def stability_table(stable: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows for a page: what worlds agree on, all of them and by choice; those with one world are left out."""
    return [
        {
            "family": row["family"],
            "choice": "all together" if row["choice"] == "all" else f"{row['choice']} alone",
            "kendall_w": number(row["kendall_w"], 2),
            "moved": number(row["moved"], 2),
            "worlds": str(row["worlds"]),
            "methods": str(row["methods"]),
        }
        for row in rows_of(stable)
        if row["worlds"] > 1
    ]
