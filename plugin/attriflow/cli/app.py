"""The commands by name."""

from __future__ import annotations

from typing import Annotated

import typer

from attriflow.cli import (
    attribute,
    attribute_context,
    attribute_dataset,
    benchmark,
    browse,
    check,
    demo,
    evaluate,
    files,
    inspect,
    leaderboard,
    listing,
    log,
    options,
    plan,
)
from attriflow.cli.command import Command, add_command

app = typer.Typer(
    help="Why a generation model wrote what it wrote, and which explanation to believe.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # the list of commands comes without rich, which takes half of its time
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Names may be written with dashes or underscores. --debug, anywhere, shows the traceback of an error.",
)


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


add_command(app, "attribute", options.TextOptions, attribute.attribute)
add_command(app, "attribute-dataset", options.DatasetOptions, attribute_dataset.attribute_dataset)
add_command(app, "plan", plan.PlanOptions, plan.plan)
add_command(app, "attribute-context", attribute_context.ContextOptions, attribute_context.attribute_context)
add_command(app, "evaluate", evaluate.EvaluateOptions, evaluate.evaluate)
add_command(app, "benchmark", benchmark.BenchmarkOptions, benchmark.benchmark)
add_command(app, "inspect", inspect.InspectOptions, inspect.inspect)
add_command(app, "check", check.CheckOptions, check.check)
add_command(app, "leaderboard", leaderboard.LeaderboardOptions, leaderboard.leaderboard)
add_command(app, "log", log.LogOptions, log.log)
add_command(app, "app", browse.AppOptions, browse.app)
for function in (
    files.show,
    files.convert,
    listing.methods,
    listing.step_functions,
    listing.metrics,
    demo.demo,
):
    app.command(cls=Command)(function)
