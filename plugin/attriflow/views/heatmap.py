"""One attribution as a heat map of tokens."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import seaborn as sns
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from attriflow.types import Attribution
from attriflow.views.common import (
    NEGATIVE,
    POSITIVE,
    color,
    ink,
    is_signed,
    largest,
    printable,
    shorten,
    shown_inputs,
    token_text,
)
from attriflow.views.figures import blank, fonts, hexadecimal, message

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WHOLE = [hexadecimal(rgb) for rgb in (*reversed(NEGATIVE[1:]), *POSITIVE)]
_UPPER = [hexadecimal(rgb) for rgb in POSITIVE]


def attribution_heatmap(attribution: Attribution) -> Figure:
    """Attributed tokens (down) x generated tokens (across); hatched where the step cannot see the input."""
    rows = shown_inputs(attribution)
    if not rows or not attribution.targets:
        return message("The attribution has no tokens.")
    scores = attribution.token_scores().double().cpu()
    limit = largest(scores) or 1.0
    grid = scores[:, rows].transpose(0, 1).numpy()
    height, width = grid.shape
    figure = blank(min(40, 3.2 + max(0.62 * width, 1.6)), min(60, 1.7 + 0.3 * height))
    axes = figure.add_subplot()
    axes.add_patch(Rectangle((0, 0), width, height, facecolor="white", hatch="////", edgecolor="#D8D8D8", linewidth=0))
    signed = is_signed(scores)
    shades = LinearSegmentedColormap.from_list("attriflow", _WHOLE if signed else _UPPER)
    mesh = axes.pcolormesh(
        np.ma.masked_invalid(grid), cmap=shades, vmin=-limit if signed else 0, vmax=limit,
        edgecolors="white", linewidth=0.8,
    )  # fmt: skip
    axes.invert_yaxis()
    if width * height <= 600:
        _annotate(axes, grid, limit)
    tokens = [attribution.inputs[i] for i in rows]
    style: dict[str, Any] = {"fontfamily": fonts(), "parse_math": False}
    every_row, every_column = math.ceil(height / 190), math.ceil(width / 60)
    at = range(0, height, every_row)
    axes.set_yticks([i + 0.5 for i in at], [shorten(token_text(tokens[i].text), 24) for i in at], fontsize=10, **style)
    at = range(0, width, every_column)
    heads = [shorten(token_text(attribution.targets[i].text), 18) for i in at]
    tilt: dict[str, Any] = {"rotation": 40, "ha": "left", "rotation_mode": "anchor"} if max(map(len, heads)) > 5 else {}
    axes.xaxis.tick_top()
    axes.set_xticks([i + 0.5 for i in at], heads, fontsize=10, **tilt, **style)
    axes.tick_params(length=0)
    sns.despine(ax=axes, left=True, bottom=True)
    for i in range(1, height):
        if tokens[i].segment != tokens[i - 1].segment:
            axes.axhline(i, color="#333333", linewidth=1.2)
    axes.set_xlabel("generated tokens", fontsize=10)
    axes.set_ylabel("attributed tokens", fontsize=10)
    bar = figure.colorbar(mesh, ax=axes, pad=0.02, fraction=0.05, aspect=30, shrink=min(1.0, 8 / height))
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.tick_params(labelsize=9, length=2)
    how = attribution.provenance
    figure.suptitle(f"{printable(how.method)}\n{printable(how.attributed_fn)}", fontsize=12, parse_math=False)
    if bool(scores.isnan().any()):
        legend = [Patch(facecolor="white", edgecolor="#C8C8C8", hatch="////", label="not visible to the step")]
        figure.legend(handles=legend, loc="outside lower left", frameon=False, fontsize=9)
    return figure


def _annotate(axes: Axes, grid: np.ndarray, limit: float) -> None:
    """Write the scores into the cells, as parts of the largest when plain decimals would not show them."""
    exponent = 0 if 0.01 <= limit < 100 else math.floor(math.log10(limit))
    for (i, j), value in np.ndenumerate(grid):
        if math.isfinite(value):
            text = f"{value / 10.0**exponent:.2f}"
            text = text[1:] if text.startswith("-") and not float(text) else text
            shade = ink(color(value / limit))
            axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=8, color=hexadecimal(shade))
    if exponent:
        axes.set_title(f"in units of 1e{exponent:+03d}", fontsize=9, loc="right", color="#444444")
