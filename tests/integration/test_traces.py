"""Traces of an evaluation in MLflow: one per example, with what the tables say of it."""

from __future__ import annotations

import logging

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from test_several_evaluations import DATA, evaluate

import attriflow
from attriflow.evaluation import runner
from attriflow.evaluation.work import WorkFolder
from attriflow.tracking import keeping, traces

METHODS = "saliency,random"


def traces_of(run_id):
    """Of a run, by row."""
    client = MlflowClient()
    experiment = client.get_run(run_id).info.experiment_id
    found = client.search_traces(
        locations=[experiment], filter_string=f"metadata.`mlflow.sourceRun` = '{run_id}'", max_results=50
    )
    return sorted(found, key=lambda t: int(t.info.tags["attriflow.row"]))


def table(run_id, name):
    return mlflow.load_table(f"{name}.json", run_ids=[run_id])


def test_they_say_what_the_tables_say(store, causal_folder):
    info = attriflow.log_model(causal_folder)
    with mlflow.start_run() as run:
        evaluate(info.model_uri, DATA, METHODS)
    run_id = run.info.run_id
    rows, found = table(run_id, "examples"), traces_of(run_id)
    assert [int(t.info.tags["attriflow.row"]) for t in found] == list(rows["example"])
    for (_, row), trace in zip(rows.iterrows(), found, strict=True):
        assert trace.info.trace_metadata["mlflow.modelId"] == info.model_id
        assert trace.info.request_preview == row["input"]
        spans = {span.span_id: span for span in trace.data.spans}
        root = next(span for span in spans.values() if span.parent_id is None)
        assert root.inputs == {"input": row["input"]} and root.outputs == {"target": row["target"]}
        parts = [span for span in spans.values() if span.parent_id == root.span_id]
        assert [span.name for span in parts] == ["encode", "step functions", "saliency", "random"]
        for method in parts[2:]:
            assert method.outputs["evidence"] == row[f"{method.name}: evidence"]
            inside = {span.name: span for span in spans.values() if span.parent_id == method.span_id}
            assert inside["explain"].get_attribute("attriflow.block.examples") == len(rows)
            assert {"changed inputs", "aopc_compr"} < set(inside)
            assert inside["aopc_compr"].outputs["value"] == pytest.approx(row[f"{method.name}: aopc_compr"])
            share = inside["explain"].get_attribute("attriflow.block.seconds") / len(rows)
            assert inside["explain"].end_time_ns - inside["explain"].start_time_ns == pytest.approx(
                share * 1e9, abs=2e3
            )
            assert method.end_time_ns == max(span.end_time_ns for span in inside.values())
        values = {a.name: a.value for a in trace.info.assessments}
        wanted = {name: row[name] for name in rows if ": " in name and "evidence" not in name}
        assert values == pytest.approx({name: value for name, value in wanted.items() if value == value})
        assert {a.metadata["mlflow.assessment.sourceRunId"] for a in trace.info.assessments} == {run_id}
    assert np.diff([t.info.request_time for t in found]).tolist() == np.diff(rows["example"]).tolist()
    assert mlflow.get_last_active_trace_id() is None  # nothing went the way of the user's own traces


def test_they_cost_nothing_else_when_they_fail(store, causal_folder, monkeypatch, caplog):
    info = attriflow.log_model(causal_folder)

    def fails(*given):
        raise RuntimeError("no room")

    monkeypatch.setattr(keeping, "log_traces", fails)
    with caplog.at_level(logging.WARNING, "attriflow"), mlflow.start_run() as run:
        evaluate(info.model_uri, DATA, "random")
    assert [r.getMessage() for r in caplog.records if "traces" in r.getMessage()] == [
        "examples have no traces in MLflow ('traces': False asks for none): RuntimeError: no room"
    ]
    assert MlflowClient().get_run(run.info.run_id).info.status == "FINISHED"
    assert len(table(run.info.run_id, "leaderboard")) == 1 and not traces_of(run.info.run_id)


def test_going_on_logs_none_twice(store, causal_folder, monkeypatch):
    monkeypatch.setattr(runner, "BLOCK", 1)
    monkeypatch.setattr(traces, "AT_ONCE", 1)
    info, put = attriflow.log_model(causal_folder), WorkFolder.put

    def stops(work, unit, *found, **more):
        if unit.startswith("logged traces") and unit.endswith("/1"):
            raise KeyboardInterrupt  # logged, and not noted
        put(work, unit, *found, **more)

    with monkeypatch.context() as patched:
        patched.setattr(WorkFolder, "put", stops)
        with pytest.raises(KeyboardInterrupt), mlflow.start_run() as active:
            evaluate(info.model_uri, DATA, "random")
    run_id = active.info.run_id
    before, log, sent = traces_of(run_id), keeping.log_traces, []
    assert len(before) == 2
    monkeypatch.setattr(keeping, "log_traces", lambda *given: (sent.append(given[1]), log(*given)))
    with mlflow.start_run(run_id=run_id):
        evaluate(info.model_uri, DATA, "random", resume=run_id)
    after = traces_of(run_id)
    assert len(after) == len(DATA) and len(sent) == len(DATA) - 1
    for was, now in zip(before, after, strict=False):
        assert was.info.trace_id == now.info.trace_id
        assert len(was.info.assessments) == len(now.info.assessments) and len(was.data.spans) == len(now.data.spans)


def test_a_store_in_files(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # of MLflow 3.7 and later
    trace = {
        "id": "ab" * 16,
        "row": 3,
        "spans": [
            {"id": "cd" * 8, "parent": None, "name": "example 3", "kind": "CHAIN", "start": 10**18,
             "end": 10**18 + 10**9, "inputs": {"input": "a"}, "outputs": {"target": "b"}, "about": {}, "error": ""},
        ],
        "feedback": [{"name": "saliency: aopc", "value": 0.5, "rationale": ""}],
    }  # fmt: skip
    uri = (tmp_path / "mlruns").as_uri()
    client = MlflowClient(uri)
    experiment = client.create_experiment("x")
    traces.log_traces(uri, [trace], experiment, "run")
    found = client.get_trace("tr-" + "ab" * 16, display=False)
    assert found.data.spans[0].inputs == {"input": "a"} and found.info.execution_duration == 1000
    assert [(a.name, a.value) for a in found.info.assessments] == [("saliency: aopc", 0.5)]
