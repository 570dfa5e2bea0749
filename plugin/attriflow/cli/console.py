"""Where commands print. Whatever names and texts of others hold, a terminal gets no control characters of theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attriflow.errors import printable

if TYPE_CHECKING:
    from rich.console import Console


def console() -> Console:
    """Standard output; tables need more room than the 80 columns that pipes are given.

    What is printed is text: a folder named `[red]` or `:cat:` is no markup.
    """
    from rich.console import Console
    from rich.segment import Segment

    class Clean(Console):
        """Below all views, which know better what to make of such characters."""

        def render(self, renderable: Any, options: Any = None) -> Any:
            for segment in super().render(renderable, options):
                text = printable(segment.text)
                yield segment if segment.control or text == segment.text else Segment(text, segment.style)

    found = Clean(markup=False, emoji=False)
    return found if found.is_terminal else Clean(width=120, markup=False, emoji=False)


def say(message: str) -> None:
    """A message to the user, beside what the command prints."""
    import typer

    typer.echo(printable(message), err=True)


def whole(out: Console, line: str) -> None:
    """A line that is not wrapped: who copies a path or a command wants it in one piece."""
    out.print(line, soft_wrap=True, highlight=False)
