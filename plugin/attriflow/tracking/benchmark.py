"""What `attriflow benchmark` does: a model, data, every method measured, a table, an MLflow run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attriflow.errors import InputError
from attriflow.evaluation.config import EvaluationConfig
from attriflow.evaluation.data import EvaluationData, text_columns
from attriflow.measuring.benchmark import (
    BenchmarkSettings,
    MethodBenchmark,
    benchmark,
    document,
    surroundings,
    table,
)
from attriflow.tracking.command import read_data

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from attriflow.model import AttributionModel


def benchmark_command(
    model: str,
    data: str,
    *,
    console: Console,
    config: Mapping[str, Any],
    settings: Mapping[str, Any],
    split: str = "train",
    dataset_config: str | None = None,
    targets: str | None = None,
    dtype: str | None = None,
    output: Path | None = None,
    log: bool = True,
    tracking_uri: str | None = None,
    experiment: str | None = None,
) -> None:
    """Measure, print, and log.

    Args:
        model, data: What `attriflow evaluate` takes.
        console: Where the table is printed.
        config: Those settings of `EvaluationConfig` that say what is explained, and with which methods.
        settings: Those of `BenchmarkSettings` that say how it is measured.
        split, dataset_config: Of a data set.
        targets: Column of targets; without it they are generated.
        dtype: Precision of the model.
        output: File of pytest-benchmark's form to write, for `attriflow check`.
        log: Log to MLflow.
        tracking_uri, experiment: Where to.
    """
    if output is not None and output.suffix != ".json":
        raise InputError(f"the output is a .json file, not {output}")
    frame = read_data(data, split, dataset_config)
    checked, rows = _checked(frame, config, targets)
    chosen = BenchmarkSettings(
        methods=tuple(checked.methods),
        method_options=checked.method_options,
        batch_size=checked.explicit_batch_size,
        seed=checked.seed,
        **settings,
    )
    from attriflow.model import load_model
    from attriflow.tracking.quiet import quiet

    with quiet():
        loaded = load_model(model, device=checked.explicit_device or "auto", dtype=dtype)
    examples = loaded.encode(
        list(rows.inputs),
        None if rows.targets is None else list(rows.targets),
        continuation=True,
        generation_args=dict(checked.generation_args),
        batch_size=checked.explicit_batch_size,
        seed=checked.seed,
    )
    found = list(benchmark(loaded, examples, chosen))
    board = table(found)
    from attriflow.views.evaluations.throughput import throughput_table

    console.print(throughput_table(board, title=f"Throughput: {model}, {len(examples)} examples, {loaded.device}"))
    where = surroundings(loaded.device, loaded.dtype)
    about = {"model": model, "data": data}
    written = document(found, where, **about)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
        console.print(f"wrote {output}", soft_wrap=True, highlight=False)
    if log:
        counts = {"n_examples": len(examples), "n_tokens": sum(e.n_steps for e in examples)}
        said = log_benchmark(loaded, found, board, {**about, **counts, **where}, written, tracking_uri, experiment)
        console.print(said, soft_wrap=True, highlight=False)


def _checked(
    frame: pd.DataFrame, config: Mapping[str, Any], targets: str | None
) -> tuple[EvaluationConfig, EvaluationData]:
    if targets is not None and targets not in frame.columns:
        raise InputError(f"no column '{targets}' for the targets. Columns: {', '.join(map(str, frame.columns))}")
    features = frame.drop(columns=[targets] if targets else [])
    checked = EvaluationConfig.from_dict(
        {**config, "metrics": [], "step_functions": []},
        columns=[str(c) for c in features.columns],
        text_columns=text_columns(features),
        targets=targets,
    )
    checked = replace(checked, contrast_target=None, contrast_source=None)  # nothing is compared with them here
    return checked, EvaluationData.from_frame(features, checked, None if targets is None else frame[targets].tolist())


def _write(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def log_benchmark(
    model: AttributionModel,
    found: Sequence[MethodBenchmark],
    board: pd.DataFrame,
    about: Mapping[str, Any],
    written: Mapping[str, Any],
    tracking_uri: str | None = None,
    experiment: str | None = None,
) -> str:
    """Log numbers, table, plots and the file to a new run; metrics have the names that an evaluation gives them.

    Returns:
        A sentence that says where.
    """
    import mlflow

    from attriflow.tracking.quiet import quiet
    from attriflow.tracking.run_logger import RunLogger
    from attriflow.views.evaluations.throughput import batch_curves, cost_bars
    from attriflow.views.figures import to_png

    with quiet():
        if tracking_uri is not None:
            mlflow.set_tracking_uri(tracking_uri)
        if experiment is not None:
            mlflow.set_experiment(experiment)
        with mlflow.start_run() as started:
            run = RunLogger(started.info.run_id)
            run.params({f"attriflow.{k}": v for k, v in about.items()})
            run.tags({"attriflow.benchmark": "throughput", "attriflow.model": type(model.model).__name__})
            run.metrics({f"{m.name}/{k}": v for m in found if m.throughput for k, v in m.throughput.numbers().items()})
            run.metrics({f"{m.name}/largest_batch": float(m.largest.size) for m in found if m.largest})
            run.table("throughput.json", board)
            run.artifact("benchmark.json", lambda path: path.write_text(json.dumps(written, indent=1)))
            curves = {
                m.name: [(b.size, b.target_tokens_per_second) for b in m.largest.tried] for m in found if m.largest
            }
            for name, figure in {"cost": cost_bars(board), "batches": batch_curves(curves)}.items():
                run.artifact(f"plots/{name}.png", partial(_write, to_png(figure)))
    return f"MLflow run {started.info.run_id} in {mlflow.get_tracking_uri()}"
