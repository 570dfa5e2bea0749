"""What `attriflow evaluate` does: data from a file, a model from anywhere, `mlflow.models.evaluate`."""

from __future__ import annotations

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
    targets: str | None = None,
    tracking_uri: str | None = None,
    experiment: str | None = None,
    config: Mapping[str, Any],
) -> None:
    """Evaluate and print the leaderboard."""
    frame = read_data(data)
    if targets is not None and targets not in frame.columns:
        raise InputError(f"no column '{targets}' for the targets. Columns: {', '.join(map(str, frame.columns))}")
    import mlflow

    from attriflow.evaluation.config import EvaluationConfig
    from attriflow.evaluation.data import text_columns
    from attriflow.evaluation.tables import directions
    from attriflow.registry import metrics
    from attriflow.tracking.quiet import quiet
    from attriflow.views.console import leaderboard_table

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


def read_data(source: str) -> pd.DataFrame:
    """Rows of a file, by its ending, or of a demo data set."""
    import pandas as pd

    if source.startswith("demo/"):
        from attriflow.demo import load_demo_dataset

        try:
            return load_demo_dataset(source)
        except ValueError as error:
            raise InputError(str(error)) from None
    path = Path(source)
    readers: dict[str, Any] = {
        ".csv": pd.read_csv,
        ".json": pd.read_json,
        ".jsonl": lambda p: pd.read_json(p, lines=True),
        ".parquet": pd.read_parquet,
    }
    if not path.is_file():
        raise InputError(f"no such file: {source}")
    if path.suffix not in readers:
        raise InputError(f"cannot read {path.name}: expected a file that ends in {', '.join(readers)}")
    try:
        return readers[path.suffix](path)
    except ValueError as error:
        raise InputError(f"cannot read {source}: {error}") from None


def model_uri(model: str) -> str:
    """An MLflow URI as it is; anything else is logged first, so that the run says what was evaluated."""
    from attriflow.models.loading import is_mlflow_uri

    if is_mlflow_uri(model):
        return model
    from attriflow.model import load_model
    from attriflow.tracking.log_model import log_model

    return log_model(load_model(model, device="cpu")).model_uri
