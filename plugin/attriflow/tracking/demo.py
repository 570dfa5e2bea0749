"""`attriflow demo`: both demo models evaluated with every method and ferret's metrics, into a fresh MLflow store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attriflow.io import check_outputs, write_content
from attriflow.tracking.quiet import quiet

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models.evaluation.base import EvaluationResult

EXAMPLES = 32
EXPERIMENT = "attriflow demo"
FILES = ("report.html", "leaderboard.png", "leaderboard.csv")
# At the embeddings the layer methods repeat their plain forms, so the demo looks at the first layer's output.
FIRST_LAYER = {"recall": "model.layers.0", "translate": "model.encoder.layers.0"}


@dataclass(frozen=True)
class Demo:
    """What the demo leaves behind.

    Attributes:
        report: The page.
        store: MLflow's database.
    """

    report: Path
    store: Path


def run_demo(
    output: Path,
    examples: int = EXAMPLES,
    *,
    on_start: Callable[[str], None] | None = None,
    on_result: Callable[[str, EvaluationResult], None] | None = None,
) -> Demo:
    """Evaluate the demo models and leave a report, a picture with its numbers and an MLflow store behind.

    Args:
        output: Folder for everything. In the folder of an earlier demo runs are kept and the other files replaced; in
            another one, files of their names are an error.
        examples: Examples per model.
        on_start: Called with a model's name before its evaluation.
        on_result: Called with the name and what came of it.
    """
    output = output.resolve()
    store, report, picture, table = (output / name for name in ("mlflow.db", *FILES))
    again = store.exists()  # a folder of an earlier demo, whose files are brought up to date
    check_outputs([report, picture, table], overwrite=again)
    output.mkdir(parents=True, exist_ok=True)
    pages: dict[str, str] = {}
    boards: dict[str, pd.DataFrame] = {}
    with quiet(), _store(store) as experiment_id:
        import pandas as pd

        from attriflow.demo import MODELS
        from attriflow.views.common import to_csv
        from attriflow.views.page import in_tabs

        for name in MODELS:
            if on_start is not None:
                on_start(name)
            result = _evaluate(name, experiment_id, examples)
            if on_result is not None:
                on_result(name, result)
            pages[name] = result.artifacts["report"].content
            boards[name] = numbers(result.artifacts["leaderboard"].content)
            if name == MODELS[0]:
                write_content(result.artifacts["plots"].content["metric_heatmap"], picture, overwrite=again)
    board = pd.concat(boards, names=["model"]).droplevel(1)
    write_content(to_csv(board, float_format="%.4f"), table, overwrite=again)
    write_content(in_tabs("attriflow demo", pages), report, overwrite=again)
    return Demo(report, store)


def settings(name: str) -> dict[str, Any]:
    """The evaluator's configuration for a demo model: all methods and step functions, ferret's six metrics.

    Options are those that methods say are for the demo: fewer points and samples than by default.
    """
    from attriflow.registry import methods

    at = {"target_layer": FIRST_LAYER[name]}
    options = {part.name: {**part.meta["demo"], **(at if "target_layer" in part.options else {})} for part in methods}
    return {
        "inputs": "input",
        "rationale": "rationale",
        "method_options": {method: given for method, given in options.items() if given},
    }


def numbers(board: pd.DataFrame) -> pd.DataFrame:
    """What a picture of a leaderboard shows: methods in their order with the means of the metrics."""
    from attriflow.registry import metrics

    return board[["method", *(name for name in board if name in metrics.names())]]


def _evaluate(name: str, experiment_id: str, examples: int) -> EvaluationResult:
    import mlflow

    from attriflow.demo import demo_path, load_demo_dataset
    from attriflow.tracking.log_model import log_model

    data = load_demo_dataset(name).sample(examples, random_state=0, ignore_index=True)
    with mlflow.start_run(experiment_id=experiment_id, run_name=name):
        info = log_model(demo_path(name), name=name)
        return mlflow.models.evaluate(
            info.model_uri,
            mlflow.data.from_pandas(data, targets="target", name=f"demo-{name}"),
            model_type="text-attribution",
            evaluators="attriflow",
            evaluator_config=settings(name),
        )


@contextmanager
def _store(database: Path) -> Iterator[str]:
    """Use a store in the database's folder; yields the experiment's id."""
    import mlflow

    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(f"sqlite:///{database}")
    try:
        known = mlflow.get_experiment_by_name(EXPERIMENT)
        artifacts = (database.parent / "mlartifacts").as_uri()
        yield known.experiment_id if known else mlflow.create_experiment(EXPERIMENT, artifact_location=artifacts)
    finally:
        mlflow.set_tracking_uri(before or "")
