"""`methods`, `step-functions`, `metrics`: what there is to choose from."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attriflow.cli.console import console

if TYPE_CHECKING:
    from attriflow.registry import PartInfo, Registry

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def methods(as_json: Json = False) -> None:
    """List the attribution methods and their options."""
    from attriflow.registry import methods as registry

    _list(registry, ("family",), as_json, details=("cost", "axes"))


def step_functions(as_json: Json = False) -> None:
    """List what can be scored, and explained, at each step."""
    from attriflow.registry import step_functions as registry

    _list(registry, ("unit",), as_json)


def metrics(as_json: Json = False) -> None:
    """List the metrics that score explanations."""
    from attriflow.registry import metrics as registry

    _list(registry, ("family", "better", "range", "needs"), as_json, details=("cost", "source"))


def _list(registry: Registry, columns: tuple[str, ...], as_json: bool, details: tuple[str, ...] = ()) -> None:
    """Print the parts of a registry: some metadata as columns, details and options below the summary."""
    parts = list(registry)
    if as_json:
        rows = [
            {
                "name": p.name,
                "summary": p.summary,
                "options": dict(p.options),
                "allowed": {option: p.allowed(option) for option in p.options},
                **dict(p.meta),
            }
            for p in parts
        ]
        rows = [{key: value for key, value in row.items() if not callable(value)} for row in rows]
        typer.echo(json.dumps(rows, indent=2, default=str))
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("name", no_wrap=True)
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    table.add_column("what it is, and its options", ratio=1, overflow="fold")
    for part in parts:
        what = Text(_without_formulas(part.summary))
        lines = [f"{name}: {part.meta[name]}" for name in details if name in part.meta]
        if part.options:
            lines.append("options: " + "  ".join(_option(part, k, v) for k, v in part.options.items()))
        if lines:
            what.append("\n" + "\n".join(lines), style="dim")
        table.add_row(part.name, *(Text(_column(part, c)) for c in columns), what)
    console().print(table)


def _option(part: PartInfo, name: str, default: Any) -> str:
    """An option with its default, and the other values that it has by name."""
    others = ", ".join(str(c) for c in part.choices(name) if c != default)
    return f"{name}={default} (or {others})" if others else f"{name}={default}"


def _without_formulas(text: str) -> str:
    return re.sub(r",?\s*\$[^$]*\$", "", text)


def _column(part: PartInfo, name: str) -> str:
    """A piece of metadata as a reader wants it."""
    if name == "better" and isinstance(part.meta.get("higher_is_better"), bool):
        return "higher" if part.meta["higher_is_better"] else "lower"
    if name == "range" and "range" in part.meta:
        low, high = part.meta["range"]
        return f"{'' if low is None else f'{low:g}'}..{'' if high is None else f'{high:g}'}"
    return _cell(part.meta.get(name))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (tuple, list)):
        return ", ".join(map(str, value))
    return str(value)
