"""The evaluation against a real `mlflow server` over HTTP."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow_support import hide_mlflow_state, register_evaluator
from server_support import Server

import attriflow
from attriflow.regression.rules import Rules
from attriflow.tracking.leaderboard import leaderboard
from attriflow.tracking.regression import check_runs

pytestmark = pytest.mark.slow


@pytest.fixture
def server(empty_store: Path, tmp_path: Path) -> Iterator[str]:
    """Its address."""
    found = Server(tmp_path, empty_store)
    try:
        found.start()
        yield found.address
    finally:
        found.stop(signal.SIGTERM)


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
        found = client.search_traces(locations=[logged.info.experiment_id])
        assert sorted(t.info.request_preview for t in found) == ["a dog", "the red cat"]
        rows = tables["examples"].set_index("input")
        for trace in found:
            assert trace.info.trace_metadata["mlflow.sourceRun"] == run.info.run_id
            spans = {span.name: span for span in trace.data.spans}
            assert {"encode", "saliency", "random"} < set(spans) and spans["saliency"].outputs["evidence"]
            values = {a.name: a.value for a in trace.info.assessments}
            assert {name.partition(": ")[0] for name in values} == {"saliency", "random"}
            row = rows.loc[trace.info.request_preview]
            assert values == pytest.approx({name: row[name] for name in values})

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
