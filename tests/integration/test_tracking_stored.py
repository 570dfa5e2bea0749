"""Evaluations read back from a tracking store."""

from __future__ import annotations

import gc
import os
import socket
import sqlite3
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow_support import LoggedEvaluation

from attriflow.errors import InputError, UnknownNameError
from attriflow.tracking.stored import EvaluationStore


@pytest.fixture(scope="module")
def store(logged_evaluation: LoggedEvaluation) -> EvaluationStore:
    return EvaluationStore(logged_evaluation.uri)


def test_what_is_in_a_store(store: EvaluationStore, logged_evaluation: LoggedEvaluation) -> None:
    experiments = store.experiments()
    assert {"evaluations", "nothing here"} <= set(experiments)
    runs = store.runs(experiments["evaluations"])  # neither the run without evaluation nor those of methods
    assert list(runs.values()) == [logged_evaluation.run_id]
    (label,) = runs
    assert label.startswith("small · 20")
    assert store.runs(experiments["nothing here"]) == {}


def test_all_that_an_evaluation_logged(store: EvaluationStore, logged_evaluation: LoggedEvaluation) -> None:
    found = store.run(f" {logged_evaluation.run_id}\n")
    assert (found.name, found.run_id) == ("small", logged_evaluation.run_id)
    assert found.params["attributed_fn"] == "probability"
    board = found.leaderboard.set_index("method")
    assert sorted(board.index) == sorted(found.methods) == list(logged_evaluation.methods)
    logged = store.client.get_run(found.run_id).data.metrics
    for method in logged_evaluation.methods:
        assert board.loc[method, "aopc_compr"] == pytest.approx(logged[f"{method}/aopc_compr"])
    assert found.report is not None
    assert "aopc_compr" in found.report
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in found.plots.values())
    assert {"metric_heatmap", "quality_cost"} <= set(found.plots)
    saved = found.attributions("occlusion")
    assert [item.provenance.method for item in saved] == ["occlusion"] * logged_evaluation.examples
    assert [t.text for t in saved[0].targets] == ["il", "gatto"]


def test_the_run_of_a_method_stands_for_its_evaluation(
    store: EvaluationStore, logged_evaluation: LoggedEvaluation
) -> None:
    experiment = store.experiments()["evaluations"]
    parent = f"tags.`mlflow.parentRunId` = '{logged_evaluation.run_id}'"
    children = store.client.search_runs([experiment], parent)
    assert len(children) == len(logged_evaluation.methods)
    assert store.run(children[0].info.run_id).run_id == logged_evaluation.run_id


def test_files_are_fetched_once(
    store: EvaluationStore, logged_evaluation: LoggedEvaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []
    download = MlflowClient.download_artifacts

    def counted(self: MlflowClient, run_id: str, path: str, *rest: str) -> str:
        fetched.append(path)
        return str(download(self, run_id, path, *rest))

    monkeypatch.setattr(MlflowClient, "download_artifacts", counted)
    found = store.run(logged_evaluation.run_id)
    assert fetched == []
    for _ in range(2):
        assert found.leaderboard is not None
        found.attributions("random")
    assert fetched == ["leaderboard.json", "attributions/random.safetensors"]
    folder = Path(found._folder)
    assert folder.is_dir()
    del found
    gc.collect()
    assert not folder.exists()


def test_runs_and_methods_that_are_not_there(store: EvaluationStore, logged_evaluation: LoggedEvaluation) -> None:
    with pytest.raises(InputError, match=r"abc.*not found"):
        store.run("abc")
    (other,) = store.client.search_runs([store.experiments()["evaluations"]], "attributes.run_name = 'no evaluation'")
    with pytest.raises(InputError, match="has no leaderboard"):
        store.run(other.info.run_id)
    with pytest.raises(UnknownNameError, match=r"'lime'\. Allowed: occlusion, random, saliency"):
        store.run(logged_evaluation.run_id).attributions("lime")


@pytest.mark.parametrize("scheme", ["sqlite:///{}", "{}", "file://{}"])
def test_a_store_that_is_not_there_is_not_made(scheme: str, tmp_path: Path) -> None:
    path = tmp_path / "no" / "such.db"
    with pytest.raises(InputError, match=r"no MLflow store at .*such\.db does not exist"):
        EvaluationStore(scheme.format(path))
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_stores(tmp_path: Path) -> None:
    text, other = tmp_path / "text.db", tmp_path / "other.db"
    text.write_text("not a database, but long enough to be looked at " * 30)
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE t (x)")
    for path in (text, other):
        before = path.read_bytes()
        with pytest.raises(InputError, match="is not an MLflow database"):
            EvaluationStore(f"sqlite:///{path}")
        assert path.read_bytes() == before


def test_a_server_that_does_not_answer_is_an_error_soon() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
    start, before = time.monotonic(), dict(os.environ)
    with pytest.raises(InputError, match=f"cannot read the MLflow store {address}"):
        EvaluationStore(address)
    assert time.monotonic() - start < 20
    assert dict(os.environ) == before
