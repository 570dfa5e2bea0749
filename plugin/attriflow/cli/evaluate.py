"""`evaluate`: methods over data sets, logged to MLflow."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attriflow.cli.command import read_config
from attriflow.cli.console import console
from attriflow.cli.options import json_option, known, option

if TYPE_CHECKING:
    from mlflow.models.evaluation.base import EvaluationResult
    from rich.table import Table

    from attriflow.tracking.run_logger import LoggedRun

_DATA, _RUN, _PARTS = "Data", "Run", "Parts"


@dataclass(kw_only=True)
class EvaluateOptions:
    """Options of `evaluate`; all but the first and the last ones are settings of `EvaluationConfig`."""

    model: Annotated[str, typer.Argument(help="MLflow model URI; or a folder, Hugging Face name or demo/<name>.")]
    data: Annotated[
        str,
        typer.Argument(
            help="A .csv, .json, .jsonl or .parquet file; demo/<name>; scat:FILE, eraser:FOLDER, hatexplain:FILE; "
            "or a Hugging Face data set."
        ),
    ]
    inputs: Annotated[str | None, option("Column of input texts.", panel=_DATA)] = None
    targets: Annotated[str | None, option("Column of targets; without it they are generated.", panel=_DATA)] = None
    rationale: Annotated[str | None, option("Column of evidence spans.", panel=_DATA)] = None
    max_examples: Annotated[int | None, option("Use the first rows only.", min=1, panel=_DATA)] = None
    dataset_split: Annotated[
        str, option("Split, or a part of it such as train[:20].", "--dataset-split", "--split", panel=_DATA)
    ] = "train"
    dataset_config: Annotated[str | None, option("Configuration of a Hugging Face data set.", panel=_DATA)] = None
    methods: Annotated[
        list[str] | None,
        option("Names separated by commas; all when not given.", panel=_PARTS, autocompletion=known("methods")),
    ] = None
    step_functions: Annotated[
        list[str] | None, option("The same.", panel=_PARTS, autocompletion=known("step_functions"))
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
    method_options: Annotated[dict[str, Any] | None, json_option("Method -> options", panel=_PARTS)] = None
    step_function_options: Annotated[dict[str, Any] | None, json_option("Step function -> options", panel=_PARTS)] = (
        None
    )
    metric_options: Annotated[dict[str, Any] | None, json_option("Metric -> options", panel=_PARTS)] = None
    generation_args: Annotated[
        dict[str, Any] | None,
        json_option("Arguments of generate", "--generation-args", "--generation-kwargs", panel=_RUN),
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
    batch_size: Annotated[
        int | None, option("Examples per batch; by length when not given.", "--batch-size", "-bs", min=1, panel=_RUN)
    ] = None
    device: Annotated[str, option("auto, cpu, cuda, ...", "--device", "--dev", panel=_RUN)] = "auto"
    seed: Annotated[int, option("Seed of everything random.", min=0, panel=_RUN)] = 0
    throughput: Annotated[
        bool, option("Measure throughput and memory, not only seconds.", "--throughput/--no-throughput", panel=_RUN)
    ] = True
    reexplain_examples: Annotated[
        int | None, option("Examples explained again for robustness and sanity metrics.", min=1, panel=_RUN)
    ] = None
    report_examples: Annotated[int, option("Examples in the report.", min=0, panel=_RUN)] = 5
    fail_fast: Annotated[bool, option("Stop at the first method that fails.", "--fail-fast", panel=_RUN)] = False
    tracking_uri: Annotated[str | None, option("MLflow store or server.", panel=_RUN)] = None
    experiment: Annotated[str | None, option("MLflow experiment.", panel=_RUN)] = None
    config: Annotated[
        str | None,
        option(
            "YAML file of options by name; the command line wins.",
            metavar="FILE",
            panel=_RUN,
            is_eager=True,
            callback=read_config,
        ),
    ] = None

    def settings(self) -> dict[str, Any]:
        """The evaluator's configuration; what was not given is left to it."""
        from attriflow.evaluation.config import EvaluationConfig

        keys = EvaluationConfig.keys()
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.name in keys}
        names = {key: ",".join(value) for key, value in given.items() if isinstance(value, list) and value}
        return {key: names.get(key, value) for key, value in given.items() if value not in (None, [], ())}


def evaluate(options: EvaluateOptions) -> None:
    """Score methods on a data set; log to MLflow.

    Every attribution, plots, a report and a leaderboard are logged to a run.
    """
    from attriflow.tracking.evaluate import evaluate as run

    found = run(
        options.model,
        options.data,
        options.settings(),
        split=options.dataset_split,
        dataset_config=options.dataset_config,
        targets=options.targets,
        tracking_uri=options.tracking_uri,
        experiment=options.experiment,
    )
    out = console()
    out.print(leaderboard_of(found.result, options.model))
    out.print(place(found.run), soft_wrap=True, highlight=False)


def leaderboard_of(result: EvaluationResult, name: str) -> Table:
    """The table of an evaluation's methods."""
    from attriflow.evaluation.tables import directions
    from attriflow.registry import metrics
    from attriflow.views.evaluations.console_leaderboard import leaderboard_table

    board: Any = result.artifacts["leaderboard"].content
    return leaderboard_table(board, directions(metrics.names()), title=f"Leaderboard: {name}")


def place(run: LoggedRun) -> str:
    """Where something was logged."""
    return f"MLflow run {run.run_id} in {run.tracking_uri}"
