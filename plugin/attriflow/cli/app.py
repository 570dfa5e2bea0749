"""The commands."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from attriflow.registry import Registry

app = typer.Typer(
    help="Why a generation model wrote what it wrote, and which explanation to believe.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="--debug, anywhere, shows the traceback of an error.",
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for the report and the MLflow store.")]


def version(wanted: bool) -> None:
    """Print the version and stop."""
    if wanted:
        import attriflow

        typer.echo(attriflow.__version__)
        raise typer.Exit


@app.callback()
def root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before a command."""


@app.command()
def demo(
    output: Output = Path("demo-output"),
    examples: Annotated[int, typer.Option(min=1, max=200, help="Examples per model.")] = 32,
) -> None:
    """Evaluate every method on two tiny models that come with attriflow; no network needed."""
    from attriflow.tracking.demo import run_demo

    run_demo(output, console(), examples)


@app.command()
def methods(as_json: Json = False) -> None:
    """List the attribution methods and their options."""
    from attriflow.registry import methods as registry

    _list(registry, ("family",), as_json, details=("cost", "axes"))


@app.command()
def step_functions(as_json: Json = False) -> None:
    """List what can be scored, and explained, at each step."""
    from attriflow.registry import step_functions as registry

    _list(registry, ("unit",), as_json)


@app.command()
def metrics(as_json: Json = False) -> None:
    """List the metrics that score explanations."""
    from attriflow.registry import metrics as registry

    _list(registry, ("family", "higher_is_better"), as_json)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="MLflow model URI; or a folder, Hugging Face name or demo/<name>.")],
    data: Annotated[str, typer.Argument(help="A .csv, .json, .jsonl or .parquet file; or demo/<name>.")],
    inputs: Annotated[Optional[str], typer.Option(help="Column of input texts.")] = None,  # noqa: UP045
    targets: Annotated[Optional[str], typer.Option(help="Column of targets; without it they are generated.")] = None,  # noqa: UP045
    rationale: Annotated[Optional[str], typer.Option(help="Column of evidence spans.")] = None,  # noqa: UP045
    methods: Annotated[str, typer.Option(help="'all' or names separated by commas.")] = "all",
    step_functions: Annotated[str, typer.Option(help="'all' or names separated by commas.")] = "all",
    metrics: Annotated[str, typer.Option(help="'all' or names separated by commas.")] = "all",
    attributed_fn: Annotated[str, typer.Option(help="Step function that is explained.")] = "probability",
    batch_size: Annotated[Optional[int], typer.Option(min=1, help="Examples per batch.")] = None,  # noqa: UP045
    device: Annotated[str, typer.Option(help="'auto', 'cpu', 'cuda', ...")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    max_examples: Annotated[Optional[int], typer.Option(min=1, help="Use the first rows only.")] = None,  # noqa: UP045
    tracking_uri: Annotated[Optional[str], typer.Option(help="MLflow store or server.")] = None,  # noqa: UP045
    experiment: Annotated[Optional[str], typer.Option(help="MLflow experiment.")] = None,  # noqa: UP045
) -> None:
    """Run methods over a data set, score them, and log everything to MLflow."""
    from attriflow.tracking.command import evaluate_command

    evaluate_command(
        model,
        data,
        console=console(),
        targets=targets,
        tracking_uri=tracking_uri,
        experiment=experiment,
        config={
            "inputs": inputs,
            "rationale": rationale,
            "methods": methods,
            "step_functions": step_functions,
            "metrics": metrics,
            "attributed_fn": attributed_fn,
            "batch_size": batch_size or "auto",
            "device": device,
            "seed": seed,
            "max_examples": max_examples,
        },
    )


def console() -> Console:
    """Standard output; leaderboards need more room than the 80 columns that pipes are given."""
    from rich.console import Console

    found = Console()
    return found if found.is_terminal else Console(width=120)


def _list(registry: Registry, columns: tuple[str, ...], as_json: bool, details: tuple[str, ...] = ()) -> None:
    """Print the parts of a registry: some metadata as columns, details and options below the summary."""
    parts = list(registry)
    if as_json:
        rows = [{"name": p.name, "summary": p.summary, "options": dict(p.options), **dict(p.meta)} for p in parts]
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
            lines.append("options: " + "  ".join(f"{k}={v}" for k, v in part.options.items()))
        if lines:
            what.append("\n" + "\n".join(lines), style="dim")
        table.add_row(part.name, *(Text(_cell(part.meta.get(c))) for c in columns), what)
    console().print(table)


def _without_formulas(text: str) -> str:
    return re.sub(r",?\s*\$[^$]*\$", "", text)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (tuple, list)):
        return ", ".join(map(str, value))
    return str(value)
