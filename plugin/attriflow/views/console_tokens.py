"""Attributed texts in the terminal, coloured anew for every generated token."""

from __future__ import annotations

from collections.abc import Iterable

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text
from torch import Tensor

from attriflow.errors import check_choice
from attriflow.types import Attribution
from attriflow.views.colors import Scale
from attriflow.views.common import Wraps, breaks, foils, number, printable, shown_inputs
from attriflow.views.console import decimals, exponent_of, header, label_text, legend, shade
from attriflow.views.slices import Slices, as_list, slice_dims


def show_tokens(
    item: Attribution | Iterable[Attribution],
    *,
    console: Console | None = None,
    precision: int = 2,
    min_val: float | None = None,
    max_val: float | None = None,
    dims: Slices | None = None,
    wrap_after: Wraps | None = None,
    step_score_highlight: str | None = None,
) -> None:
    """Print each generated token and, below it, the tokens it could see in the colours of their scores.

    Without colours every token is followed by its score.

    Args:
        item: One attribution or several.
        console: Where to print; a new console on standard output by default.
        precision: Decimals.
        min_val, max_val: Scores of the strongest colours; the largest magnitude by default (see `Scale`).
        dims: Ranges of extra axes, such as `{"layer": 3}`; what is left is reduced.
        wrap_after: Begin a new line after so many tokens, or after these tokens (see `breaks`).
        step_score_highlight: A step score that is written beside the generated tokens and colours them.
    """
    console = console or Console()
    items = [slice_dims(a, dims) for a in as_list(item)]
    for attribution in items:
        if step_score_highlight is not None:
            check_choice("step score", step_score_highlight, attribution.step_scores)
    scales = [Scale.of(a.token_scores(), min_val, max_val) for a in items]
    for index, (attribution, scale) in enumerate(zip(items, scales, strict=True)):
        if index:
            console.print()
        console.print(header(attribution, console.width))
        _show(attribution, scale, console, precision, wrap_after, step_score_highlight)


def _show(
    attribution: Attribution,
    scale: Scale,
    console: Console,
    precision: int,
    wrap_after: Wraps | None,
    highlight: str | None,
) -> None:
    colored = bool(console.color_system) and not console.no_color
    scores = attribution.token_scores().double().cpu().tolist()
    visible = attribution.visible.tolist()
    values = attribution.step_scores[highlight].double().cpu() if highlight is not None else None
    against = foils(attribution)
    ends = breaks([token.text for token in attribution.inputs], wrap_after)
    inputs = shown_inputs(attribution)
    exponent = exponent_of(Scale.of(attribution.token_scores()).limit, precision)
    for step, target in enumerate(attribution.targets):
        head = Text("\n▸ ", style="dim") + Text(label_text(target.text), style="bold")
        if values is not None and highlight is not None:
            head.stylize(shade(_rank(values, step)), 3)
            head += Text(f"  {printable(highlight)} {number(values[step], precision)}", style="dim")
        if against and against[step]:
            head += Text(f"  vs {against[step]}", style="dim")
        console.print(head)
        line, segment = Text("  "), None
        for i in inputs:
            if not visible[step][i]:
                continue
            token = attribution.inputs[i]
            if token.segment != segment:
                if segment is not None:
                    line = _flush(line, console)
                segment = token.segment
            shown = Text(label_text(token.text), style=shade(scale.share(scores[step][i])) if colored else "")
            if not colored:
                shown.append(f"({decimals(scores[step][i], exponent, precision)})")
            if cell_len(line.plain) + cell_len(shown.plain) > console.width and line.plain.strip():
                line = _flush(line, console)
            line += shown + Text(" ")
            if i in ends:
                line = _flush(line, console)
        _flush(line, console)
    if colored and scale.limit > 0:
        console.print(Text(f"\n{legend(scale)}", style="dim"))
    elif exponent:
        console.print(Text(f"\nin units of 1e{exponent:+03d}", style="dim"))


def _flush(line: Text, console: Console) -> Text:
    """Print a line; gives the next one."""
    if line.plain.strip():
        line.rstrip()
        console.print(line, overflow="fold")
    return Text("  ")


def _rank(values: Tensor, step: int) -> float:
    """Where a step's value lies between 0 or the smallest one and the largest."""
    finite = values[values.isfinite()]
    low, high = min(0.0, float(finite.min())) if len(finite) else 0.0, float(finite.max()) if len(finite) else 1.0
    value = float(values[step])
    return (value - low) / (high - low) if high > low and value == value else 0.0
