"""`log`: what an evaluation kept when its tracking server went away."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from attriflow.cli.console import console, whole
from attriflow.cli.evaluate import place
from attriflow.cli.options import option

_RUN = "Run"


@dataclass(kw_only=True)
class LogOptions:
    """Options of `log`."""

    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What an evaluation kept.")]
    run: Annotated[str | None, option("Log to this run; its own one by default.", metavar="RUN_ID", panel=_RUN)] = None
    experiment: Annotated[str | None, option("Log to a new run of this experiment.", panel=_RUN)] = None
    tracking_uri: Annotated[
        str | None, option("MLflow store or server; the one that was away by default.", panel=_RUN)
    ] = None


def log(options: LogOptions) -> None:
    """Log what an evaluation kept when its server went away.

    It goes to the run that it belongs to; where the store does not have that, to a new one.
    """
    from attriflow.errors import InputError

    if options.run is not None and options.experiment is not None:
        raise InputError("give --run or --experiment, not both")
    from attriflow.tracking.keeping import log_kept
    from attriflow.tracking.quiet import quiet
    from attriflow.tracking.run_logger import LoggedRun

    with quiet():
        found = log_kept(
            options.folder, tracking_uri=options.tracking_uri, experiment=options.experiment, run=options.run
        )
    whole(console(), f"{place(LoggedRun(*found))} has everything; {options.folder} is no longer needed")
