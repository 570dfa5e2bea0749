"""`leaderboard`: evaluations in an MLflow store, compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from attriflow.cli.console import console, whole
from attriflow.cli.options import (
    config_option,
    gates_option,
    known,
    min_coverage_option,
    option,
    overwrite_option,
    store_option,
)

_RUNS, _OUTPUT = "Evaluations", "Output"


@dataclass(kw_only=True)
class LeaderboardOptions:
    """Options of `leaderboard`."""

    experiment: Annotated[
        list[str] | None, option("Names of experiments.", "--experiment", "-e", panel=_RUNS, show_default=False)
    ] = None
    runs: Annotated[list[str] | None, option("Ids of evaluations.", panel=_RUNS, show_default=False)] = None
    tracking_uri: Annotated[str | None, store_option(panel=_RUNS)] = None
    by: Annotated[str, option("What a row is: method, model or both.", panel=_OUTPUT)] = "method"
    output: Annotated[
        list[str] | None,
        option(
            "Files, or formats: html, csv, md, json, png.",
            "--output",
            "-o",
            metavar="FILE",
            panel=_OUTPUT,
            show_default=False,
        ),
    ] = None
    overwrite: Annotated[bool, overwrite_option(_OUTPUT)] = False
    log_to: Annotated[str | None, option("Run that gets everything as artifacts.", metavar="RUN_ID", panel=_OUTPUT)] = (
        None
    )
    quality: Annotated[
        list[str] | None,
        option(
            "Metrics of the critical-difference diagrams; one of each family when not given.",
            panel=_OUTPUT,
            autocompletion=known("metrics"),
            show_default=False,
        ),
    ] = None
    min_coverage: Annotated[float, min_coverage_option(_OUTPUT)] = 0.5
    gates: Annotated[bool, gates_option(_OUTPUT)] = True
    seed: Annotated[int, option("Seed of resampling.", min=0, panel=_OUTPUT)] = 0
    config: Annotated[str | None, config_option(panel=_OUTPUT)] = None


def leaderboard(options: LeaderboardOptions) -> None:
    """Compare evaluations from an MLflow store.

    Means with intervals, ranks, wins and losses by paired tests, costs, failures; printed, written to files, or logged
    to a run.
    """
    from attriflow.io import check_outputs
    from attriflow.tracking import leaderboard as boards
    from attriflow.views.evaluations.console_leaderboard import leaderboard_table
    from attriflow.views.evaluations.standings import plotted

    files = [boards.target(name) for name in options.output or ()]
    check_outputs(files, options.overwrite)
    found = boards.leaderboard(
        options.experiment or (),
        options.runs or (),
        by=options.by,
        log_to=options.log_to,
        quality=options.quality or (),
        tracking_uri=options.tracking_uri,
        seed=options.seed,
        min_coverage=options.min_coverage,
        gates=options.gates,
    )
    out, board = console(), found.board
    for group, rows in board.rows.groupby("group", sort=False):
        head = f"{found.title}, {rows['model'].iloc[0]} on {rows['data'].iloc[0]}" if group else found.title
        out.print(leaderboard_table(plotted(board, str(group)), board.higher_is_better, title=head))
    for note in board.notes:
        out.print(note, highlight=False)
    for path in files:
        for written in found.write(path, overwrite=options.overwrite):
            whole(out, f"wrote {written}")
    if options.log_to:
        run, folder = found.log()
        whole(out, f"logged to run {run}, artifacts {folder}")
