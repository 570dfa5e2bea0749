"""The command line. Each command is a thin call; heavy packages are imported inside the commands."""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from attriflow.errors import AttriflowError, printable
from attriflow.kernels.stopping import heard, raise_once_more

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 when it worked, 1 when it failed, 2 for wrong usage, 130 when interrupted.

    Where `check` has no verdict it is 2, too. A mistake is one line; `--debug` shows where it happened.
    """
    from attriflow.cli.app import app

    given = list(sys.argv[1:] if arguments is None else arguments)
    pressed = list[bool]()
    try:
        with _noticing(pressed):
            code = app([a for a in given if a != "--debug"] or ["--help"], prog_name="attriflow", standalone_mode=False)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if "--debug" in given:
            traceback.print_exception(error)
        if pressed:  # an import that is interrupted raises whatever its package makes of that
            sys.exit(130)
        sys.exit(_report(error))
    sys.exit(code if isinstance(code, int) else 0)


@contextmanager
def _noticing(pressed: list[bool]) -> Iterator[None]:
    """Within the block, Ctrl-C is noted in a list, and interrupts, also where errors are ignored."""
    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        pressed.append(True)
        raise_once_more(KeyboardInterrupt())

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        heard()


def _report(error: Exception) -> int:
    """Print an error as one line; returns the exit code."""
    if type(error).__name__ == "Abort":
        return 130
    message, code, where = str(error), getattr(error, "exit_code", 1), ""
    if hasattr(error, "format_message"):  # typer's errors, whose classes moved from release to release
        message = error.format_message()
        context = getattr(error, "ctx", None)
        where = f" (see {context.command_path} --help)" if context is not None else ""
    elif not _expected(error):
        message, where = f"{type(error).__name__}: {error}", " (--debug shows where)"
    print(f"error: {' '.join(printable(message).split())}{where}", file=sys.stderr)
    return int(code)


def _expected(error: Exception) -> bool:
    """Mistakes of a user: our own errors, MLflow's, and files that are not there."""
    if isinstance(error, (AttriflowError, OSError)):
        return True
    mlflow = sys.modules.get("mlflow.exceptions")
    return mlflow is not None and isinstance(error, mlflow.MlflowException)
