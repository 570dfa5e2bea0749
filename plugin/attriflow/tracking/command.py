"""What `attriflow evaluate` does: data from a file, a model from anywhere, `mlflow.models.evaluate`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attriflow.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console


def evaluate_command(
    model: str,
    data: str,
    *,
    console: Console,
    split: str = "train",
    dataset_config: str | None = None,
    targets: str | None = None,
    tracking_uri: str | None = None,
    experiment: str | None = None,
    config: Mapping[str, Any],
) -> None:
    """Evaluate and print the leaderboard."""
    frame = read_data(data, split, dataset_config)
    if targets is not None and targets not in frame.columns:
        raise InputError(f"no column '{targets}' for the targets. Columns: {', '.join(map(str, frame.columns))}")
    import mlflow

    from attriflow.evaluation.config import EvaluationConfig
    from attriflow.evaluation.data import text_columns
    from attriflow.evaluation.tables import directions
    from attriflow.registry import metrics
    from attriflow.tracking.quiet import quiet
    from attriflow.views.evaluations.console_leaderboard import leaderboard_table

    features = frame.drop(columns=[targets] if targets else [])
    # before a model is logged; MLflow's evaluation checks it again
    EvaluationConfig.from_dict(
        config, columns=list(features.columns), text_columns=text_columns(features), targets=targets
    )
    with quiet():
        if tracking_uri is not None:
            mlflow.set_tracking_uri(tracking_uri)
        if experiment is not None:
            mlflow.set_experiment(experiment)
        with mlflow.start_run() as run:
            result = mlflow.models.evaluate(
                model_uri(model),
                frame,
                targets=targets,
                model_type="text-attribution",
                evaluators="attriflow",
                evaluator_config=dict(config),
            )
    board: Any = result.artifacts["leaderboard"].content
    console.print(leaderboard_table(board, directions(metrics.names()), title=f"Leaderboard: {model}"))
    console.print(f"MLflow run {run.info.run_id} in {mlflow.get_tracking_uri()}", soft_wrap=True, highlight=False)


def read_data(source: str, split: str = "train", config: str | None = None) -> pd.DataFrame:
    """Rows of a file, by its ending, of a demo data set, of data with rationales, or of a Hugging Face data set.

    Args:
        source: Its name or path.
        split: A split or a part of it, such as "train[:20]"; files are the split "train".
        config: Configuration of a Hugging Face data set.
    """
    import pandas as pd

    from attriflow.datasets import open_dataset
    from attriflow.datasets.annotated import format_of
    from attriflow.datasets.splits import Split

    path = Path(source)
    if format_of(source) or not (path.suffix in _READERS or path.is_file()):
        return pd.DataFrame(list(open_dataset(source, config, split=split).read()))
    part = Split.of_file(split)
    if not path.is_file():
        raise InputError(f"no such file: {source}")
    if path.suffix not in _READERS:
        raise InputError(f"cannot read {path.name}: expected a file that ends in {', '.join(_READERS)}")
    try:
        frame: pd.DataFrame = getattr(pd, _READERS[path.suffix])(
            path, **({"lines": True} if path.suffix == ".jsonl" else {})
        )
    except ValueError as error:
        raise InputError(f"cannot read {source}: {error}") from None
    return frame.iloc[slice(*part.bounds(len(frame)))].reset_index(drop=True)


_READERS = {".csv": "read_csv", ".json": "read_json", ".jsonl": "read_json", ".parquet": "read_parquet"}


def model_uri(model: str) -> str:
    """An MLflow URI as it is; anything else is logged first, so that the run says what was evaluated."""
    from attriflow.models.loading import is_mlflow_uri

    if is_mlflow_uri(model):
        return model
    from attriflow.model import load_model
    from attriflow.tracking.log_model import log_model

    return log_model(load_model(model, device="cpu"), name=_logged_name(model)).model_uri


def _logged_name(model: str) -> str:
    """A name for MLflow, which leaderboards show: "demo-recall" for demo/recall, the folder's name for a path."""
    parts = Path(model).parts[-1:] if Path(model).exists() else model.split("/")
    return re.sub(r"[/:.%\"'\s]+", "-", "-".join(parts)).strip("-") or "model"
