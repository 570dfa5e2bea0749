"""Where models and data of an evaluation come from: one model has one name, whatever URI it is opened by."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient

import attriflow
from attriflow.tracking.command import evaluate as evaluate_file
from attriflow.tracking.lineage import Origin, dataset_of, origin_of

pytestmark = pytest.mark.usefixtures("no_plots")
DATA = pd.DataFrame({"input": ["the red cat", "a big dog"], "target": ["il gatto", "cane"]})
CONFIG = {"inputs": "input", "methods": "saliency", "metrics": "aopc_compr", "step_functions": [], "throughput": False}


def test_one_model_has_one_name(store, causal_folder):
    client = MlflowClient()
    with mlflow.start_run() as logged:
        info = attriflow.log_model(causal_folder, name="mine", registered_model_name="registered")
    client.set_registered_model_alias("registered", "champion", 1)
    runs = []
    for uri in ("models:/registered@champion", "models:/registered/1", f"runs:/{logged.info.run_id}/mine"):
        with mlflow.start_run() as run:
            result = mlflow.models.evaluate(
                uri, DATA, targets="target", model_type="text-attribution", evaluators="attriflow",
                evaluator_config=CONFIG,
            )  # fmt: skip
        found = client.get_run(run.info.run_id)
        wanted = {"model_name": "mine", "model_id": info.model_id, "registered_model": "registered/1"}
        assert {name: found.data.tags[f"attriflow.{name}"] for name in wanted} == wanted
        assert [m.model_id for m in found.inputs.model_inputs] == [info.model_id]
        assert found.data.metrics["saliency/aopc_compr"] == result.metrics["saliency/aopc_compr"]
        assert len(client.get_metric_history(run.info.run_id, "saliency/aopc_compr")) == 1
        runs.append(run.info.run_id)
    linked = [m for m in client.get_logged_model(info.model_id).metrics if m.key == "saliency/aopc_compr"]
    assert {m.run_id for m in linked} == set(runs)
    assert origin_of(object(), None) == Origin()


def test_commands_log_a_model_once_and_name_the_data(store, causal_folder, tmp_path):
    path = tmp_path / "questions.csv"
    DATA.to_csv(path, index=False)
    for _ in range(2):
        found = evaluate_file(str(causal_folder), str(path), CONFIG, targets="target", experiment="cli")
    client = MlflowClient()
    run = client.get_run(found.run.run_id)
    assert len(client.search_logged_models([run.info.experiment_id])) == 1
    (given,) = run.inputs.dataset_inputs
    assert given.dataset.name == run.data.tags["attriflow.data_name"] == "questions.csv"
    assert json.loads(given.dataset.source)["uri"].endswith(str(path))
    with path.open("a") as file:
        file.write("a cat,il gatto\n")
    assert dataset_of(DATA, str(path)).digest != given.dataset.digest

    # texts, for MLflow's table of an evaluation
    table = found.result.tables["examples"]
    assert list(table.columns) == ["input", "target", "saliency: evidence", "saliency: aopc_compr", "example"]
    assert table["input"].tolist() == DATA["input"].tolist() and table["target"].tolist() == DATA["target"].tolist()
    attributions = found.result.artifacts["attributions"].content["saliency"]
    for i, attribution in enumerate(attributions):
        sums = attribution.token_scores().nan_to_num().sum(0)
        best = int(sums.abs().argmax())
        first = f"{attribution.inputs[best].text.strip()} {float(sums[best]):.3g}"
        assert table["saliency: evidence"][i].split(", ")[0] == first
    scores = pd.read_parquet(mlflow.artifacts.download_artifacts(f"runs:/{found.run.run_id}/scores.parquet"))
    means = scores.groupby("example")["value"].mean()
    assert table["saliency: aopc_compr"].tolist() == pytest.approx(means.tolist())
    beside = json.loads(Path(mlflow.artifacts.download_artifacts(f"runs:/{found.run.run_id}/scores.json")).read_text())
    assert len(beside["data"]) == len(scores)


def test_what_the_model_wrote(store, causal_folder):
    info = attriflow.log_model(causal_folder)
    with mlflow.start_run():
        result = mlflow.models.evaluate(
            info.model_uri, DATA[["input"]], model_type="text-attribution", evaluators="attriflow",
            evaluator_config={**CONFIG, "generation_args": {"max_new_tokens": 3}},
        )  # fmt: skip
    written = mlflow.pyfunc.load_model(info.model_uri).predict(
        DATA[["input"]], params={"generation_args": json.dumps({"max_new_tokens": 3})}
    )
    assert result.tables["examples"]["generated"].tolist() == written
