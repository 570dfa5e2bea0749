"""Where commands print."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def console() -> Console:
    """Standard output; tables need more room than the 80 columns that pipes are given.

    What is printed is text: a folder named `[red]` or `:cat:` is no markup.
    """
    from rich.console import Console

    found = Console(markup=False, emoji=False)
    return found if found.is_terminal else Console(width=120, markup=False, emoji=False)


def say(message: str) -> None:
    """A message to the user, beside what the command prints."""
    import typer

    typer.echo(message, err=True)


def whole(out: Console, line: str) -> None:
    """A line that is not wrapped: who copies a path or a command wants it in one piece."""
    out.print(line, soft_wrap=True, highlight=False)
