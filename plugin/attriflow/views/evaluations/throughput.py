"""Benchmarks as a table for the terminal and as plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from attriflow.views.common import as_float, as_text, compact, printable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

HEADS = {
    "forward_equivalents": "forward\nequiv.",
    "floor_forward_equivalents": "floor",
    "fraction_of_floor": "of\nfloor",
    "model_flops_utilisation": "of\nmatmul",
    "target_tokens_per_second": "tokens\n/ s",
    "attributions_per_second": "attrib.\n/ s",
    "seconds": "seconds",
    "peak_memory_mb": "peak\nMB",
    "largest_batch": "largest\nbatch",
}
SHARES = ("fraction_of_floor", "model_flops_utilisation")
LEGEND = (
    "forward equiv.: time over that of a teacher-forced forward pass of the same examples; floor: the fewest "
    "multiply-adds in the same unit; of matmul: multiply-adds of the floor per second over those of a large matrix "
    "product"
)


def shown_columns(frame: pd.DataFrame) -> list[str]:
    """Columns that have a value for some method."""
    return [c for c in HEADS if c in frame and any(_cell(c, v) != "–" for v in frame[c])]


def _cell(column: str, value: Any) -> str:
    if column == "largest_batch":
        return as_text(value) or "–"
    number = as_float(value)
    return "–" if number is None else f"{100 * number:.0f}%" if column in SHARES else compact(number)


def throughput_table(frame: pd.DataFrame, title: str = "Throughput", memory: str = "") -> Table:
    """A benchmark as a table for the terminal, failed methods dim with their reason.

    Args:
        frame: One row per method (`evaluation.benchmark.table`).
        title: Title above the table.
        memory: What the peak counts.
    """
    columns = shown_columns(frame)
    out = Table(
        title=Text(printable(title), "bold"), box=box.SIMPLE_HEAD, padding=0, pad_edge=False, title_justify="left"
    )
    out.add_column("method", overflow="fold", min_width=12, vertical="bottom")
    for name in columns:
        out.add_column(HEADS[name], justify="right", no_wrap=True, vertical="bottom")
    notes = [LEGEND + (f"; peak MB of {memory}" if memory else "")] if len(frame) else []
    for row in frame.to_dict("records"):
        name, failed = printable(as_text(row["method"])), row["status"] != "ok"
        out.add_row(Text(name), *("" if failed else _cell(c, row[c]) for c in columns), style="dim" if failed else "")
        if failed:
            notes.append(f"✗ {name}: {printable(as_text(row['reason']))}")
    out.caption, out.caption_justify, out.caption_style = Text("\n".join(notes)), "left", "dim"
    return out


def markdown(frame: pd.DataFrame) -> str:
    """The same as a Markdown table."""
    columns = shown_columns(frame)
    heads = ["method", *(HEADS[c].replace("\n", " ") for c in columns)]
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * len(columns)]
    for row in frame.to_dict("records"):
        name = f"`{as_text(row['method'])}`"
        cells = [_cell(c, row[c]) for c in columns]
        if row["status"] != "ok":
            cells = [f"failed: {as_text(row['reason'])}".replace("|", "/"), *[""] * (len(columns) - 1)]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines) + "\n"


def cost_bars(frame: pd.DataFrame) -> Figure:
    """Forward-pass equivalents of each method (log scale), with its arithmetic floor as a mark."""
    from attriflow.views.figures import BLUE, NOTE, ORANGE, TITLE, blank, clean, message

    rows = [r for r in frame.to_dict("records") if as_float(r["forward_equivalents"])]
    if not rows:
        return message("No method was measured.")
    rows.sort(key=lambda r: -float(r["forward_equivalents"]))
    names = [printable(as_text(r["method"])) for r in rows]
    costs = [float(r["forward_equivalents"]) for r in rows]
    floors = [as_float(r.get("floor_forward_equivalents")) for r in rows]
    figure = blank(8, 1.2 + 0.3 * len(rows))
    axes = figure.add_subplot()
    least = min(costs + [f for f in floors if f])
    axes.barh(range(len(rows)), costs, left=0, color=BLUE, alpha=0.75, height=0.66)
    axes.set_xscale("log")
    axes.set_xlim(least / 2, max(costs) * 2.4)
    known = [(i, f) for i, f in enumerate(floors) if f]
    if known:
        axes.scatter([f for _, f in known], [i for i, _ in known], marker="|", s=190, linewidths=2.4, color=ORANGE,
                     label="arithmetic floor", zorder=3)  # fmt: skip
        axes.legend(loc="upper right", frameon=False, fontsize=10)
    for i, cost in enumerate(costs):
        axes.annotate(compact(cost), (cost, i), (5, 0), textcoords="offset points", va="center", fontsize=9)
    clean(axes, "x")
    axes.set_yticks(range(len(rows)), names, fontsize=10, parse_math=False)
    axes.set_title("Cost in forward passes", **TITLE)
    axes.set_xlabel("time over that of one teacher-forced forward pass of the same examples (log scale)", **NOTE)
    return figure


def batch_curves(curves: Mapping[str, Sequence[tuple[int, float]]]) -> Figure:
    """Target tokens per second against the size of the batch, one line per method.

    Args:
        curves: Method -> (examples per batch, target tokens per second).
    """
    from attriflow.views.figures import NOTE, TITLE, blank, clean, message

    shown = {name: points for name, points in curves.items() if len(points) > 1}
    if not shown:
        return message("No batches were tried.")
    import seaborn as sns

    figure = blank(10, 5.5)
    axes = figure.add_subplot()
    palette = sns.color_palette("colorblind", 10)
    ordered = sorted(shown.items(), key=lambda item: -item[1][-1][1])
    for i, (name, points) in enumerate(ordered):
        style = ("-", "--", ":")[i // 10 % 3]
        axes.plot([s for s, _ in points], [t for _, t in points], marker="o", markersize=4, linestyle=style,
                  color=palette[i % 10], label=printable(name))  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    sizes = sorted({s for points in shown.values() for s, _ in points if s & (s - 1) == 0})
    axes.set_xticks(sizes, [str(s) for s in sizes])
    axes.minorticks_off()
    clean(axes)
    axes.set_title("Throughput by batch size", **TITLE)
    axes.set_xlabel("examples per batch", **NOTE)
    axes.set_ylabel("target tokens per second", **NOTE)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return figure
