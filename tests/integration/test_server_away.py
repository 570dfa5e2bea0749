"""A real `mlflow server` that is killed during an evaluation, and comes back, or does not."""

from __future__ import annotations

import json
import re
import signal
import tempfile
import threading
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow_support import hide_mlflow_state, register_evaluator
from server_support import Server

import attriflow
from attriflow.cli import main
from attriflow.errors import InputError
from attriflow.methods.random import Random
from attriflow.registry import methods
from attriflow.tracking.leaderboard import leaderboard
from attriflow.tracking.patience import AwayError, patience, patiently
from attriflow.tracking.run_logger import new_run

DATA = pd.DataFrame({"input": ["the red cat", "a big dog"], "target": ["il gatto", "cane"]})
METHODS = ["saliency", "killing", "random"]


@pytest.fixture
def server(empty_store, tmp_path, monkeypatch):
    found = Server(tmp_path, empty_store)
    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else ""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # MLflow's own, at the end of `start_run`
    monkeypatch.chdir(tmp_path)
    register_evaluator()
    try:
        found.start()
        mlflow.set_tracking_uri(found.address)
        hide_mlflow_state()
        mlflow.set_experiment("away")
        yield found
    finally:
        found.stop(signal.SIGTERM)
        while mlflow.active_run() is not None:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(MlflowClient, "set_terminated", lambda *a, **k: None)
                mlflow.end_run()
        hide_mlflow_state()
        mlflow.set_tracking_uri(before)


def killing(then):
    """A method during which something happens, once."""
    done = []

    @methods.register("killing", family="control")
    def method(engine):
        """Random scores."""
        if not done:
            done.append(then())
        return Random()(engine)

    method.__doc__ = "Random scores."


def evaluate(model_uri):
    return mlflow.models.evaluate(
        model_uri, DATA, targets="target", model_type="text-attribution", evaluators="attriflow",
        evaluator_config={
            "inputs": "input", "methods": METHODS, "metrics": "aopc_compr", "step_functions": "probability",
            "throughput": False,
        },
    )  # fmt: skip


def check_whole(client, run_id):
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    values = {f"{name}/aopc_compr" for name in METHODS}
    assert values <= set(run.data.metrics)
    assert all(len(client.get_metric_history(run_id, name)) == 1 for name in run.data.metrics)
    assert {"leaderboard.json", "scores.parquet", "report.html"} <= {a.path for a in client.list_artifacts(run_id)}
    found = {a.path for a in client.list_artifacts(run_id, "attributions")}
    assert found == {f"attributions/{name}.safetensors" for name in METHODS}
    children = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
    assert sorted((c.info.run_name, c.info.status) for c in children) == sorted((m, "FINISHED") for m in METHODS)
    assert all(c.data.metrics["aopc_compr"] == run.data.metrics[f"{c.info.run_name}/aopc_compr"] for c in children)


@pytest.mark.sweep
def test_a_server_that_comes_back(server, causal_folder, monkeypatch, capfd):
    monkeypatch.setenv("ATTRIFLOW_PATIENCE", "100")
    info = attriflow.log_model(causal_folder)

    def away_for_a_while():
        server.stop()
        threading.Timer(6, server.start).start()

    killing(away_for_a_while)
    with mlflow.start_run() as active:
        evaluate(info.model_uri)
    said = capfd.readouterr().err
    assert said.count("does not answer (connection refused); asking again for") >= 2
    assert "answers again after" in said
    check_whole(MlflowClient(), active.info.run_id)


