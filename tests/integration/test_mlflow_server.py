"""The evaluation against a real `mlflow server` over HTTP."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow_support import hide_mlflow_state, register_evaluator

import attriflow
from attriflow.regression.rules import Rules
from attriflow.tracking.leaderboard import leaderboard
from attriflow.tracking.regression import check_runs

pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture
def server(empty_store: Path, tmp_path: Path) -> Iterator[str]:
    """A server with a sqlite backend that hands artifacts through itself; its address."""
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    port = free_port()
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--backend-store-uri", f"sqlite:///{tmp_path / 'mlflow.db'}",
        "--artifacts-destination", str(tmp_path / "artifacts"), "--workers", "1",
    ]  # fmt: skip
    log = tmp_path / "server.log"
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, cwd=tmp_path, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{address}/health", process, log)
        yield address
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"the server did not start:\n{log.read_text()[-3000:]}")


def test_evaluate_over_http_and_read_everything_back(server: str, causal_folder: Path, tmp_path: Path) -> None:
    data = pd.DataFrame(
        {"input": ["the red cat", "a dog"], "target": ["il gatto", "cane"], "rationale": [[[0, 3]], [[2, 5]]]}
    )
    register_evaluator()
    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else ""
    mlflow.set_tracking_uri(server)
    try:
        hide_mlflow_state()
        mlflow.set_experiment("over http")
        info = attriflow.log_model(causal_folder)
        with mlflow.start_run() as run:
            result = mlflow.models.evaluate(
                info.model_uri, data, targets="target", model_type="text-attribution", evaluators="attriflow",
                evaluator_config={"inputs": "input", "rationale": "rationale", "methods": "saliency,random"},
            )  # fmt: skip
            tables = result.tables
        client = MlflowClient(server)
        logged = client.get_run(run.info.run_id)
        assert logged.data.metrics == pytest.approx(result.metrics)
        assert all(len(client.get_metric_history(run.info.run_id, k)) == 1 for k in result.metrics)
        assert {"leaderboard", "scores", "step_scores"} <= set(tables)
        assert sorted(tables["leaderboard"]["method"]) == ["random", "saliency"]
        children = client.search_runs([logged.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
        assert sorted(r.info.run_name for r in children) == ["random", "saliency"]
        page = Path(client.download_artifacts(run.info.run_id, "report.html", str(tmp_path))).read_text()
        assert page == result.artifacts["report"].content
        assert sorted(result.artifacts["attributions"].content) == ["random", "saliency"]
        saved = client.download_artifacts(run.info.run_id, "attributions/saliency.safetensors", str(tmp_path))
        assert len(attriflow.load(saved)) == 2
        assert attriflow.load_model(info.model_uri).generate("the red cat", max_new_tokens=2)
        assert attriflow.load_model(f"models:/{info.model_id}").name

        # boards and checks read such a store, too, and log into it
        files = [str(tmp_path / name) for name in ("board.html", "board.csv", "board.json")]
        found = leaderboard(["over http"], log_to=run.info.run_id, tracking_uri=server)
        for name in files:
            found.write(Path(name))
        found.log()
        assert set(found.board.rows["row"]) == {"random", "saliency"}
        assert all(Path(name).stat().st_size for name in files)
        logged_files = {item.path for item in client.list_artifacts(run.info.run_id, "leaderboard/method")}
        assert {f"leaderboard/method/leaderboard.{kind}" for kind in ("html", "csv")} <= logged_files
        verdicts = check_runs(run.info.run_id, run.info.run_id, Rules(), server)
        assert verdicts and not any(verdict.failed for verdict in verdicts)
    finally:
        hide_mlflow_state()
        mlflow.set_tracking_uri(before)
