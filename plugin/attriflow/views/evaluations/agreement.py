"""Which methods, and which metrics, say the same: heat maps with alike ones side by side."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot

from attriflow.errors import InputError, UnknownNameError, unknown
from attriflow.statistics.ranks import MEASURES
from attriflow.views.colors import hexadecimal, ink
from attriflow.views.common import printable
from attriflow.views.figures import NOTE, NOTHING, TITLE, check_picture, message, rgb255, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from seaborn.matrix import ClusterGrid

NARROWEST = 5.0
"""Inches that the longest title takes."""


def agreement_matrix(table: pd.DataFrame, measure: str = "spearman") -> pd.DataFrame:
    """Methods x methods, 1 on the diagonal, NaN where a pair has no value.

    Args:
        table: What `attriflow.statistics.agreement.agreement_table` or `agreement` returns.
        measure: One of `attriflow.statistics.ranks.MEASURES`.
    """
    if measure not in MEASURES:
        raise UnknownNameError(unknown("measure of agreement", measure, MEASURES))
    if "measure" in table:
        part = table[table["measure"] == measure]
        values = part["mean"]
    else:
        part, values = table, table[measure]
    names = list(dict.fromkeys([*part["first"], *part["second"]]))
    matrix = pd.DataFrame(np.eye(len(names)), index=names, columns=names)
    matrix = matrix.where(matrix == 1)
    for first, second, value in zip(part["first"], part["second"], values, strict=True):
        matrix.loc[first, second] = matrix.loc[second, first] = value
    return matrix


def agreement_heatmap(
    table: pd.DataFrame, measure: str = "spearman", *, path: str | Path | None = None, overwrite: bool = False
) -> ClusterGrid:
    """Draw how far methods agree; methods are ordered by average linkage on 1 - agreement.

    Args:
        table: What `attriflow.statistics.agreement.agreement_table` or `agreement` returns, of two methods or more.
        measure: One of `attriflow.statistics.ranks.MEASURES`.
        path: Also write the figure there (PNG, SVG, PDF).
        overwrite: Replace an existing file; otherwise that is an error.

    Returns:
        seaborn's grid; its `figure` is known to nobody else. Cells without a value are grey.

    Raises:
        InputError: There are fewer than two methods, or `path` cannot be written.
    """
    check_picture(path, overwrite)
    matrix = agreement_matrix(table, measure)
    if len(matrix) < 2:
        raise InputError("agreement needs two methods or more")
    n = int(table.loc[table["measure"] == measure, "n"].max()) if "n" in table else None
    grid = _clustered(
        matrix,
        f"Agreement between methods: {measure.replace('_', ' ')}",
        "" if n is None else f"means over {n} example{'s' * (n != 1)}",
        negative=measure in ("spearman", "kendall"),
    )
    if path is not None:
        save_figure(grid.figure, path, overwrite=overwrite)
    return grid


def correlation_heatmap(redundancy: pd.DataFrame) -> Figure:
    """Draw which metrics order methods alike; the note says how many independent ones would hold as much.

    Args:
        redundancy: From `attriflow.statistics.ranking.redundancy`. Metrics that order nothing are left out, and named.
    """
    names = list(dict.fromkeys([*redundancy["first"], *redundancy["second"]]))
    matrix = pd.DataFrame(np.eye(len(names)), index=names, columns=names).replace(0.0, np.nan)
    for first, second, value in zip(redundancy["first"], redundancy["second"], redundancy["correlation"], strict=True):
        matrix.loc[first, second] = matrix.loc[second, first] = value
    silent = [name for name in names if matrix[name].drop(name).isna().all()]
    kept = [name for name in names if name not in silent]
    if len(kept) < 2:
        return message("No two metrics order the methods.")
    text = f"{redundancy['effective_number'].iloc[0]:.1f} independent metrics would hold as much as these {len(kept)}"
    more = f"\nno order: {', '.join(silent[:6])}{', ...' * (len(silent) > 6)}" if silent else ""
    return _clustered(matrix.loc[kept, kept], "Correlation of metrics", text + more, negative=True).figure


def _clustered(matrix: pd.DataFrame, text: str, note: str, *, negative: bool) -> ClusterGrid:
    """Likenesses (1 is most) with numbers, ordered by average linkage; `negative`: from -1 on, else from 0 on."""
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    count = len(matrix)
    # without a value two are taken to be unrelated
    distances = 1 - np.clip(matrix.fillna(0.0).to_numpy(), -1, 1)
    tree = linkage(squareform(distances, checks=False), "average", optimal_ordering=True)
    labels = 0.3 + 0.078 * max(len(printable(str(name))) for name in matrix.index)  # inches
    size = max(1.6 + 0.38 * count + labels, NARROWEST)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Attempting to set identical", UserWarning)  # a tree of no height
        grid = sns.clustermap(
            matrix, mask=matrix.isna(), row_linkage=tree, col_linkage=tree, figsize=(size, size),
            cmap="vlag" if negative else sns.light_palette("#56B4E9", as_cmap=True), vmin=-1 if negative else 0, vmax=1,
            linewidths=1, linecolor="white", dendrogram_ratio=0.1, cbar_pos=None, xticklabels=False, yticklabels=False,
        )  # fmt: skip
    # before pyplot forgets the figure: only those it knows are updated
    foot = 0.25 + 0.17 * note.count("\n")
    grid.gs.update(left=0.02, right=1 - labels / size, bottom=(labels + foot) / size, top=1 - 0.35 / size)
    pyplot.close(grid.figure)
    _annotate(grid, matrix)
    grid.ax_heatmap.set_facecolor(NOTHING)
    title = {key: value for key, value in TITLE.items() if key != "loc"}
    grid.figure.text(0.02, 1 - 0.08 / size, text, va="top", **title)
    if note:
        grid.figure.text(0.01, 0.005, note, parse_math=False, **NOTE)
    return grid


def _annotate(grid: ClusterGrid, matrix: pd.DataFrame) -> None:
    """Names and numbers, in the order of the tree."""
    axes, order = grid.ax_heatmap, grid.dendrogram_row.reordered_ind
    mesh = axes.collections[0]
    shown = matrix.to_numpy()[np.ix_(order, order)]
    names = [printable(str(matrix.index[i])) for i in order]
    small = 8 if len(names) <= 12 else 6
    for (i, j), value in np.ndenumerate(shown):
        if not np.isnan(value):
            color = hexadecimal(ink(rgb255(mesh.cmap(mesh.norm(value)))))
            axes.text(
                j + 0.5,
                i + 0.5,
                f"{round(float(value), 2) + 0.0:.2f}",
                ha="center",
                va="center",
                fontsize=small,
                color=color,
            )
    places = np.arange(len(names)) + 0.5
    axes.set_xticks(places, names, rotation=90, fontsize=9, parse_math=False)
    axes.set_yticks(places, names, rotation=0, fontsize=9, parse_math=False)
    axes.tick_params(length=0)
