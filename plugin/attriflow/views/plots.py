"""Plots of attributions as matplotlib axes: heat map, step scores, methods compared.

Each function takes `ax` to draw on; without it, it makes a figure with `pyplot` (which notebooks then show), or, when
`path` is given, one that nobody else knows of. PNG, SVG and PDF are chosen by the suffix of `path`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import seaborn as sns
import torch
from matplotlib.collections import QuadMesh
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from attriflow.errors import InputError, check_choice
from attriflow.types import Attribution
from attriflow.views import slices
from attriflow.views.colors import NEGATIVE, POSITIVE, Scale, color, hexadecimal, ink, largest
from attriflow.views.common import explained, foils, printable, shorten, shown_inputs, steps_are, token_text
from attriflow.views.comparisons import compare
from attriflow.views.figures import BLUE, ORANGE, SKY, TITLE, canvas, check_picture, clean, finish, fonts
from attriflow.views.slices import Slices, as_list

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHADES = LinearSegmentedColormap.from_list(
    "attriflow", [hexadecimal(rgb) for rgb in (*reversed(NEGATIVE[1:]), *POSITIVE)]
)
_ANNOTATED = 600  # cells up to which scores are written into them
_LINES = (BLUE, ORANGE, "#009E73", "#CC79A7", SKY, "#E69F00")


def heatmap(
    attribution: Attribution,
    *,
    ax: Axes | None = None,
    path: str | Path | None = None,
    overwrite: bool = False,
    min_val: float | None = None,
    max_val: float | None = None,
    slice_dims: Slices | None = None,
    annotate: bool | None = None,
) -> Axes:
    """Attributed tokens (down) x generated tokens (across); hatched where the step cannot see the input.

    Args:
        attribution: What is plotted; extra axes are reduced.
        ax: Where to draw.
        path: File to write (.png, .svg or .pdf).
        overwrite: Replace an existing file; otherwise that is an error.
        min_val, max_val: Scores of the strongest colours; the largest magnitude by default.
        slice_dims: Ranges of the extra axes, such as `{"layer": 3}`.
        annotate: Write the scores into the cells; by default where there are few.
    """
    check_picture(path, overwrite)
    attribution = slices.slice_dims(attribution, slice_dims)
    rows = shown_inputs(attribution)
    tokens = [attribution.inputs[i] for i in rows]
    grid = attribution.token_scores()[:, rows].double().cpu().transpose(0, 1)
    height, width = grid.shape
    labels = [shorten(token_text(token.text), 24) for token in tokens]
    figure_size = (min(40, _beside(labels) + max(0.62 * width, 1.6)), min(60, 1.9 + 0.3 * height))
    against = foils(attribution)
    heads = [token_text(token.text) for token in attribution.targets]
    heads = [f"{h}\nvs {f}" if f else h for h, f in zip(heads, against or [""] * width, strict=True)]
    with canvas(ax, path, *figure_size) as ax:
        scale = Scale.of(grid, min_val, max_val)
        mesh = _cells(ax, grid, scale, annotate)
        _tick_labels(ax, labels, heads)
        for i in range(1, height):
            if tokens[i].segment != tokens[i - 1].segment:
                ax.axhline(i, color="#333333", linewidth=1.2)
        ax.set(xlabel=steps_are(attribution), ylabel="attributed tokens")
        how = attribution.provenance
        ax.set_title(f"{printable(how.method)} · {explained(how)}", **{**TITLE, "pad": 12})
        _color_bar(ax, mesh, scale, height)
        if bool(grid.isnan().any()):
            legend = [Patch(facecolor="white", edgecolor="#C8C8C8", hatch="////", label="not visible to the step")]
            ax.legend(
                handles=legend, loc="upper left", bbox_to_anchor=(0, 0), frameon=False, fontsize=9, borderaxespad=1.6
            )
    return finish(ax, path, overwrite)


def step_scores(
    attributions: Attribution | Iterable[Attribution],
    names: str | Sequence[str] | None = None,
    *,
    ax: Axes | None = None,
    path: str | Path | None = None,
    overwrite: bool = False,
) -> Axes:
    """Step scores along the generated tokens, one line per score (and per attribution, when there are several).

    Args:
        attributions: One attribution, or several of the same length.
        names: Which step scores; all by default.
        ax: Where to draw.
        path: File to write (.png, .svg or .pdf).
        overwrite: Replace an existing file; otherwise that is an error.
    """
    check_picture(path, overwrite)
    items = as_list(attributions)
    known = list(dict.fromkeys(name for item in items for name in item.step_scores))
    wanted = known if names is None else [names] if isinstance(names, str) else list(names)
    for name in wanted:
        check_choice("step score", name, known)
    if not wanted:
        raise InputError("the attributions have no step scores: name some with step_scores= when attributing")
    steps = max(len(item.targets) for item in items)
    lines = [(item, name) for item in items for name in wanted if name in item.step_scores]
    with canvas(ax, path, min(24, max(5.5, 1.8 + 0.55 * steps)), 3.4) as ax:
        for number, (item, name) in enumerate(lines):
            method = f"{printable(item.provenance.method)}: " if len(items) > 1 else ""
            values = item.step_scores[name].double().cpu().numpy()
            ax.plot(
                range(len(values)), values, marker="o", markersize=5, linewidth=1.8, label=f"{method}{printable(name)}",
                color=_LINES[number % len(_LINES)], linestyle="-" if number < len(_LINES) else "--",
            )  # fmt: skip
        clean(ax)
        targets = [token_text(token.text) for token in items[0].targets]
        if len({tuple(t.text for t in item.targets) for item in items}) == 1 and steps <= 60:
            _words(ax, targets)
            ax.set_xlabel(steps_are(items[0]), fontsize=10)
        else:
            ax.xaxis.set_major_locator(MaxNLocator(12, integer=True))
            ax.set_xlabel("step", fontsize=10)
        if len(lines) > 1:
            ax.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
            ax.set_title("Step scores", **TITLE)
        else:
            ax.set_title(printable(wanted[0]), **TITLE)
    return finish(ax, path, overwrite)


def comparison(
    attributions: Iterable[Attribution],
    step: int | None = None,
    *,
    ax: Axes | None = None,
    path: str | Path | None = None,
    overwrite: bool = False,
    annotate: bool | None = None,
) -> Axes:
    """Methods (down) x attributed tokens (across), for one generated token or their mean.

    Methods have different units, so every explanation is divided by its largest magnitude: what compares is patterns.

    Args:
        attributions: Attributions of one text, at least two.
        step: The generated token (its index; from the end when negative); None averages all of them.
        ax: Where to draw.
        path: File to write (.png, .svg or .pdf).
        overwrite: Replace an existing file; otherwise that is an error.
        annotate: Write the values into the cells; by default where there are few.
    """
    check_picture(path, overwrite)
    items = as_list(attributions)
    groups = compare(items)
    if len(groups) > 1:
        raise InputError(f"the attributions explain {len(groups)} different texts; compare those of one")
    named = groups[0].attributions
    if len({tuple((t.text, t.segment) for t in item.inputs) for item in items}) > 1:
        raise InputError("the attributions give scores to different tokens; compare those of the same ones")
    first, steps = items[0], len(items[0].targets)
    if step is not None and not -steps <= step < steps:
        raise InputError(f"step {step} does not exist: there are {steps} {steps_are(first)}")
    shares = [_shares(item.token_scores().double().cpu()) for item in items]
    chosen = [s.nanmean(0) if step is None else s[step] for s in shares]
    grid = torch.stack(chosen)
    columns = [i for i in shown_inputs(first) if not bool(grid[:, i].isnan().all())]
    grid = grid[:, columns]
    with canvas(ax, path, min(40, _beside(named) + max(0.6 * len(columns), 2)), min(30, 2 + 0.36 * len(items))) as ax:
        scale = Scale(-1.0 if bool((grid < 0).any()) else 0.0, 1.0)
        mesh = _cells(ax, grid, scale, annotate)
        _tick_labels(ax, list(named), [token_text(first.inputs[i].text) for i in columns])
        what = f"mean over the {steps_are(first)}" if step is None else token_text(first.targets[step].text)
        ax.set_title(f"Methods compared: {what}", **{**TITLE, "pad": 12})
        ax.set(xlabel="attributed tokens")
        _color_bar(ax, mesh, scale, len(items), "relative to the largest")
    return finish(ax, path, overwrite)


def _shares(scores: Tensor) -> Tensor:
    """Every step relative to its largest magnitude."""
    limits = torch.where(scores.isfinite(), scores.abs(), 0).amax(-1, keepdim=True)
    return scores / limits.clamp_min(torch.finfo(torch.float64).tiny)


def _cells(ax: Axes, grid: Tensor, scale: Scale, annotate: bool | None) -> QuadMesh:
    """Coloured cells, `[down, across]`, with their values where there are few."""
    height, width = grid.shape
    ax.add_patch(Rectangle((0, 0), width, height, facecolor="white", hatch="////", edgecolor="#D8D8D8", linewidth=0))
    shares = np.ma.masked_invalid(scale.shares(grid).numpy())
    mesh = ax.pcolormesh(shares, cmap=_SHADES, norm=Normalize(-1, 1), edgecolors="white", linewidth=0.8)
    ax.invert_yaxis()
    ax.tick_params(length=0)
    sns.despine(ax=ax, left=True, bottom=True)
    if annotate if annotate is not None else grid.numel() <= _ANNOTATED:
        limit = largest(grid)
        exponent = 0 if limit == 0 or 0.01 <= limit < 100 else math.floor(math.log10(limit))
        for (i, j), value in np.ndenumerate(grid.numpy()):
            if math.isfinite(value):
                text = f"{value / 10.0**exponent:.2f}"
                text = text[1:] if text.startswith("-") and not float(text) else text
                shade = hexadecimal(ink(color(scale.share(value))))
                ax.text(j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=8, color=shade)
        if exponent:
            ax.set_title(f"in units of 1e{exponent:+03d}", fontsize=9, loc="right", color="#444444")
    return mesh


def _tick_labels(ax: Axes, down: Sequence[str], across: Sequence[str]) -> None:
    style: dict[str, Any] = {"fontfamily": fonts(), "parse_math": False, "fontsize": 10}
    every_row, every_column = math.ceil(len(down) / 190) or 1, math.ceil(len(across) / 60) or 1
    at = range(0, len(down), every_row)
    ax.set_yticks([i + 0.5 for i in at], [shorten(down[i], 40) for i in at], rotation=0, **style)
    at = range(0, len(across), every_column)
    heads = [shorten(across[i], 24) for i in at]
    tilt: dict[str, Any] = {}
    if max((len(line) for head in heads for line in head.splitlines()), default=0) > 5:
        tilt = {"rotation": 40, "ha": "left", "rotation_mode": "anchor"}
    ax.xaxis.tick_top()
    ax.set_xticks([i + 0.5 for i in at], heads, **tilt, **style)
    ax.tick_params(length=0)


def _beside(labels: Iterable[str]) -> float:
    """Inches for the labels left of the cells and for the colour bar right of them."""
    return 1.6 + 0.095 * min(40, max(map(len, labels), default=0))


def _words(ax: Axes, words: Sequence[str]) -> None:
    """Words below a line plot."""
    tilt: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if len(words) > 10 else {}
    heads = [shorten(word, 16) for word in words]
    ax.set_xticks(range(len(words)), heads, fontfamily=fonts(), parse_math=False, fontsize=10, **tilt)


def _color_bar(ax: Axes, mesh: QuadMesh, scale: Scale, height: int, label: str = "") -> None:
    """What the colours mean, in the units of the scores."""
    if ax.figure is None:
        return
    bar = ax.figure.colorbar(mesh, ax=ax, pad=0.02, fraction=0.05, aspect=30, shrink=min(1.0, max(0.35, 8 / height)))
    shares, scores = [0.0, 0.5, 1.0], [0.0, scale.high / 2, scale.high]
    if scale.low > 0:
        scores = [scale.low, (scale.low + scale.high) / 2, scale.high]
    if scale.low < 0:
        shares, scores = [-1.0, -0.5, *shares], [scale.low, scale.low / 2, *scores]
    else:
        bar.ax.set_ylim(0, 1)
    bar.set_ticks(shares, labels=[f"{score:.3g}" for score in scores])
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.tick_params(labelsize=9, length=2)
    if label:
        bar.set_label(label, fontsize=9)
