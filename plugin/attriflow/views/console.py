"""Attributions and leaderboards in the terminal."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.cells import cell_len
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from attriflow.types import Attribution
from attriflow.views.common import (
    SEGMENTS,
    arrow,
    as_float,
    as_text,
    best,
    color,
    compact,
    ink,
    is_signed,
    largest,
    metric_names,
    number,
    printable,
    records,
    shorten,
    shown_inputs,
    token_text,
)

if TYPE_CHECKING:
    import pandas as pd

_TOKEN_WIDTH = 14  # longest token as the head of a column
_LABEL_WIDTH = 24  # longest token as the head of a row


def show(
    item: Attribution | Sequence[Attribution],
    *,
    console: Console | None = None,
    max_columns: int | None = None,
    precision: int = 3,
) -> None:
    """Print attributions as coloured tables: attributed tokens down, generated tokens across.

    Blank cells are inputs that the step cannot see; a shown 0 is an input without effect. Steps that do not fit the
    width of the terminal continue in further tables.

    Args:
        item: One attribution or several.
        console: Where to print; a new console on standard output by default.
        max_columns: Most steps per table, below what the width allows.
        precision: Decimals.
    """
    console = console or Console()
    items = [item] if isinstance(item, Attribution) else list(item)
    for index, attribution in enumerate(items):
        if index:
            console.print()
        _show(attribution, console, max_columns, precision)


def _show(attribution: Attribution, console: Console, max_columns: int | None, precision: int) -> None:
    scores = attribution.token_scores()
    limit = largest(scores)
    exponent = _exponent(limit, precision)
    console.print(_header(attribution, console.width))
    table = _Cells(attribution, console.width, precision, exponent)
    for start, stop in table.chunks(console.width, max_columns):
        console.print(table.render(start, stop))
    notes = []
    if exponent:
        notes.append(f"in units of 1e{exponent:+03d}")
    if len(attribution.axes) > 2:
        notes.append(f"reduced over {', '.join(attribution.axes[2:])}")
    if console.color_system and not console.no_color and limit > 0:
        low = f"blue −{compact(limit)} … " if is_signed(scores) else ""
        notes.append(f"{low}white 0 … red {compact(limit)}")
    if bool(scores.isnan().any()):
        notes.append("blank: not visible to the step")
    if notes:
        console.print(Text(" · ".join(notes), style="dim"))


def _exponent(limit: float, precision: int) -> int:
    """Power of ten taken out of all scores when they would print as 0.000 or as very long numbers."""
    if limit == 0 or 10 ** (1 - precision) <= limit < 1000:
        return 0
    return math.floor(math.log10(limit))


def _header(attribution: Attribution, width: int) -> Text:
    how = attribution.provenance
    text = Text.assemble((printable(how.method), "bold"), (f" · {printable(how.attributed_fn)}", ""))
    if how.model:
        text.append(f" · {printable(how.model)}", style="dim")
    for label, content in (("in", attribution.input_text), ("out", attribution.target_text)):
        if content:
            one_line = " ".join(printable(content).split())
            text.append(f"\n{label:>3}: ", style="dim")
            text.append(shorten(one_line, max(20, 2 * width - 10)))
    return text


class _Cells:
    """The texts and widths of one attribution's table, so that it can be split into columns that fit."""

    def __init__(self, attribution: Attribution, width: int, precision: int, exponent: int) -> None:
        self.attribution = attribution
        self.rows = shown_inputs(attribution)
        scores = attribution.token_scores().double().cpu()
        self.limit = largest(scores) or 1.0
        self.scores: list[list[float]] = scores.tolist()
        self.exponent = exponent
        self.precision = precision
        self.step_scores = {name: values.double().cpu().tolist() for name, values in attribution.step_scores.items()}
        labels = [token_text(attribution.inputs[i].text) for i in self.rows]
        labels += [printable(name) for name in self.step_scores] + [f"── {name}" for name in SEGMENTS]
        widest = max(map(cell_len, labels), default=1)
        self.label_width = min(widest, _LABEL_WIDTH, max(8, width // 3))
        self.widths = [self._width(step) for step in range(len(attribution.targets))]

    def _width(self, step: int) -> int:
        texts = [self.score(step, i) for i in self.rows]
        texts += [number(values[step], self.precision) for values in self.step_scores.values()]
        head = min(cell_len(token_text(self.attribution.targets[step].text)), _TOKEN_WIDTH)
        return max([head, *map(len, texts)]) + 1

    def score(self, step: int, index: int) -> str:
        value = self.scores[step][index]
        if math.isnan(value):
            return ""
        text = f"{value / 10.0**self.exponent:.{self.precision}f}"
        return text[1:] if text.startswith("-") and not float(text) else text

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
            head = Text(token_text(self.attribution.targets[step].text), style="bold")
            head.truncate(_TOKEN_WIDTH, overflow="ellipsis")
            table.add_column(head, justify="right", width=self.widths[step], no_wrap=True)
        segment = None
        seen = self.attribution.visible[start:stop].any(0).tolist()
        for index in self.rows:
            token = self.attribution.inputs[index]
            if token.segment == "generated" and not seen[index]:
                continue
            if token.segment != segment:
                segment = token.segment
                table.add_row(Text(f"── {segment}", style="dim"))
            label = Text(_label(token.text), style="dim italic" if token.special else "")
            table.add_row(label, *(self._cell(step, index) for step in range(start, stop)))
        if self.step_scores:
            table.add_section()
        for name, values in self.step_scores.items():
            cells = (number(values[step], self.precision) for step in range(start, stop))
            table.add_row(Text(printable(name), style="italic"), *cells)
        return table

    def _cell(self, step: int, index: int) -> Text:
        text = self.score(step, index)
        if not text:
            return Text("")
        background = color(self.scores[step][index] / self.limit)
        style = Style(color=Color.from_rgb(*ink(background)), bgcolor=Color.from_rgb(*background))
        # Padded here and not by the table, whose padding would stay uncoloured.
        return Text(text.rjust(self.widths[step]), style=style)


def _label(text: str) -> str:
    """A token that does not pull the numbers after it into its own writing direction."""
    shown = token_text(text)
    right_to_left = any(unicodedata.bidirectional(char) in ("R", "AL", "AN") for char in shown)
    return f"{shown}\u200e" if right_to_left else shown


def leaderboard_table(df: pd.DataFrame, directions: Mapping[str, bool], title: str = "Attribution methods") -> Table:
    """A leaderboard as a table for the terminal: best value per metric bold, failed methods dim with their reason.

    Args:
        df: Leaderboard with the columns `method`, `status`, `reason`, `rank`, one per metric, and costs.
        directions: Metric -> whether higher is better.
        title: Title above the table.
    """
    rows = records(df)
    metrics = metric_names(df, directions)
    table = Table(title=Text(title, style="bold"), box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    table.title_justify = "left"
    table.add_column("rank", justify="right", vertical="bottom", no_wrap=True)
    table.add_column("method", min_width=12, overflow="ellipsis", vertical="bottom")
    for name in metrics:
        # Rich breaks lines at spaces only; metric names are long and have none.
        lines = [part for part in name.split("_") if part]
        head = "_\n".join(printable(part) for part in lines) + f" {arrow(directions[name])}"
        table.add_column(Text(head), justify="right", vertical="bottom", no_wrap=True)
    costs = {"forward_equivalents": "forward\nequiv.", "target_tokens_per_second": "tokens\n/ s"}
    costs = {key: head for key, head in costs.items() if key in df.columns}
    for head in costs.values():
        table.add_column(head, justify="right", vertical="bottom", no_wrap=True)
    bests = {name: best([row[name] for row in rows if not row["failed"]], directions[name]) for name in metrics}
    failures = []
    for row in rows:
        method = printable(as_text(row.get("method")))
        cells = [Text(compact(row.get("rank")) if not row["failed"] else "✗"), Text(method)]
        for name in metrics:
            top = bests[name] is not None and as_float(row[name]) == bests[name] and not row["failed"]
            cells.append(Text(number(row[name]), style="bold green" if top else ""))
        cells += [Text(compact(row[key])) for key in costs]
        table.add_row(*cells, style="dim" if row["failed"] else "")
        if row["failed"]:
            failures.append(Text(f"✗ {method}: {_reason(row)}"))
    if failures:
        table.caption, table.caption_justify, table.caption_style = Text("\n").join(failures), "left", "dim"
    return table


def _reason(row: Mapping[str, Any]) -> str:
    """The first line of why a method failed."""
    lines = printable(as_text(row.get("reason"))).strip().splitlines()
    return lines[0] if lines else "failed"
