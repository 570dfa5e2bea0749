"""Several evaluations in one run: each keeps its tables, nested runs and values."""

from __future__ import annotations

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient

import attriflow
from attriflow.errors import InputError
from attriflow.regression.rules import Rules
from attriflow.tracking.evaluations import find_runs
from attriflow.tracking.leaderboard import leaderboard
from attriflow.tracking.regression import check_runs
from attriflow.tracking.stored import EvaluationStore

pytestmark = pytest.mark.usefixtures("no_plots")
DATA = pd.DataFrame({"input": ["the red cat", "a big dog"], "target": ["il gatto", "cane"]})
OTHER = pd.DataFrame({"input": ["the blue car", "a small bird"], "target": ["rosso", "il cane"]})


def evaluate(model_uri, data, methods, **config):
    return mlflow.models.evaluate(
        model_uri, data, targets="target", model_type="text-attribution", evaluators="attriflow",
        evaluator_config={
            "inputs": "input", "methods": methods, "metrics": "aopc_compr", "step_functions": "probability",
            "throughput": False, **config,
        },
    )  # fmt: skip


def children(run_id):
    client = MlflowClient()
    experiment = client.get_run(run_id).info.experiment_id
    found = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'")
    return sorted((r.data.tags["attriflow.place"], r.info.run_name, r.info.status) for r in found)


def files(run_id, folder=None):
    return {item.path for item in MlflowClient().list_artifacts(run_id, folder)}


def test_each_keeps_its_own(store, causal_folder, caplog):
    info = attriflow.log_model(causal_folder)
    with mlflow.start_run() as active:
        one = evaluate(info.model_uri, DATA, "saliency,random")
        two = evaluate(info.model_uri, OTHER, "occlusion,random")
        three = evaluate(info.model_uri, OTHER, "saliency", metric_prefix="other_", seed=3)
    run_id, client = active.info.run_id, MlflowClient()
    assert "metric_prefix tells them apart" in caplog.text
    assert {"leaderboard.json", "attributions", "evaluations"} <= files(run_id)
    assert files(run_id, "evaluations") == {"evaluations/2", "evaluations/other"}
    for folder in ("evaluations/2", "evaluations/other"):
        assert {f"{folder}/leaderboard.json", f"{folder}/report.html"} <= files(run_id, folder)
    assert sorted(two.tables["leaderboard"]["method"]) == ["occlusion", "random"]
    names = [r.artifacts["leaderboard"].uri.rpartition("/")[2] for r in (one, two, three)]
    boards = [
        sorted(mlflow.load_table(n, run_ids=[run_id])["method"]) for n in names
    ]  # as `tables` does, which loads all
    assert boards == [["random", "saliency"], ["occlusion", "random"], ["saliency"]]
    assert sorted(two.artifacts["attributions"].content) == ["occlusion", "random"]

    run = client.get_run(run_id)
    assert set(three.metrics) == {
        "other_saliency/aopc_compr",
        "other_saliency/seconds",
        "other_step_scores/probability/mean",
    }
    assert run.data.metrics["other_saliency/aopc_compr"] == three.metrics["other_saliency/aopc_compr"]
    assert run.data.metrics["saliency/aopc_compr"] == one.metrics["saliency/aopc_compr"]
    assert run.data.metrics["occlusion/aopc_compr"] == two.metrics["occlusion/aopc_compr"]
    points = [m.value for m in client.get_metric_history(run_id, "random/aopc_compr")]
    assert points == [one.metrics["random/aopc_compr"], two.metrics["random/aopc_compr"]]
    assert run.data.params["evaluations/other/attriflow.seed"] == "3" and run.data.params["attriflow.seed"] == "0"
    assert [name for _, name, _ in children(run_id)] == ["random", "saliency", "occlusion", "random", "saliency"]

    found = find_runs(client, run_ids=[run_id])
    assert [e.folder for e in found] == ["evaluations/other", "evaluations/2", ""]
    assert [list(e.methods) for e in found] == [["saliency"], ["occlusion", "random"], ["saliency", "random"]]
    assert found[0].inputs == found[1].inputs != found[2].inputs
    board = leaderboard(["test"]).board
    assert set(board.rows["row"]) == {"saliency", "occlusion", "random"}
    with pytest.raises(InputError, match=f"name one of them, such as {run_id}/other, {run_id}/2"):
        check_runs(run_id, run_id, Rules(), store)
    assert not any(v.failed for v in check_runs(f"{run_id}/2", f"{run_id}/2", Rules(), store))
    stored = EvaluationStore(store)
    assert sorted(stored.runs(run.info.experiment_id).values()) == [run_id, f"{run_id}/2", f"{run_id}/other"]
    assert stored.run(f"{run_id}/2").methods == ["occlusion", "random"]
    assert stored.run(f"{run_id}/other").params["seed"] == "3"
    assert sorted(stored.run(run_id).leaderboard["method"]) == ["random", "saliency"]


def test_the_same_again_doubles_nothing(store, causal_folder, caplog, monkeypatch):
    from attriflow.evaluation.runner import Evaluation

    info, client, attribute = attriflow.log_model(causal_folder), MlflowClient(), Evaluation._attribute

    def stop(self, result):
        if result.name == "random":
            raise KeyboardInterrupt
        return attribute(self, result)

    with mlflow.start_run() as active:
        run_id = active.info.run_id
        monkeypatch.setattr(Evaluation, "_attribute", stop)
        with pytest.raises(KeyboardInterrupt):
            evaluate(info.model_uri, DATA, "saliency,random", metric_prefix="x/")
        monkeypatch.setattr(Evaluation, "_attribute", attribute)
        assert "already" not in caplog.text
        evaluate(info.model_uri, DATA, "saliency,random", metric_prefix="x/")
        assert "has this evaluation already" in caplog.text
        before = client.get_run(run_id).data, children(run_id)
        with pytest.raises(mlflow.MlflowException, match=r"has this evaluation already .* another 'metric_prefix'"):
            evaluate(info.model_uri, DATA, "saliency,random", metric_prefix="x/", report_examples=1, max_examples=2)
        assert (client.get_run(run_id).data.metrics, children(run_id)) == (before[0].metrics, before[1])
    assert children(run_id) == [("evaluations/x", "random", "FINISHED"), ("evaluations/x", "saliency", "FINISHED")]
    assert files(run_id, "evaluations") == {"evaluations/x"} and "leaderboard.json" not in files(run_id)
    assert len(client.get_metric_history(run_id, "x/random/aopc_compr")) == 1
    assert [e.folder for e in find_runs(client, experiments=["test"])] == ["evaluations/x"]


def test_a_store_that_takes_no_files_is_found_before_the_work(store, causal_folder, tmp_path, monkeypatch):
    from attriflow.evaluation.runner import Evaluation

    info = attriflow.log_model(causal_folder)
    (tmp_path / "file").write_text("not a folder")
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("ro", f"file://{tmp_path}/file/below"))
    monkeypatch.setattr(Evaluation, "run", lambda self: pytest.fail("began"))
    with pytest.raises(mlflow.MlflowException, match=r"cannot log files to run .*Nothing has been computed"):
        evaluate(info.model_uri, DATA, "saliency")
