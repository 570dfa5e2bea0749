"""Labels of points in a scatter plot that stay clear of points, lines and each other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patheffects import withStroke
from matplotlib.text import Text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Where a label may stand relative to its point, in points, nearest first.
_OFFSETS = [
    (dx * step, dy * step, ha, va)
    for step in (8, 16, 28, 42, 60, 80, 104, 130)
    for dx, dy, ha, va in (
        (1, 0, "left", "center"),
        (0.7, -0.7, "left", "top"),
        (0.7, 0.7, "left", "bottom"),
        (-0.7, 0.7, "right", "bottom"),
        (-1, 0, "right", "center"),
        (-0.7, -0.7, "right", "top"),
        (0, 1, "center", "bottom"),
        (0, -1, "center", "top"),
    )
]


def place_labels(figure: Figure, axes: Axes, x: Sequence[float], y: Sequence[float], names: Sequence[str]) -> None:
    """Label points, each at the nearest place in the axes that covers no point, other label or, if possible, line.

    Args:
        figure: The figure, whose layout is computed here.
        axes: The axes, with their limits settled.
        x: Points in data coordinates.
        y: Likewise.
        names: One label per point.
    """
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    frame = axes.get_window_extent(renderer)
    radius = 5 * figure.dpi / 72
    spots = axes.transData.transform(list(zip(x, y, strict=True)))
    clearance = 3 * figure.dpi / 72
    taken = [_around(spot, radius) for spot in spots]
    legend = axes.get_legend()
    if legend is not None:
        taken.append(np.array(legend.get_window_extent(renderer).extents))
    lines = _along_lines(axes)
    # far enough from its point to need a line to it
    has_line = np.array([max(abs(dx), abs(dy)) > 16 for dx, dy, _, _ in _OFFSETS])
    for number, name in enumerate(names):
        label = axes.annotate(
            name, (x[number], y[number]), xytext=(0, 0), textcoords="offset points", fontsize=10, parse_math=False,
            zorder=4,
            arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.8, "shrinkA": 1, "shrinkB": 4},
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )  # fmt: skip
        label.set_in_layout(False)
        label.update_positions(renderer)
        # The extent of the text alone: an annotation's own would include the line to its point.
        extent = Text.get_window_extent(label, renderer)
        boxes = _candidates(spots[number], extent.width, extent.height, figure.dpi / 72)
        outside = (boxes[:, :2] < (frame.x0, frame.y0)).any(1) | (boxes[:, 2:] > (frame.x1, frame.y1)).any(1)
        distances = _distances(boxes, spots)
        others = np.delete(distances, number, axis=1).min(1, initial=np.inf)
        # A label that is as near to another point would seem to be that one's.
        misleading = (others < distances[:, number] + clearance) & ~has_line
        # A crossed line is better than a label far away, covering anything else is not.
        hard = 2 * (outside + _overlaps(boxes, np.array(taken)).sum(1)) + misleading
        soft = 14 * _overlaps(boxes, lines).any(1) + np.arange(len(boxes))
        chosen = int(np.lexsort((soft, hard))[0])
        dx, dy, ha, va = _OFFSETS[chosen]
        label.set(position=(dx, dy), horizontalalignment=ha, verticalalignment=va)
        taken.append(boxes[chosen])
        if label.arrow_patch is not None:
            label.arrow_patch.set_visible(bool(has_line[chosen]))


def _candidates(spot: np.ndarray, width: float, height: float, scale: float) -> np.ndarray:
    """Corners `[place, (x0, y0, x1, y1)]` of a label at each of `_OFFSETS`, in pixels."""
    left = {"left": 0.0, "center": 0.5, "right": 1.0}
    low = {"bottom": 0.0, "center": 0.5, "top": 1.0}
    low_left = np.array(
        [
            (spot[0] + dx * scale - left[ha] * width, spot[1] + dy * scale - low[va] * height)
            for dx, dy, ha, va in _OFFSETS
        ]
    )
    return np.hstack([low_left, low_left + np.array([width, height])])


def _distances(boxes: np.ndarray, spots: np.ndarray) -> np.ndarray:
    """From each box to each spot, `[box, spot]`."""
    apart = np.maximum(np.maximum(boxes[:, None, :2] - spots, spots - boxes[:, None, 2:]), 0)
    return np.asarray(np.hypot(apart[..., 0], apart[..., 1]))


def _overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether boxes cover others, `[box, other]`."""
    covers = (boxes[:, None, :2] <= others[:, 2:]).all(-1) & (others[:, :2] <= boxes[:, None, 2:]).all(-1)
    return np.asarray(covers)


def _around(spot: np.ndarray, radius: float) -> np.ndarray:
    return np.concatenate([spot - radius, spot + radius])


def _along_lines(axes: Axes) -> np.ndarray:
    """Small boxes along every line that is drawn in data coordinates."""
    boxes = []
    for line in axes.get_lines():
        if line.get_transform() != axes.transData:
            continue
        corners = axes.transData.transform(line.get_path().vertices)
        if line.get_drawstyle() == "steps-post":
            turns = np.column_stack([corners[1:, 0], corners[:-1, 1]])
            corners = np.concatenate([np.stack([corners[:-1], turns], 1).reshape(-1, 2), corners[-1:]])
        for start, stop in pairwise(corners):
            count = max(2, int(np.abs(stop - start).max() / 6))
            boxes += [_around(start + (stop - start) * part, 2) for part in np.linspace(0, 1, count)]
    return np.array(boxes).reshape(-1, 4)
