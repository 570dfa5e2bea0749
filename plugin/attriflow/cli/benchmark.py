"""`benchmark`: throughput of methods on a model and data of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from attriflow.cli.command import read_config
from attriflow.cli.console import console
from attriflow.cli.evaluate import place
from attriflow.cli.options import json_option, known, option
from attriflow.errors import InputError

_DATA, _PARTS, _MEASURE, _RUN = "Model and data", "Methods", "Measurement", "Run"


@dataclass(kw_only=True)
class BenchmarkOptions:
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
    inputs: Annotated[str | None, option("Column of input texts.", panel=_DATA)] = None
    targets: Annotated[str | None, option("Column of targets; without it they are generated.", panel=_DATA)] = None
    max_examples: Annotated[int, option("Use the first rows only.", min=1, panel=_DATA)] = 16
    dataset_split: Annotated[
        str, option("Split, or a part of it such as train[:20].", "--dataset-split", "--split", panel=_DATA)
    ] = "train"
    dataset_config: Annotated[str | None, option("Configuration of a Hugging Face data set.", panel=_DATA)] = None
    generation_args: Annotated[dict[str, Any] | None, json_option("Arguments of generate", panel=_DATA)] = None
    device: Annotated[str, option("auto, cpu, cuda, ...", "--device", "--dev", panel=_DATA)] = "auto"
    dtype: Annotated[str | None, option("float32, bfloat16, ...; the checkpoint's own by default.", panel=_DATA)] = None
    methods: Annotated[
        list[str] | None,
        option("Names separated by commas; all when not given.", panel=_PARTS, autocompletion=known("methods")),
    ] = None
    method_options: Annotated[dict[str, Any] | None, json_option("Method -> options", panel=_PARTS)] = None
    batch_size: Annotated[
        int | None, option("Examples per batch; by length when not given.", "--batch-size", "-bs", min=1, panel=_PARTS)
    ] = None
    seed: Annotated[int, option("Seed of everything random.", min=0, panel=_PARTS)] = 0
    rounds: Annotated[int, option("Most timed rounds per method.", min=3, panel=_MEASURE)] = 9
    seconds: Annotated[float, option("Time for the rounds of a method.", panel=_MEASURE)] = 3.0
    find_batch: Annotated[
        bool, option("Search the largest batch that fits.", "--find-batch/--no-find-batch", panel=_MEASURE)
    ] = True
    most: Annotated[int, option("Largest batch to try.", "--largest-batch", min=1, panel=_MEASURE)] = 1024
    batch_seconds: Annotated[float, option("Time for that search, per method.", panel=_MEASURE)] = 10.0
    output: Annotated[
        Path | None,
        option("JSON file to write, which attriflow check reads.", "--output", "-o", metavar="FILE", panel=_RUN),
    ] = None
    log: Annotated[bool, option("Log to MLflow.", "--log/--no-log", panel=_RUN)] = True
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


def benchmark(options: BenchmarkOptions) -> None:
    """Measure the throughput of methods on your model.

    Times are compared with forward passes of the same examples. The table, plots and the largest batch that fits are
    logged to an MLflow run.
    """
    if options.output is not None and options.output.suffix != ".json":
        raise InputError(f"the output is a .json file, not {options.output}")
    from attriflow.tracking.benchmark import measure

    config = {
        "inputs": options.inputs,
        "max_examples": options.max_examples,
        "generation_args": options.generation_args,
        "device": options.device,
        "methods": ",".join(options.methods) if options.methods else None,
        "method_options": options.method_options,
        "batch_size": options.batch_size,
        "seed": options.seed,
    }
    found = measure(
        options.model,
        options.data,
        {k: v for k, v in config.items() if v is not None},
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
    from attriflow.views.evaluations.throughput import throughput_table

    out, device = console(), found.surroundings["device"]
    title = f"Throughput: {options.model}, {found.counts['n_examples']} examples, {device}"
    out.print(throughput_table(found.table, title=title))
    if options.output is not None:
        found.write(options.output)
        out.print(f"wrote {options.output}", soft_wrap=True, highlight=False)
    if options.log:
        logged = found.log(options.tracking_uri, options.experiment)
        out.print(place(logged), soft_wrap=True, highlight=False)
