"""Whole evaluations, loading, and imports."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import pytest
from scales import Case

import attriflow
from attriflow.demo import MODELS, load_demo_dataset
from attriflow.evaluation.config import EvaluationConfig
from attriflow.evaluation.data import EvaluationData
from attriflow.evaluation.runner import Evaluation
from attriflow.measuring.throughput import Interleaved

ROWS = 8
SETTINGS = {
    "inputs": "input",
    "rationale": "rationale",
    "methods": ["saliency", "occlusion", "random"],
    "step_functions": ["probability", "entropy"],
}
IMPORTS = {
    "attriflow": "import attriflow",
    "evaluator": "import attriflow.tracking.evaluator",
    "model": "import attriflow.model",
    "help": "import sys; sys.argv = ['attriflow', '--help']\nfrom attriflow.cli import main\nmain()",
}


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("name", MODELS)
def test_evaluation(name, models, timed_rounds, noted):
    """Three methods, two step functions, ferret's metrics, without MLflow."""
    loaded = models.get(Case(f"demo/{name}", batch=ROWS))
    rows = load_demo_dataset(name).head(ROWS)
    features = rows.drop(columns="target")
    config = EvaluationConfig.from_dict(SETTINGS, columns=[str(c) for c in features.columns], targets="target")
    data = EvaluationData.from_frame(features, config, rows["target"].tolist())

    def evaluate(_examples):
        evaluation = Evaluation(loaded.model, data, config)
        for _ in evaluation.run():
            pass
        return evaluation

    measured = interleaved(loaded, evaluate)
    evaluation = timed_rounds(measured, "evaluation")
    assert [r.name for r in evaluation.results if r.ok] == SETTINGS["methods"]
    noted(measured.throughput(), model=f"demo/{name}")


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("name", MODELS)
def test_mlflow_evaluate(name, models, timed_rounds, noted, tmp_path):
    """The same through `mlflow.models.evaluate`, tables, plots and report included."""
    import mlflow

    loaded = models.get(Case(f"demo/{name}", batch=ROWS))
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.create_experiment("benchmark", artifact_location=(tmp_path / "artifacts").as_uri())
    mlflow.set_experiment("benchmark")
    uri = attriflow.log_model(loaded.model.model, loaded.model.tokenizer, name=name).model_uri
    rows = load_demo_dataset(name).head(ROWS)

    def evaluate(_examples):
        with mlflow.start_run():
            return mlflow.models.evaluate(
                uri, rows, targets="target", model_type="text-attribution", evaluators="attriflow",
                evaluator_config={**SETTINGS, "device": str(loaded.model.device)},
            )  # fmt: skip

    measured = interleaved(loaded, evaluate)
    assert "saliency/aopc_compr" in timed_rounds(measured, "evaluation").metrics
    noted(measured.throughput(), model=f"demo/{name}")


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("name", MODELS)
def test_load(name, models, timed_rounds, noted):
    loaded = models.get(Case(f"demo/{name}"))
    device = str(loaded.model.device)
    measured = interleaved(loaded, lambda _examples: attriflow.load_model(f"demo/{name}", device=device))
    assert timed_rounds(measured, "loading").device == loaded.model.device
    noted(measured.throughput(), model=f"demo/{name}")


def interleaved(loaded, work):
    """Work that has examples of its own, as many as the batch between whose forward passes it runs."""
    return Interleaved(
        work=work, forward=loaded.model.teacher_forced, batches=loaded.batches, places=loaded.model.wrapped.devices
    )


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("what", IMPORTS)
def test_import(what, benchmark):
    """Each in a new process, compared with starting an interpreter that imports nothing."""
    bare = []

    def start(code):
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

    def beside():
        begin = time.perf_counter()
        start("pass")
        bare.append(time.perf_counter() - begin)

    start(IMPORTS[what])  # bytecode is compiled, files are in the cache
    benchmark.group = "imports"
    benchmark.pedantic(start, args=(IMPORTS[what],), setup=beside, rounds=3)
    seconds = statistics.median(benchmark.stats.stats.data)
    benchmark.extra_info.update(seconds=seconds, interpreter_starts=seconds / statistics.median(bare))
