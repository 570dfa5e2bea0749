"""From measurements to tables: on the screen, as Markdown, as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks import BARS, MEAN_BAR

COLUMNS = (
    "method",
    "peer",
    "ours s",
    "peer s",
    "ratio",
    "bar",
    "ours in forwards",
    "peak MiB ours / peer",
    "grown MiB ours / peer",
    "floor s",
    "of floor",
    "scores",
)


def cells(row: Mapping[str, Any]) -> list[str]:
    """One line of the table."""
    ours, peer = row.get("ours"), row.get("theirs")
    label = row["method"] + (f" ({row['variant']})" if row["variant"] else "")
    memory = [_pair(ours, peer, key) for key in ("peak", "grown")]
    return [
        label,
        row["peer"],
        _number(ours and ours["seconds"]),
        _number(peer and peer["seconds"]),
        _number(row.get("ratio")),
        _bar(row),
        _number(row.get("forwards")),
        *memory,
        _number(row.get("floor_seconds")),
        f"{100 * row['of_floor']:.0f}%" if row.get("of_floor") else "",
        row.get("agreement") or row.get("note") or "",
    ]


def _bar(row: Mapping[str, Any]) -> str:
    if row.get("bar") is None:
        return ""
    return f"{row['bar']:g} " + ("met" if row["met"] else "MISSED")


def _pair(ours: Any, peer: Any, key: str) -> str:
    return " / ".join("" if m is None else f"{m[key] / 2**20:,.0f}" for m in (ours, peer)) if ours else ""


def _number(value: float | None) -> str:
    if value is None:
        return ""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(digits, 5)}f}"


def add_bars(rows: Sequence[dict[str, Any]], shape: str) -> None:
    """Whether each ratio against Inseq reaches the bar of its family."""
    for row in rows:
        bar = BARS.get(row["family"], {}).get(shape)
        if row["peer"] == "inseq" and not row["variant"] and row.get("ratio") is not None and bar is not None:
            row |= {"bar": bar, "met": row["ratio"] >= bar}


def geometric_mean(rows: Sequence[Mapping[str, Any]], peer: str) -> tuple[float, int] | None:
    """Geometric mean of the ratios against a peer (first variants only), and how many there are."""
    ratios = [r["ratio"] for r in rows if r["peer"] == peer and not r["variant"] and r.get("ratio")]
    return (math.exp(sum(map(math.log, ratios)) / len(ratios)), len(ratios)) if ratios else None


def summary(document: Mapping[str, Any]) -> list[str]:
    """Sentences under the table."""
    rows, lines = document["rows"], []
    for peer in document["peers"]:
        mean = geometric_mean(rows, peer)
        if mean is None:
            continue
        line = f"Geometric mean of the ratios against {peer}: {mean[0]:.2f} ({mean[1]} methods)"
        bar = MEAN_BAR.get(document["shape"]) if peer == "inseq" else None
        if bar is not None:
            line += f"; bar {bar:g}: {'met' if mean[0] >= bar else 'MISSED'}"
        lines.append(line + ".")
    judged = [r for r in rows if r.get("bar") is not None]
    if judged:
        missed = ", ".join(f"{r['method']} ({r['ratio']:.2f} < {r['bar']:g})" for r in judged if not r["met"])
        lines.append(
            f"Bars met: {sum(r['met'] for r in judged)} of {len(judged)}." + (f" Missed: {missed}." if missed else "")
        )
    return lines + list(document["notes"])


def title(document: Mapping[str, Any]) -> str:
    """What was measured."""
    t = document["tokens"]
    sides = "source + {} target" if document["encoder_decoder"] else "prompt + {} generated"
    return f"{document['shape']}: {t['prompt']} {sides.format(t['generated'])} tokens"


def setting(document: Mapping[str, Any]) -> str:
    """How it was measured."""
    versions = "; ".join(
        f"{name}: " + ", ".join(f"{k} {v}" for k, v in found.items()) for name, found in document["versions"].items()
    )
    return (
        f"{document['threads']} threads, float32, medians of up to {document['repeats']} interleaved rounds; "
        f"one forward {_number(document['forward_seconds'])} s, "
        f"{document['rate'] / 1e9:.1f} G multiply-adds per second. {versions}."
    )


def show(document: Mapping[str, Any]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if Console().is_terminal else 210)
    table = Table(*COLUMNS, title=title(document), caption=setting(document))
    for row in document["rows"]:
        table.add_row(*cells(row))
    console.print(table)
    for line in summary(document):
        console.print(line, markup=False)


def markdown(document: Mapping[str, Any]) -> str:
    """The same as Markdown."""
    lines = [f"## {title(document)}", "", setting(document), "", _line(COLUMNS), _line(["---"] * len(COLUMNS))]
    lines += [_line(cells(row)) for row in document["rows"]]
    lines += ["", *(f"{line}  " for line in summary(document))]
    return "\n".join(line.rstrip() if not line.endswith(".  ") else line for line in lines) + "\n"


def _line(values: Sequence[str]) -> str:
    return "| " + " | ".join(v.replace("|", "/") for v in values) + " |"


def write(document: Mapping[str, Any], folder: Path) -> None:
    """Save `SHAPE.json` and `SHAPE.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{document['shape']}.json").write_text(json.dumps(document, indent=1) + "\n")
    (folder / f"{document['shape']}.md").write_text(markdown(document))
