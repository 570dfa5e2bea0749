"""Who does not ask for attriflow does not notice that it is installed."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow_support import register_evaluator

import attriflow

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "ferret", "captum", "seaborn", "gradio", "attriflow.model", "attriflow.engine")


def loaded_after(code: str) -> set[str]:
    """Top modules that a fresh interpreter has loaded after some code."""
    script = f"import sys\n{code}\nprint('MODULES', *sorted(sys.modules))"
    path = f"import sys; sys.path[:0] = [{str(ROOT / 'plugin')!r}, {str(ROOT / 'metrics')!r}]\n"
    command = [sys.executable, "-c", path + script]
    out = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert out.returncode == 0, out.stderr
    line = next(text for text in out.stdout.splitlines() if text.startswith("MODULES"))
    return set(line.split()[1:])


def test_import_attriflow_is_light() -> None:
    modules = loaded_after("import attriflow\nattriflow.__all__")
    assert not {*HEAVY, "mlflow", "matplotlib", "pandas", "numpy", "rich"} & modules


def test_the_help_of_the_command_line_is_light() -> None:
    code = """
from attriflow.cli import main
for command in ([], ["app"], ["demo"], ["evaluate"], ["methods"]):
    try:
        main([*command, "--help"])
    except SystemExit as stop:
        assert not stop.code
"""
    assert not {*HEAVY, "mlflow", "matplotlib", "pandas", "numpy"} & loaded_after(code)


def test_the_entry_module_adds_nothing_heavy_to_what_mlflow_loads() -> None:
    registry = "import mlflow.models.evaluation.evaluator_registry"
    without = loaded_after(f"import importlib.metadata as m\nm.entry_points = lambda **k: ()\n{registry}")
    with_ours = loaded_after(f"{registry}\nimport attriflow.tracking.evaluator")
    added = {m for m in with_ours - without if not m.startswith(("attriflow", "mlflow"))}
    assert not set(HEAVY) & with_ours
    assert len(added) < 40, sorted(added)


def test_the_entry_point_is_registered() -> None:
    points = {p.name: p.value for p in entry_points(group="mlflow.model_evaluator")}
    if "attriflow" not in points:
        pytest.skip("attriflow is on the path but not installed")
    assert points["attriflow"] == "attriflow.tracking.evaluator:AttributionEvaluator"


@pytest.mark.parametrize(
    "question",
    [
        {"model_type": "classifier", "evaluator_config": {}},
        {"model_type": "text", "evaluator_config": None},
        {"model_type": None, "evaluator_config": {"methods": "all"}},
        {"model_type": 3, "evaluator_config": object(), "something": "new"},
        {},
    ],
)
def test_can_evaluate_declines_without_raising(question: dict[str, Any]) -> None:
    from attriflow.tracking.evaluator import AttributionEvaluator

    assert AttributionEvaluator.can_evaluate(**question) is False
    assert AttributionEvaluator.can_evaluate(**{**question, "model_type": "text-attribution"}) is True


@pytest.mark.slow
@pytest.mark.usefixtures("store")
@pytest.mark.filterwarnings("ignore")
def test_a_classifier_evaluated_without_naming_evaluators_is_the_same_with_and_without_attriflow() -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    from mlflow.models.evaluation import evaluator_registry

    generator = np.random.default_rng(0)
    data = pd.DataFrame(generator.normal(size=(60, 3)), columns=["a", "b", "c"])
    data["label"] = (data["a"] + data["b"] > 0).astype(int)
    model = linear.LogisticRegression().fit(data[["a", "b", "c"]], data["label"])
    info = mlflow.sklearn.log_model(model, name="classifier", pip_requirements=["scikit-learn"])

    def evaluate() -> tuple[dict[str, float], set[str], int, set[str]]:
        with mlflow.start_run() as run:
            result = mlflow.models.evaluate(
                info.model_uri, data, targets="label", model_type="classifier",
                evaluator_config={"log_model_explainability": False},
            )  # fmt: skip
        client = mlflow.MlflowClient()
        logged = client.get_run(run.info.run_id)
        runs = client.search_runs([logged.info.experiment_id])
        children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == run.info.run_id]
        artifacts = {a.path for a in client.list_artifacts(run.info.run_id)}
        return result.metrics, set(result.artifacts), len(children), artifacts | set(logged.data.params)

    registry = evaluator_registry._model_evaluation_registry
    register_evaluator()
    with_attriflow = evaluate()
    hidden = registry._registry.pop("attriflow")
    try:
        without = evaluate()
    finally:
        registry.register("attriflow", hidden)
    assert with_attriflow == without
    assert with_attriflow[0]["accuracy_score"] > 0.8


def test_autologging_hears_of_nothing(store: str) -> None:
    from sklearn.linear_model import Lasso

    import attriflow

    model, client = attriflow.load_model("demo/recall"), mlflow.MlflowClient()
    experiment = [client.get_experiment_by_name("test").experiment_id]
    mlflow.sklearn.autolog(log_models=False, log_datasets=False, silent=True)
    try:
        model.attribute("anna has a red hat .", "anna has a red hat . red", method="context_cite", show_progress=False)
        assert not client.search_runs(experiment) and mlflow.active_run() is None
        Lasso().fit(np.eye(3), np.arange(3.0))
        assert len(client.search_runs(experiment)) == 1  # it does listen
    finally:
        mlflow.sklearn.autolog(disable=True, silent=True)


@pytest.mark.filterwarnings("ignore:.*deprecated since:FutureWarning")
@pytest.mark.usefixtures("no_plots")
def test_beside_mlflows_own_evaluator(store: str, causal_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call, both evaluators: metrics and tables of both, of the same rows."""
    counter = SimpleNamespace(encode=str.split)  # what MLflow counts tokens with, which is not installed
    monkeypatch.setitem(sys.modules, "tiktoken", SimpleNamespace(get_encoding=lambda name: counter))
    info = attriflow.log_model(causal_folder)
    data = pd.DataFrame({"input": ["the red cat", "a big dog"], "rationale": [[[4, 7]], [[2, 5]]]})
    wrote = mlflow.pyfunc.load_model(info.model_uri).predict(data)
    own = {"inputs": "input", "methods": "saliency", "metrics": "aopc_compr", "step_functions": [], "throughput": False}
    with mlflow.start_run() as run:
        result = mlflow.models.evaluate(
            info.model_uri, data.assign(target=[wrote[0], "no"]), targets="target", model_type="question-answering",
            evaluators=["default", "attriflow"], evaluator_config={"default": {}, "attriflow": own},
        )  # fmt: skip
    tables = result.tables
    assert mlflow.get_run(run.info.run_id).data.metrics == pytest.approx(result.metrics)
    assert result.metrics["exact_match/v1"] == 0.5
    assert result.metrics["saliency/aopc_compr"] == pytest.approx(
        tables["scores"].groupby("example")["value"].mean().mean()
    )
    assert {"eval_results_table", "examples", "leaderboard", "scores"} <= set(tables)
    assert tables["eval_results_table"]["outputs"].tolist() == wrote
    assert tables["examples"]["target"].tolist() == [wrote[0], "no"]
    assert tables["leaderboard"]["method"].tolist() == ["saliency"]
