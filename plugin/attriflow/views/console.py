"""Attributions in the terminal: tables of attributed tokens (down) by generated tokens (across)."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable

from rich import box
from rich.cells import cell_len
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from attriflow.types import Attribution
from attriflow.views.colors import Scale, color, ink
from attriflow.views.common import (
    SEGMENTS,
    compact,
    explained,
    foil_text,
    foils,
    number,
    printable,
    shorten,
    shown_inputs,
    token_text,
)
from attriflow.views.slices import Slices, as_list, panels, slice_dims

_TOKEN_WIDTH = 14  # longest token as the head of a column
_LABEL_WIDTH = 24  # longest token as the head of a row


def show(
    item: Attribution | Iterable[Attribution],
    *,
    console: Console | None = None,
    max_columns: int | None = None,
    precision: int = 3,
    min_val: float | None = None,
    max_val: float | None = None,
    dims: Slices | None = None,
    granular: bool = False,
    show_dim: str | int | None = None,
    max_show_size: int | None = None,
) -> None:
    """Print attributions as coloured tables: attributed tokens down, generated tokens across.

    Blank cells are inputs that the step cannot see; a shown 0 is an input without effect. Steps that do not fit the
    width of the terminal continue in further tables. Without colours (output that is piped, `NO_COLOR`) the numbers say
    the same.

    Args:
        item: One attribution or several.
        console: Where to print; a new console on standard output by default.
        max_columns: Most steps per table, below what the width allows.
        precision: Decimals.
        min_val, max_val: Scores of the strongest colours; the largest magnitude by default (see `Scale`).
        dims: Ranges of extra axes, such as `{"layer": 3, "head": (0, 4)}`; what is left is reduced.
        granular: One table per index of `show_dim` instead of one reduced over it.
        show_dim: That axis; the first extra one by default.
        max_show_size: Most tables per attribution (20).
    """
    console = console or Console()
    parts = []
    for attribution in as_list(item):
        if granular or show_dim is not None:
            parts.append(panels(attribution, show_dim, max_show_size, dims))
        else:
            parts.append([("", slice_dims(attribution, dims))])
    scales = [[Scale.of(a.token_scores(), min_val, max_val) for _, a in found] for found in parts]
    for index, (found, limits) in enumerate(zip(parts, scales, strict=True)):
        if index:
            console.print()
        console.print(header(found[0][1], console.width))
        for (label, attribution), scale in zip(found, limits, strict=True):
            _show(label, attribution, scale, console, max_columns, precision)


def _show(
    label: str, attribution: Attribution, scale: Scale, console: Console, max_columns: int | None, precision: int
) -> None:
    table = _Cells(attribution, scale, console.width, precision)
    if label:
        console.print(Text(f"\n{label}", style="bold"))
    for start, stop in table.chunks(console.width, max_columns):
        console.print(table.render(start, stop))
    notes = []
    if table.exponent:
        notes.append(f"in units of 1e{table.exponent:+03d}")
    if len(attribution.axes) > 2:
        notes.append(f"reduced over {', '.join(attribution.axes[2:])}")
    if console.color_system and not console.no_color and scale.limit > 0:
        notes.append(legend(scale))
    if bool(attribution.token_scores().isnan().any()):
        notes.append("blank: not visible to the step")
    if notes:
        console.print(Text(" · ".join(notes), style="dim"))


def legend(scale: Scale) -> str:
    """What the colours mean."""
    low = f"blue −{compact(-scale.low)} … " if scale.low < 0 else ""
    return f"{low}white {compact(max(0.0, scale.low))} … orange {compact(scale.high)}"


def header(attribution: Attribution, width: int) -> Text:
    """Method, function and model, then what went in, what came out and what that is compared with."""
    how = attribution.provenance
    text = Text.assemble((printable(how.method), "bold"), (f" · {explained(how)}", ""))
    if how.model:
        text.append(f" · {printable(how.model)}", style="dim")
    lines = {"in": attribution.input_text, "out": attribution.target_text, "foil": foil_text(attribution)}
    lines = {label: " ".join(printable(content).split()) for label, content in lines.items() if content}
    for label, content in lines.items():
        text.append(f"\n{label:>{max(map(len, lines))}}: ", style="dim")
        text.append(shorten(content, max(20, 2 * width - 10)))
    return text


def label_text(text: str) -> str:
    """A token that does not pull the numbers after it into its own writing direction."""
    shown = token_text(text)
    right_to_left = any(unicodedata.bidirectional(char) in ("R", "AL", "AN") for char in shown)
    return f"{shown}\u200e" if right_to_left else shown


def shade(share: float) -> Style:
    """Background for a share in [-1, 1], and letters that can be read on it."""
    background = color(share)
    return Style(color=Color.from_rgb(*ink(background)), bgcolor=Color.from_rgb(*background))


class _Cells:
    """The texts and widths of one attribution's table, so that it can be split into columns that fit."""

    def __init__(self, attribution: Attribution, scale: Scale, width: int, precision: int) -> None:
        self.attribution, self.scale, self.precision = attribution, scale, precision
        self.rows = shown_inputs(attribution)
        scores = attribution.token_scores().double().cpu()
        self.exponent = exponent_of(Scale.of(scores).limit, precision)
        self.scores: list[list[float]] = scores.tolist()
        self.step_scores = {name: values.double().cpu().tolist() for name, values in attribution.step_scores.items()}
        foil = foils(attribution)
        self.heads = [[token_text(token.text)] for token in attribution.targets]
        for head, against in zip(self.heads, foil, strict=False):
            head.append(f"vs {against}" if against else "")
        labels = [token_text(attribution.inputs[i].text) for i in self.rows]
        labels += [printable(name) for name in self.step_scores] + [f"── {name}" for name in SEGMENTS]
        widest = max(map(cell_len, labels), default=1)
        self.label_width = min(widest, _LABEL_WIDTH, max(8, width // 3))
        self.widths = [self._width(step) for step in range(len(attribution.targets))]

    def _width(self, step: int) -> int:
        texts = [self.score(step, i) for i in self.rows]
        texts += [number(values[step], self.precision) for values in self.step_scores.values()]
        head = min(max(map(cell_len, self.heads[step])), _TOKEN_WIDTH)
        return max([head, *map(len, texts)]) + 1

    def score(self, step: int, index: int) -> str:
        return decimals(self.scores[step][index], self.exponent, self.precision)

    def chunks(self, width: int, max_columns: int | None) -> list[tuple[int, int]]:
        """Ranges of steps that fit beside the row labels, at least one step each."""
        room = width - self.label_width - 3
        found, start, used = [], 0, 0
        for step, size in enumerate(width + 1 for width in self.widths):  # a column and the space before it
            full = max_columns is not None and step - start >= max(1, max_columns)
            if step > start and (used + size > room or full):
                found.append((start, step))
                start, used = step, 0
            used += size
        found.append((start, len(self.widths)))
        return found

    def render(self, start: int, stop: int) -> Table:
        total = len(self.widths)
        part = f"steps {start}–{stop - 1} of {total}" if stop - start < total else None
        table = Table(box=box.SIMPLE_HEAD, padding=0, collapse_padding=True, pad_edge=False, caption=part)
        table.caption_style, table.caption_justify = "dim", "left"
        table.add_column("", width=self.label_width, no_wrap=True, overflow="ellipsis")
        for step in range(start, stop):
            table.add_column(self._head(step), justify="right", width=self.widths[step], no_wrap=True)
        segment = None
        seen = self.attribution.visible[start:stop].any(0).tolist()
        for index in self.rows:
            token = self.attribution.inputs[index]
            if token.segment == "generated" and not seen[index]:
                continue
            if token.segment != segment:
                segment = token.segment
                table.add_row(Text(f"── {segment}", style="dim"))
            label = Text(label_text(token.text), style="dim italic" if token.special else "")
            table.add_row(label, *(self._cell(step, index) for step in range(start, stop)))
        if self.step_scores:
            table.add_section()
        for name, values in self.step_scores.items():
            cells = (number(values[step], self.precision) for step in range(start, stop))
            table.add_row(Text(printable(name), style="italic"), *cells)
        return table

    def _head(self, step: int) -> Text:
        lines = [Text(line, style="dim" if i else "bold") for i, line in enumerate(self.heads[step])]
        for line in lines:
            line.truncate(_TOKEN_WIDTH, overflow="ellipsis")
        return Text("\n").join(lines)

    def _cell(self, step: int, index: int) -> Text:
        text = self.score(step, index)
        if not text:
            return Text("")
        # Padded here and not by the table, whose padding would stay uncoloured.
        return Text(text.rjust(self.widths[step]), style=shade(self.scale.share(self.scores[step][index])))


def exponent_of(limit: float, precision: int) -> int:
    """Power of ten taken out of all scores when they would print as 0.000 or as very long numbers."""
    if limit == 0 or 10 ** (1 - precision) <= limit < 1000:
        return 0
    return math.floor(math.log10(limit))


def decimals(score: float, exponent: int, precision: int) -> str:
    """A score in units of a power of ten; empty for one that is not visible."""
    if math.isnan(score):
        return ""
    text = f"{score / 10.0**exponent:.{precision}f}"
    return text[1:] if text.startswith("-") and not float(text) else text
