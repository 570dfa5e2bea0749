"""`evaluate`: methods over data sets, logged to MLflow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attriflow.cli.console import console, whole
from attriflow.cli.options import (
    RowsOptions,
    WorkersOptions,
    gates_option,
    json_option,
    known,
    min_coverage_option,
    option,
)

if TYPE_CHECKING:
    from mlflow.models.evaluation.base import EvaluationResult
    from rich.table import Table

    from attriflow.tracking.run_logger import LoggedRun

_DATA, _RUN, _PARTS = "Data", "Run", "Parts"


@dataclass(kw_only=True)
class EvaluateOptions(RowsOptions, WorkersOptions):
    """Options of `evaluate`; all but the first two and `resume` are settings of `EvaluationConfig`."""

    model: Annotated[str, typer.Argument(help="MLflow model URI; or a folder, Hugging Face name or demo/<name>.")]
    data: Annotated[
        str,
        typer.Argument(
            help="A .csv, .json, .jsonl or .parquet file; demo/<name>; scat:, eraser:, hatexplain:, agreement:FILE; "
            "or a Hugging Face data set."
        ),
    ]
    rationale: Annotated[str | None, option("Column of evidence spans.", panel=_DATA)] = None
    max_examples: Annotated[int | None, option("Use the first rows only.", min=1, panel=_DATA)] = None
    step_functions: Annotated[
        list[str] | None,
        option("Names separated by commas; all when not given.", panel=_PARTS, autocompletion=known("step_functions")),
    ] = None
    metrics: Annotated[
        list[str] | None,
        option(
            "Names separated by commas, or all; ferret's six when not given.",
            panel=_PARTS,
            autocompletion=known("metrics"),
        ),
    ] = None
    attributed_fn: Annotated[
        str,
        option(
            "Step function that is explained.",
            "--attributed-fn",
            "-fn",
            panel=_PARTS,
            autocompletion=known("step_functions"),
        ),
    ] = "probability"
    attributed_fn_args: Annotated[dict[str, Any] | None, json_option("Its options", panel=_PARTS)] = None
    step_function_options: Annotated[dict[str, Any] | None, json_option("Step function -> options", panel=_PARTS)] = (
        None
    )
    metric_options: Annotated[dict[str, Any] | None, json_option("Metric -> options", panel=_PARTS)] = None
    masked_lm: Annotated[
        str | None, option("Masked language model that 'masked_lm' draws from.", "--masked-lm", panel=_PARTS)
    ] = None
    attribute_target: Annotated[
        bool,
        option(
            "Encoder-decoders: explain by the target prefix too.",
            "--attribute-target",
            "--do-prefix-attribution",
            panel=_RUN,
        ),
    ] = False
    throughput: Annotated[
        bool, option("Measure throughput and memory, not only seconds.", "--throughput/--no-throughput", panel=_RUN)
    ] = True
    reexplain_examples: Annotated[
        int | None, option("Examples explained again for robustness and sanity metrics.", min=1, panel=_RUN)
    ] = None
    min_coverage: Annotated[float, min_coverage_option(_RUN)] = 0.5
    gates: Annotated[bool, gates_option(_RUN)] = True
    multiverse: Annotated[
        bool,
        option("Also try every defensible choice, and say how far ranks depend on them.", "--multiverse", panel=_RUN),
    ] = False
    multiverse_rows: Annotated[
        int, option("Most rows of it; what departs least from the settings comes first.", min=1, panel=_RUN)
    ] = 300
    report_examples: Annotated[int, option("Examples in the report.", min=0, panel=_RUN)] = 5
    traces: Annotated[
        int | None,
        option("Examples that get a trace in MLflow, spread evenly; 100 by default.", min=0, panel=_RUN),
    ] = None
    no_traces: Annotated[bool, option("No traces.", "--no-traces", panel=_RUN)] = False
    resume: Annotated[
        str | None,
        option("Go on with an evaluation that was broken off, in its run.", metavar="RUN_ID", panel=_RUN),
    ] = None
    fail_fast: Annotated[bool, option("Stop at the first method that fails.", "--fail-fast", panel=_RUN)] = False

    def settings(self) -> dict[str, Any]:
        """The settings of `EvaluationConfig` that were given."""
        return {**super().settings(), **({"traces": False} if self.no_traces else {})}


def evaluate(options: EvaluateOptions) -> None:
    """Score methods on a data set; log to MLflow.

    Every attribution, plots, a report and a leaderboard are logged to a run.
    """
    from attriflow.tracking.command import evaluate as run

    found = run(
        options.model,
        options.data,
        options.settings(),
        split=options.dataset_split,
        dataset_config=options.dataset_config,
        targets=options.targets,
        tracking_uri=options.tracking_uri,
        experiment=options.experiment,
        resume=options.resume,
    )
    out = console()
    out.print(leaderboard_of(found.result, options.model))
    whole(out, place(found.run))


def leaderboard_of(result: EvaluationResult, name: str) -> Table:
    """The table of an evaluation's methods."""
    from attriflow.evaluation.tables import directions
    from attriflow.registry import metrics
    from attriflow.views.evaluations.console_leaderboard import leaderboard_table

    board: Any = result.artifacts["leaderboard"].content
    return leaderboard_table(
        board, directions([name for name in metrics.names() if name in board]), title=f"Leaderboard: {name}"
    )


def place(run: LoggedRun) -> str:
    """Where something was logged."""
    return f"MLflow run {run.run_id} in {run.tracking_uri}"
