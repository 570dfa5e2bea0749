"""`show` and `convert`: files with attributions."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated

import typer

from attriflow.cli.console import console, say

SHOWN = 20

Source = Annotated[Path, typer.Argument(metavar="FILE", help=".safetensors, .json, .jsonl or .parquet file.")]


def show(
    file: Source,
    first: Annotated[int, typer.Option("--first", help="Attribution to begin with, counted from 0.", min=0)] = 0,
    number: Annotated[int, typer.Option("--number", "-n", help="Most attributions to print.", min=1)] = SHOWN,
) -> None:
    """Print saved attributions."""
    from attriflow.io import iterate
    from attriflow.views.console import show as show_on

    found = iterate(file)
    shown = list(itertools.islice(found, first, first + number))
    if not shown:
        say(f"{file} has no attribution {first}" if first else f"{file} has no attributions")
        return
    show_on(shown, console=console())
    if next(found, None) is not None:
        say(f"there are more: --first {first + number}, or --number")


def convert(
    source: Source,
    target: Annotated[
        Path, typer.Argument(metavar="FILE", help=".safetensors, .json, .jsonl, .parquet or .html file.")
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that exists.")] = False,
) -> None:
    """Write saved attributions in another format."""
    from attriflow.io import check_outputs, suffix_of
    from attriflow.io.files import read, write
    from attriflow.output import load

    page = suffix_of(target, ".html") == ".html"
    check_outputs([target], overwrite)
    if page:
        load(source).save(target, overwrite=overwrite)
    else:
        write(read(source), target, overwrite=overwrite)
    say(f"wrote {target}")
