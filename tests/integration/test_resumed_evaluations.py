"""`evaluator_config={"resume": RUN}`: an evaluation that was broken off goes on in its run, where it stood."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from test_several_evaluations import DATA, children, evaluate, files

import attriflow
from attriflow.evaluation import runner
from attriflow.evaluation.work import WorkFolder
from attriflow.tracking.resuming import WORK
from attriflow.tracking.stored import EvaluationStore

METHODS = "saliency,random"


@pytest.fixture
def broken_off(store, causal_folder, monkeypatch, capsys):
    """The model and run of an evaluation that was told to stop at its second method; one example per unit."""
    monkeypatch.setattr(runner, "BLOCK", 1)
    info, put = attriflow.log_model(causal_folder), WorkFolder.put

    def stops(work, unit, *found, **more):
        if unit == "score/random/1":
            raise KeyboardInterrupt
        put(work, unit, *found, **more)

    with monkeypatch.context() as patched:
        patched.setattr(WorkFolder, "put", stops)
        with pytest.raises(KeyboardInterrupt), mlflow.start_run() as active:
            evaluate(info.model_uri, DATA, METHODS)
    said = f"interrupted (Ctrl-C); what is done is kept: the same evaluation with --resume {active.info.run_id} goes on"
    assert said in capsys.readouterr().err.splitlines()
    return info.model_uri, active.info.run_id


def points(run_id):
    client = MlflowClient()
    return {key: len(client.get_metric_history(run_id, key)) for key in client.get_run(run_id).data.metrics}


@pytest.mark.parametrize(
    "inside",
    [pytest.param(True, id="in its run"), pytest.param(False, id="in another run", marks=pytest.mark.sweep)],
)
def test_it_goes_on_in_its_run(store, broken_off, inside, monkeypatch):
    uri, run_id = broken_off
    client, explained = MlflowClient(), []
    before = client.get_run(run_id).data
    assert before.tags["attriflow.stopped"].startswith("interrupted") and Path(before.tags[WORK]).is_dir()
    explain = runner.Evaluation._explain
    monkeypatch.setattr(
        runner.Evaluation, "_explain", lambda self, m, *a, **k: (explained.append(m), explain(self, m, *a, **k))[1]
    )
    if inside:
        with mlflow.start_run(run_id=run_id):
            evaluate(uri, DATA, METHODS, resume=run_id)
    else:
        evaluate(uri, DATA, METHODS, resume=run_id)
        other = mlflow.active_run() or mlflow.last_active_run()
        assert client.get_run(other.info.run_id).data.tags["attriflow.resumed"] == run_id
        mlflow.end_run()
    assert explained == []  # only the metrics of one example were lacking
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert "attriflow.stopped" not in run.data.tags and WORK not in run.data.tags
    assert children(run_id) == [("", "random", "FINISHED"), ("", "saliency", "FINISHED")]
    assert set(points(run_id).values()) == {1} and {"saliency/aopc_compr", "random/aopc_compr"} <= set(points(run_id))
    for child in client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'"):
        assert set(points(child.info.run_id).values()) == {1}

    with mlflow.start_run() as whole:
        evaluate(uri, DATA, METHODS)
    tables = [Path(mlflow.artifacts.download_artifacts(run_id=r, artifact_path="scores.parquet")).read_bytes()
              for r in (run_id, whole.info.run_id)]  # fmt: skip
    assert tables[0] == tables[1]
    assert set(points(run_id)) == set(points(whole.info.run_id))
    assert "attributions/random~1.safetensors" in files(run_id, "attributions")
    stored = EvaluationStore(store).run(run_id)
    assert stored.methods == ["random", "saliency"]
    assert stored.attributions("random")[0].target_text.endswith(DATA["target"][0])
    assert len(stored.attributions("random")) == len(DATA)


def test_other_settings_and_finished_evaluations_are_refused(store, broken_off, monkeypatch):
    uri, run_id = broken_off
    before = MlflowClient().get_run(run_id).data
    with mlflow.start_run(run_id=run_id):
        with pytest.raises(mlflow.MlflowException, match=r"cannot resume the evaluation: seed was 0, now 3"):
            evaluate(uri, DATA, METHODS, resume=run_id, seed=3)
        with pytest.raises(mlflow.MlflowException, match=r"cannot resume .*rows \(inputs\) was \"\w+\", now"):
            evaluate(uri, DATA[:1], METHODS, resume=run_id)
        with monkeypatch.context() as edited, pytest.raises(mlflow.MlflowException, match=r"method saliency was \"sal"):
            edited.setattr("attriflow.streaming.deciding.digest", lambda path: "edited")
            evaluate(uri, DATA, METHODS, resume=run_id)
    info = MlflowClient().get_run(run_id).info
    with pytest.raises(mlflow.MlflowException, match=r"cannot resume the evaluation: seed was 0, now 3"):
        evaluate(uri, DATA, METHODS, resume=run_id, seed=3)  # from a run of its own
    mlflow.end_run()
    now = MlflowClient().get_run(run_id).info
    assert (now.status, now.end_time) == (info.status, info.end_time) and info.status == "FINISHED"
    assert MlflowClient().get_run(run_id).data.tags["attriflow.inputs"] == before.tags["attriflow.inputs"]
    with pytest.raises(mlflow.MlflowException, match="there is no run 12ab in"):
        evaluate(uri, DATA, METHODS, resume="12ab")
    with pytest.raises(mlflow.MlflowException, match="'resume' must be the id of a run, not 3"):
        evaluate(uri, DATA, METHODS, resume=3)
    mlflow.end_run()
