"""What all plots share: figures without global state, palette, fonts and labels."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import seaborn as sns
from matplotlib.figure import Figure

from attriflow.errors import InputError
from attriflow.io import check_outputs, write_with
from attriflow.views.colors import RGB
from attriflow.views.common import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, safe for colour vision deficiencies.
BLUE, SKY, ORANGE, GREY = "#0072B2", "#56B4E9", "#D55E00", "#8C8C8C"
NOTHING = "#E6E6E6"  # cells without a value
NOTE: dict[str, Any] = {"fontsize": 10, "color": "#444444"}
TITLE: dict[str, Any] = {"fontsize": 12, "fontweight": "bold", "loc": "left", "parse_math": False}
PANEL_TITLE: dict[str, Any] = {**TITLE, "fontsize": 11}


def to_png(figure: Figure, dpi: int = 144) -> bytes:
    """A figure as PNG bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    return buffer.getvalue()


def blank(width: float, height: float) -> Figure:
    """An empty figure, known to nobody else."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def message(text: str) -> Figure:
    """A figure that says why there is nothing to plot."""
    figure = blank(6, 1.6)
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=12, color="#444444", transform=axes.transAxes)
    return figure


def fonts() -> list[str]:
    """The default font, then installed ones that know more writing systems: tokens come in every language."""
    from matplotlib import font_manager

    installed = set(font_manager.get_font_names())
    wide = ("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans", "Arial Unicode MS", "WenQuanYi Zen Hei", "Unifont")
    return ["DejaVu Sans", *(name for name in wide if name in installed)]


def breakable(name: str) -> str:
    """A name that may break into two lines at an underscore near its middle."""
    name = printable(name)
    cuts = [i + 1 for i, char in enumerate(name) if char == "_" and i]
    if len(name) < 9 or not cuts:
        return name
    middle = min(cuts, key=lambda cut: abs(cut - len(name) / 2))
    return f"{name[:middle]}\n{name[middle:]}"


def clean(axes: Axes, grid: Literal["x", "y", "both"] = "both") -> None:
    """Quiet frame, ticks and grid."""
    sns.despine(ax=axes)
    axes.grid(axis=grid, color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=10, color="#888888")


def panels_of(count: int, width: float, height: float, columns: int) -> tuple[Figure, list[Axes]]:
    """A figure with a grid of `count` panels, each `width` x `height` inches."""
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    figure = blank(width * columns + 1.2, height * rows + 0.6)
    layout = figure.get_layout_engine()
    if layout is not None:
        layout.set(h_pad=0.1, w_pad=0.08)  # type: ignore[call-arg]
    grid = figure.subplots(rows, columns, squeeze=False)
    axes: list[Axes] = [axis for row in grid for axis in row]
    for extra in axes[count:]:
        extra.remove()
    return figure, axes[:count]


def note_of(figure: Figure, text: str, *, above: bool = False) -> None:
    """Say below (or above) the panels what they show, in lines as long as the figure is wide."""
    lines = textwrap.fill(text, max(24, int(12 * figure.get_figwidth())))
    (figure.suptitle if above else figure.supxlabel)(lines, parse_math=False, **NOTE)


def rgb255(shade: Sequence[float]) -> RGB:
    """A colour of matplotlib (0 to 1) as integers."""
    return round(shade[0] * 255), round(shade[1] * 255), round(shade[2] * 255)


SUFFIXES = (".png", ".svg", ".pdf")


def check_picture(path: str | Path | None, overwrite: bool = False) -> None:
    """Raise `InputError` for a picture that cannot be written: its suffix, its place, a file that is there."""
    if path is None:
        return
    if Path(path).suffix.lower() not in SUFFIXES:
        raise InputError(f"cannot write a plot to {path}: expected a name that ends in {', '.join(SUFFIXES)}")
    check_outputs([path], overwrite)


@contextmanager
def canvas(ax: Axes | None, path: str | Path | None, width: float, height: float) -> Iterator[Axes]:
    """The axes to draw on: those given; else of a figure that only a file gets; else of `pyplot`."""
    if ax is not None:
        yield ax
    elif path is not None:
        yield blank(width, height).add_subplot()
    else:
        from matplotlib import pyplot

        yield pyplot.figure(figsize=(width, height), layout="constrained", facecolor="white").add_subplot()


def finish(ax: Axes, path: str | Path | None, overwrite: bool = False) -> Axes:
    """Write the figure, where that was asked for."""
    if path is not None:
        save_figure(ax, path, overwrite=overwrite)
    return ax


def save_figure(ax: Axes | Figure, path: str | Path, dpi: int = 144, *, overwrite: bool = False) -> Path:
    """Write the figure of some axes as PNG, SVG or PDF, by the suffix; parent folders are made.

    An existing file is an error, unless it may be replaced (`overwrite`).
    """
    check_picture(path, overwrite)
    figure: Any = ax if isinstance(ax, Figure) else ax.figure
    if not isinstance(figure, Figure):  # part of one
        figure = getattr(figure, "figure", None)
    if not isinstance(figure, Figure):
        raise InputError("these axes have no figure any more")
    form = Path(path).suffix.lower()[1:]
    return write_with(
        lambda free: figure.savefig(free, format=form, dpi=dpi, facecolor="white"), path, overwrite=overwrite
    )
