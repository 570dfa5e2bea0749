"""The command line. Each command is a thin call; heavy packages are imported inside the commands."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from attriflow.errors import AttriflowError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command. A mistake is one line and exit code 1 (2 for wrong usage); `--debug` shows where it happened."""
    from attriflow.cli.app import app

    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    try:
        app([a for a in given if a != "--debug"], prog_name="attriflow")
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if debug or not _expected(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _expected(error: Exception) -> bool:
    """Mistakes of a user: our own errors, MLflow's, and files that are not there."""
    if isinstance(error, (AttriflowError, OSError)):
        return True
    mlflow = sys.modules.get("mlflow.exceptions")
    return mlflow is not None and isinstance(error, mlflow.MlflowException)