@pytest.mark.slow
def test_a_server_that_does_not_come_back(server, causal_folder, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("ATTRIFLOW_PATIENCE", "1.5")
    info = attriflow.log_model(causal_folder)
    killing(server.stop)
    active = mlflow.start_run()
    with pytest.raises(mlflow.MlflowException, match="Everything is kept in") as caught:
        evaluate(info.model_uri)
    folder = re.search(r"kept in (\S+);", str(caught.value))[1]
    assert Path(folder).parent == tmp_path and f"attriflow log {folder}" in str(caught.value)
    with pytest.raises(SystemExit) as stop:  # there is still no server
        main(["log", folder])
    assert stop.value.code == 1
    said = capfd.readouterr().err
    assert "given up; the work goes on" in said and "Traceback" not in said

    server.start()
    with pytest.raises(SystemExit) as stop:  # what had been sent before is not there twice
        main(["log", folder])
    assert not stop.value.code, capfd.readouterr().err
    check_whole(MlflowClient(server.address), active.info.run_id)

    other = f"sqlite:///{tmp_path / 'other.db'}"
    with pytest.raises(SystemExit) as stop:
        main(["log", folder, "--tracking-uri", other])
    assert not stop.value.code, capfd.readouterr().err
    client = MlflowClient(other)
    (run,) = client.search_runs(
        [client.get_experiment_by_name("away").experiment_id], "tags.`attriflow.evaluation` LIKE '_%' AND "
        "tags.`attriflow.device` LIKE '%'",
    )  # fmt: skip
    check_whole(client, run.info.run_id)
    assert run.info.run_name == active.info.run_name
    assert set(leaderboard(["away"], tracking_uri=other).board.rows["row"]) == set(METHODS)


def test_a_dead_server_is_found_at_once(monkeypatch, capsys):
    monkeypatch.setenv("ATTRIFLOW_PATIENCE", "0")
    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else ""
    try:
        refused = pytest.raises(AwayError, match=r"127.0.0.1:9 does not answer \(connection refused\)")
        with refused, new_run("http://127.0.0.1:9", None):
            pytest.fail("began")
    finally:
        mlflow.set_tracking_uri(before)


def test_patience(monkeypatch, capsys):
    monkeypatch.setattr("attriflow.tracking.patience.EVERY", 0.0)
    monkeypatch.setattr("attriflow.tracking.patience.PAUSE", 0.01)
    answers = iter([ConnectionError("Connection refused"), TimeoutError(), ConnectionError("reset")])

    def call():
        for error in answers:
            raise OSError("wrapped") from error
        return 42

    with pytest.raises(OSError, match="wrapped"):  # not every error is a server that is away
        patiently(lambda: (_ for _ in ()).throw(OSError("wrapped")), "http://x", 5)
    answers = iter([ConnectionError("Connection refused")] * 3)
    assert patiently(call, "http://x", 5) == 42
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 4 and said[0].startswith("the tracking server http://x does not answer (connection refused)")
    assert said[3].startswith("the tracking server answers again after 0 s")
    for wrong in ("soon", "-1", "inf", "nan"):
        monkeypatch.setenv("ATTRIFLOW_PATIENCE", wrong)
        with pytest.raises(InputError, match="must be a number of seconds"):
            patience()


@pytest.mark.parametrize(
    "line",
    [
        None,
        {"do": "keep", "run": "abc"},  # a name of ours that is no operation
        {"do": "artifact", "run": "abc", "path": "../../etc/passwd"},
        {"do": "artifact", "run": "../abc", "path": "passwd"},
        {"do": "artifact", "run": "abc", "path": "/etc/passwd"},
        {"do": "tags", "run": 3, "values": {}},
    ],
)
def test_a_folder_of_something_else(line, tmp_path, capsys):
    if line is not None:
        head = {"tracking_uri": f"sqlite:///{tmp_path / 'x.db'}", "run": "abc"}
        (tmp_path / "operations.jsonl").write_text(f"{json.dumps(head)}\n{json.dumps(line)}\n")
    with pytest.raises(SystemExit) as stop:
        main(["log", str(tmp_path)])
    assert stop.value.code == 1
    assert "does not hold what an evaluation kept" in capsys.readouterr().err
    assert not (tmp_path / "x.db").exists()


def test_what_is_sent_again_is_what_was_not_sent(store, monkeypatch, tmp_path):
    """Only what came after the server went away is sent at the end, in its order, to the runs that it belongs to."""
    from attriflow.tracking.keeping import Keeper
    from attriflow.tracking.run_logger import RunLogger

    monkeypatch.setenv("ATTRIFLOW_PATIENCE", "0")
    client = MlflowClient()
    run = client.create_run("0").info.run_id
    keeper = Keeper(run, client)
    keeper.remote = True
    logger, real, asked = RunLogger(run, keeper=keeper), keeper.do, []
    logger.tags({"first": "1"})
    child = logger.child("one", {"attriflow.method": "one"})

    def refuse(operation):
        raise ConnectionError("Connection refused")

    monkeypatch.setattr(keeper, "do", refuse)
    logger.metrics({"m": 0.5})
    assert keeper.gone
    child.metrics({"m": 0.25})
    child.finish()
    logger.artifact("a/b.txt", "text")
    monkeypatch.setattr(keeper, "do", lambda operation: asked.append(operation["do"]) or real(operation))
    keeper.close("FINISHED")
    assert asked == ["metrics", "metrics", "finish", "artifact", "finish"]
    assert client.get_run(run).data.metrics == {"m": 0.5} and client.get_run(run).info.status == "FINISHED"
    assert Path(client.download_artifacts(run, "a/b.txt", str(tmp_path))).read_text() == "text"
    (found,) = client.search_runs(["0"], f"tags.`mlflow.parentRunId` = '{run}'")
    assert (found.info.status, found.data.metrics) == ("FINISHED", {"m": 0.25})
    assert not list(Path(tempfile.gettempdir()).glob(f"attriflow-kept-{run[:8]}*"))
