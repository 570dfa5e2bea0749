"""The command line. Each command is a thin call; heavy packages are imported inside the commands."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from attriflow.errors import AttriflowError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 when it worked, 1 when it failed, 2 for wrong usage, 130 when interrupted.

    A mistake is one line; `--debug` shows where it happened.
    """
    from attriflow.cli.app import app

    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    try:
        code = app([a for a in given if a != "--debug"], prog_name="attriflow", standalone_mode=False)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if debug:
            raise
        sys.exit(_report(error))
    sys.exit(code if isinstance(code, int) else 0)


def _report(error: Exception) -> int:
    """Print a mistake; returns the exit code. Anything that is no mistake of the user's is raised again."""
    usage = getattr(error, "exit_code", None)  # typer's errors, whose classes moved from release to release
    if usage is not None and hasattr(error, "format_message"):
        context = getattr(error, "ctx", None)
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message())
            return int(usage)
        place = f" (see {context.command_path} --help)" if context is not None else ""
        print(f"error: {' '.join(error.format_message().split())}{place}", file=sys.stderr)
        return int(usage)
    if type(error).__name__ == "Abort":
        return 130
    if not _expected(error):
        raise error
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return 1


def _expected(error: Exception) -> bool:
    """Mistakes of a user: our own errors, MLflow's, and files that are not there."""
    if isinstance(error, (AttriflowError, OSError)):
        return True
    mlflow = sys.modules.get("mlflow.exceptions")
    return mlflow is not None and isinstance(error, mlflow.MlflowException)
