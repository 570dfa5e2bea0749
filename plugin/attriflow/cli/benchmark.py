"""`benchmark`: throughput of methods on a model and data of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from attriflow.cli.console import console, say, whole
from attriflow.cli.evaluate import place
from attriflow.cli.options import RowsOptions, option, overwrite_option
from attriflow.errors import InputError

_DATA, _MEASURE, _OUTPUT = "Data", "Measurement", "Output"


@dataclass(kw_only=True)
class BenchmarkOptions(RowsOptions):
    """Options of `benchmark`."""

    model: Annotated[
        str,
        option("MLflow model URI, folder, Hugging Face name or demo/<name>.", "--model", "-m", panel=_DATA),
    ]
    data: Annotated[
        str,
        option(
            "A .csv, .json, .jsonl or .parquet file; demo/<name>; or a Hugging Face data set.",
            "--data",
            "-d",
            panel=_DATA,
        ),
    ]
    max_examples: Annotated[int, option("Use the first rows only.", min=1, panel=_DATA)] = 16
    dtype: Annotated[str | None, option("float32, bfloat16, ...; the checkpoint's own by default.", panel=_DATA)] = None
    rounds: Annotated[int, option("Most timed rounds per method.", min=3, panel=_MEASURE)] = 9
    seconds: Annotated[float, option("Time for the rounds of a method.", panel=_MEASURE)] = 3.0
    find_batch: Annotated[
        bool, option("Search the largest batch that fits.", "--find-batch/--no-find-batch", panel=_MEASURE)
    ] = True
    most: Annotated[int, option("Largest batch to try.", "--largest-batch", min=1, panel=_MEASURE)] = 1024
    batch_seconds: Annotated[float, option("Time for that search, per method.", panel=_MEASURE)] = 10.0
    output: Annotated[
        Path | None,
        option("JSON file to write, which attriflow check reads.", "--output", "-o", metavar="FILE", panel=_OUTPUT),
    ] = None
    overwrite: Annotated[bool, overwrite_option(_OUTPUT)] = False
    log: Annotated[bool, option("Log to MLflow.", "--log/--no-log", panel=_OUTPUT)] = True


def benchmark(options: BenchmarkOptions) -> None:
    """Measure the throughput of methods on your model.

    Times are compared with forward passes of the same examples. The table, plots and the largest batch that fits are
    logged to an MLflow run.
    """
    if options.output is not None and options.output.suffix != ".json":
        raise InputError(f"the output is a .json file, not {options.output}")
    from attriflow.io import check_outputs

    check_outputs([options.output], options.overwrite)
    from attriflow.tracking.benchmark import measure

    if options.log:
        from attriflow.tracking.run_logger import check_store

        check_store(options.tracking_uri, options.experiment)
    found = measure(
        options.model,
        options.data,
        options.settings(),
        split=options.dataset_split,
        dataset_config=options.dataset_config,
        targets=options.targets,
        dtype=options.dtype,
        rounds=(3, options.rounds),
        seconds=options.seconds,
        find_batch=options.find_batch,
        most=options.most,
        batch_seconds=options.batch_seconds,
    )
    from attriflow.evaluation.data import say_failed
    from attriflow.views.evaluations.throughput import throughput_table

    say_failed(found.rows, say)
    out, device = console(), found.surroundings["device"]
    title = f"Throughput: {options.model}, {found.counts['n_examples']} examples, {device}"
    out.print(throughput_table(found.table, title=title, memory=found.memory))
    if options.output is not None:
        found.write(options.output, overwrite=options.overwrite)
        whole(out, f"wrote {options.output}")
    if options.log:
        logged = found.log(options.tracking_uri, options.experiment)
        whole(out, place(logged))
