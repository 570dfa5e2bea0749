"""`attriflow demo`: both demo models evaluated with every method and ferret's metrics, into a fresh MLflow store."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attriflow.tracking.quiet import quiet

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models.evaluation.base import EvaluationResult
    from rich.console import Console

EXAMPLES = 32
EXPERIMENT = "attriflow demo"
# At the embeddings the layer methods repeat their plain forms, so the demo looks at the first layer's output.
FIRST_LAYER = {"recall": "model.layers.0", "translate": "model.encoder.layers.0"}
DESCRIPTIONS = {
    "recall": "a causal language model that answers questions about facts in its prompt",
    "translate": "an encoder-decoder that translates a toy English into a toy Italian",
}


def run_demo(output: Path, console: Console, examples: int = EXAMPLES) -> Path:
    """Evaluate the demo models and leave a report, a picture with its numbers and an MLflow store behind.

    Args:
        output: Folder for everything; existing runs in it are kept.
        console: Where the leaderboards are printed.
        examples: Examples per model.

    Returns:
        The report.
    """
    output = output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    pages: dict[str, str] = {}
    boards: dict[str, pd.DataFrame] = {}
    with quiet(), _store(output) as experiment_id:
        import pandas as pd
        from rich.text import Text

        from attriflow.demo import MODELS
        from attriflow.views.page import in_tabs

        for name in MODELS:
            about = f": {DESCRIPTIONS[name]}; {examples} examples it has not seen ..."
            console.print(Text.assemble(("\ndemo/" + name, "bold"), about))
            result = _evaluate(name, experiment_id, examples)
            _print_leaderboard(result, console, name)
            pages[name] = result.artifacts["report"].content
            boards[name] = numbers(result.artifacts["leaderboard"].content)
            if name == MODELS[0]:
                (output / "leaderboard.png").write_bytes(result.artifacts["plots"].content["metric_heatmap"])
    pd.concat(boards, names=["model"]).droplevel(1).to_csv(output / "leaderboard.csv", float_format="%.4f")
    report = output / "report.html"
    report.write_text(in_tabs("attriflow demo", pages), encoding="utf-8")
    _say_where(console, output, report, time.perf_counter() - started)
    return report


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
def _store(output: Path) -> Iterator[str]:
    """Use a store in the folder; yields the experiment's id."""
    import mlflow

    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(f"sqlite:///{output / 'mlflow.db'}")
    try:
        known = mlflow.get_experiment_by_name(EXPERIMENT)
        artifacts = (output / "mlartifacts").as_uri()
        yield known.experiment_id if known else mlflow.create_experiment(EXPERIMENT, artifact_location=artifacts)
    finally:
        mlflow.set_tracking_uri(before or "")


def _print_leaderboard(result: EvaluationResult, console: Console, name: str) -> None:
    from attriflow.evaluation.tables import directions
    from attriflow.registry import metrics
    from attriflow.views.evaluations.console_leaderboard import leaderboard_table

    board: Any = result.artifacts["leaderboard"].content
    console.print(leaderboard_table(board, directions(metrics.names()), title=f"Leaderboard: demo/{name}"))


def _say_where(console: Console, output: Path, report: Path, seconds: float) -> None:
    def shown(path: Path) -> str:
        # the shorter of the two, for copying
        return min(str(path), os.path.relpath(path), key=len)

    store = f"sqlite:///{shown(output / 'mlflow.db')}"
    # without wrapping: a command that is broken over lines cannot be copied
    for line in (
        f"Done in {seconds:.0f} s.",
        f"Report:    {shown(report)}",
        f"MLflow UI: {shown(Path(_mlflow_command()))} ui --backend-store-uri {store}",
    ):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _mlflow_command() -> str:
    import shutil
    import sys

    beside = Path(sys.executable).parent / "mlflow"
    return str(beside) if beside.exists() else shutil.which("mlflow") or "mlflow"
