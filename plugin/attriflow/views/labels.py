"""Labels of points in a scatter plot that stay clear of points, lines and each other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.transforms import Bbox

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
        taken.append(legend.get_window_extent(renderer))
    lines = _along_lines(axes)
    for number, name in enumerate(names):
        label = axes.annotate(
            name, (x[number], y[number]), xytext=(0, 0), textcoords="offset points", fontsize=10, parse_math=False,
            zorder=4,
            arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.8, "shrinkA": 1, "shrinkB": 4},
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )  # fmt: skip
        label.set_in_layout(False)
        boxes = []
        for dx, dy, ha, va in _OFFSETS:
            label.set(position=(dx, dy), horizontalalignment=ha, verticalalignment=va)
            label.update_positions(renderer)
            # The extent of the text alone: an annotation's own would include the line to its point.
            boxes.append(Text.get_window_extent(label, renderer))

        def cost(index: int, boxes: Sequence[Bbox] = boxes, own: int = number) -> tuple[int, float]:
            box = boxes[index]
            outside = not (frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1)
            distances = [_distance(box, spot) for spot in spots]
            nearest = min((d for i, d in enumerate(distances) if i != own), default=np.inf)
            # A label that is as near to another point would seem to be that one's.
            misleading = nearest < distances[own] + clearance and not _has_line(index)
            crossed = sum(box.overlaps(part) for part in lines)
            # A crossed line is better than a label far away, covering anything else is not.
            hard = 2 * (outside + sum(box.overlaps(other) for other in taken)) + misleading
            return hard, min(crossed, 1) * 14 + index

        chosen = min(range(len(boxes)), key=cost)
        dx, dy, ha, va = _OFFSETS[chosen]
        label.set(position=(dx, dy), horizontalalignment=ha, verticalalignment=va)
        taken.append(boxes[chosen])
        if label.arrow_patch is not None:
            label.arrow_patch.set_visible(_has_line(chosen))


def _has_line(index: int) -> bool:
    """Whether a label at this offset is far enough from its point to need a line to it."""
    dx, dy, _, _ = _OFFSETS[index]
    return max(abs(dx), abs(dy)) > 16


def _around(spot: np.ndarray, radius: float) -> Bbox:
    return Bbox.from_extents(spot[0] - radius, spot[1] - radius, spot[0] + radius, spot[1] + radius)


def _distance(box: Bbox, spot: np.ndarray) -> float:
    dx = max(box.x0 - spot[0], 0, spot[0] - box.x1)
    dy = max(box.y0 - spot[1], 0, spot[1] - box.y1)
    return float(np.hypot(dx, dy))


def _along_lines(axes: Axes) -> list[Bbox]:
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
    return boxes
