"""`demo`: every method on two tiny models."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from attriflow.cli.console import console, whole
from attriflow.cli.evaluate import leaderboard_of

DESCRIPTIONS = {
    "recall": "a causal language model that answers questions about facts in its prompt",
    "translate": "an encoder-decoder that translates a toy English into a toy Italian",
}


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the report and the MLflow store.")] = Path(
        "demo-output"
    ),
    examples: Annotated[int, typer.Option(min=1, max=200, help="Examples per model.")] = 32,
) -> None:
    """Evaluate every method on two tiny models.

    They come with attriflow; no network is needed.
    """
    from rich.text import Text

    from attriflow.tracking.demo import run_demo

    out, started = console(), time.perf_counter()
    done = run_demo(
        output,
        examples,
        on_start=lambda name: out.print(
            Text.assemble(
                (f"\ndemo/{name}", "bold"), f": {DESCRIPTIONS[name]}; {examples} examples it has not seen ..."
            )
        ),
        on_result=lambda name, result: out.print(leaderboard_of(result, f"demo/{name}")),
    )
    for line in (
        f"Done in {time.perf_counter() - started:.0f} s.",
        f"Report:    {_shown(done.report)}",
        f"MLflow UI: {_shown(_mlflow_command())} ui --backend-store-uri sqlite:///{_shown(done.store)}",
    ):
        whole(out, line)


def _shown(path: Path) -> str:
    """The shorter of a path's two forms, for copying."""
    return min(str(path), os.path.relpath(path), key=len)


def _mlflow_command() -> Path:
    beside = Path(sys.executable).parent / "mlflow"
    return beside if beside.exists() else Path(shutil.which("mlflow") or "mlflow")
