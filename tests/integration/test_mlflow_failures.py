"""What goes wrong stays where it went wrong, and what is known is logged."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from mlflow.models.evaluation.base import EvaluationResult

import attriflow
from attriflow.registry import methods, metrics
from attriflow.tracking.stored import EvaluationStore

DATA = pd.DataFrame({"input": ["the red cat", "a big dog"], "target": ["il gatto", "cane"]})
Register = Callable[[str, Exception], None]


@pytest.fixture
def failing() -> Iterator[Register]:
    """Registers methods that raise."""
    names = []

    def register(name: str, error: BaseException) -> None:
        class Failing:
            def __call__(self, engine: Any) -> Any:
                raise error

        Failing.__qualname__ = Failing.__name__ = name
        methods.register(name, family="test")(dataclasses.dataclass(frozen=True)(Failing))
        names.append(name)

    yield register
    for name in names:
        methods.unregister(name)


def evaluate(folder: Path, **config: Any) -> EvaluationResult:
    info = attriflow.log_model(folder)
    settings = {"step_functions": "entropy", "metrics": "aopc_compr", "throughput": False, **config}
    return mlflow.models.evaluate(
        info.model_uri, DATA, targets="target", model_type="text-attribution", evaluators="attriflow",
        evaluator_config=settings,
    )  # fmt: skip


def children(parent: str) -> dict[str, Any]:
    client = MlflowClient()
    experiment = client.get_run(parent).info.experiment_id
    found = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'")
    return {r.info.run_name: r for r in found}


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("this model is not for me"), "ValueError: this model is not for me"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory with a single example of 'a_failing' on cpu"),
        (attriflow.AttriflowError("needs attention maps"), "needs attention maps"),
    ],
)
def test_a_failing_method_is_reported_and_the_others_go_on(
    causal_folder: Path, failing: Register, error: Exception, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    failing("a_failing", error)
    with mlflow.start_run() as run:
        result = evaluate(causal_folder, methods=["a_failing", "random"])
        board = result.tables["leaderboard"]
    assert "attribution method 'a_failing' failed" in caplog.text
    assert board["method"].tolist() == ["random", "a_failing"]
    assert board["status"].tolist() == ["ok", "failed"]
    assert reason in board["reason"].tolist()[1]
    assert not any(k.startswith("a_failing/") for k in result.metrics)
    assert math.isfinite(result.metrics["random/aopc_compr"])
    runs = children(run.info.run_id)
    assert runs["a_failing"].info.status == "FAILED" and reason in runs["a_failing"].data.tags["attriflow.reason"]
    assert runs["random"].info.status == "FINISHED"
    assert reason in MlflowClient().get_run(run.info.run_id).data.tags["attriflow.failed_methods"]
    assert reason.split(":")[-1].strip()[:20].split("'")[0] in result.artifacts["report"].content


@pytest.mark.usefixtures("store")
def test_all_methods_failing_is_still_a_result(causal_folder: Path, failing: Register) -> None:
    failing("a_failing", ValueError("no"))
    result = evaluate(causal_folder, methods=["a_failing"])
    assert result.artifacts["leaderboard"].content["status"].tolist() == ["failed"]
    assert set(result.metrics) == {"step_scores/entropy/mean"}


@pytest.mark.usefixtures("store")
def test_fail_fast_raises_and_what_was_known_is_logged(causal_folder: Path, failing: Register) -> None:
    failing("z_failing", ValueError("boom"))
    with mlflow.start_run() as run, pytest.raises(ValueError, match="boom"):
        evaluate(causal_folder, methods=["random", "z_failing"], fail_fast=True)
    client = MlflowClient()
    logged = client.get_run(run.info.run_id).data.metrics
    assert math.isfinite(logged["random/aopc_compr"])
    assert len(client.get_metric_history(run.info.run_id, "random/aopc_compr")) == 1
    assert children(run.info.run_id)["random"].info.status == "FINISHED"
    assert "leaderboard.json" in {a.path for a in client.list_artifacts(run.info.run_id)}


@pytest.mark.usefixtures("store")
def test_fail_fast_at_a_metric_still_logs_what_is_known(causal_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    @attriflow.register_metric(higher_is_better=True)
    def second_fails(attribution: Any) -> float:
        return 1.0 / (attribution.input_text == "the red cat")

    with mlflow.start_run() as run, pytest.raises(ZeroDivisionError):
        evaluate(causal_folder, methods=["random"], metrics=["aopc_compr", "second_fails"], fail_fast=True)
    assert "could not log" not in caplog.text
    assert "scores.parquet" in {a.path for a in MlflowClient().list_artifacts(run.info.run_id)}


@pytest.mark.usefixtures("store")
def test_an_interruption_loses_nothing_that_was_known(causal_folder: Path, failing: Register) -> None:
    failing("z_failing", KeyboardInterrupt())
    with mlflow.start_run() as run, pytest.raises(KeyboardInterrupt):
        evaluate(causal_folder, methods=["random", "z_failing"])
    client = MlflowClient()
    assert "random/aopc_compr" in client.get_run(run.info.run_id).data.metrics
    assert client.list_artifacts(run.info.run_id, "attributions")[0].path == "attributions/random.safetensors"
    assert all(r.info.status != "RUNNING" for r in children(run.info.run_id).values())


@pytest.mark.usefixtures("store")
def test_an_interruption_while_a_method_is_logged(causal_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from attriflow.tracking import recorder

    usual, calls = recorder.affordable, list[int]()

    def once(shapes: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return usual(shapes)

    monkeypatch.setattr(recorder, "affordable", once)
    with mlflow.start_run() as run, pytest.raises(KeyboardInterrupt):
        evaluate(causal_folder, methods=["random", "saliency"])
    assert {name: r.info.status for name, r in children(run.info.run_id).items()} == {"random": "FINISHED"}


def _interrupt() -> None:
    raise KeyboardInterrupt


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)


def _fail() -> None:
    raise ZeroDivisionError("in the middle")


@pytest.mark.slow
@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("where", "stop", "raised", "status", "why"),
    [
        ("scoring", _interrupt, KeyboardInterrupt, "KILLED", "interrupted (Ctrl-C)"),
        ("explaining", _terminate, SystemExit, "KILLED", "told to stop (SIGTERM)"),
        ("scoring", _terminate, SystemExit, "KILLED", "told to stop (SIGTERM)"),
        ("scoring", _fail, ZeroDivisionError, "FAILED", "ZeroDivisionError: in the middle"),
    ],
)
def test_whatever_stops_an_evaluation_finished_methods_are_all_logged(
    causal_folder: Path, where: str, stop: Any, raised: Any, status: str, why: str
) -> None:
    """Tables and report of what was known; the run says why it ended, and nothing says that it still runs."""

    def method(engine: Any) -> Any:
        if where == "explaining":
            stop()
        return methods.build("random")(engine)

    def metric(attribution: Any) -> float:
        if attribution.provenance.method == "z_stopping":
            stop()
        return 0.5

    methods.register("z_stopping", family="test")(method)
    metrics.register("z_metric", higher_is_better=True)(metric)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(raised) as caught, mlflow.start_run() as run:
            evaluate(causal_folder, methods=["random", "z_stopping"], metrics=["z_metric"], fail_fast=True)
    finally:
        methods.unregister("z_stopping")
        metrics.unregister("z_metric")
    assert signal.getsignal(signal.SIGTERM) is before
    if raised is SystemExit:
        assert caught.value.code == 143
    client = MlflowClient()
    found = client.get_run(run.info.run_id)
    assert (found.info.status, found.data.tags["attriflow.stopped"]) == ("FAILED", why)
    logged = {a.path for a in client.list_artifacts(run.info.run_id)}
    assert {"leaderboard.json", "scores.parquet", "summary.json", "report.html", "attributions"} <= logged
    by_method = children(run.info.run_id)
    assert (by_method["random"].info.status, by_method["z_stopping"].info.status) == ("FINISHED", status)
    assert by_method["z_stopping"].data.tags["attriflow.reason"] == why
    board = EvaluationStore(mlflow.get_tracking_uri()).run(run.info.run_id).leaderboard.set_index("method")
    assert board.loc["random", "z_metric"] == 0.5
    assert board.loc["z_stopping", ["status", "reason"]].tolist() == ["failed", why]


@pytest.mark.usefixtures("store")
def test_results_are_logged_before_the_next_method_runs(causal_folder: Path, failing: Register) -> None:
    seen: dict[str, Any] = {}

    class Spy(Exception):
        pass

    class Watching:
        def __call__(self, engine: Any) -> Any:
            run = mlflow.active_run()
            assert run is not None
            seen["metrics"] = children(run.info.run_id)["random"].data.metrics
            seen["artifacts"] = [a.path for a in MlflowClient().list_artifacts(run.info.run_id, "attributions")]
            raise Spy

    methods.register("z_watching", family="test")(dataclasses.dataclass(frozen=True)(Watching))
    try:
        with mlflow.start_run():
            evaluate(causal_folder, methods=["random", "z_watching"])
    finally:
        methods.unregister("z_watching")
    assert {"seconds", "aopc_compr"} <= set(seen["metrics"])
    assert seen["artifacts"] == ["attributions/random.safetensors"]


def top_token_drop(attribution: Any, rescore: Any) -> list[float]:
    """The metric of docs/custom.md: two arguments, as the page says."""
    best = attribution.token_scores().nan_to_num(-torch.inf).argmax(-1)
    keep = torch.ones(len(best) + 1, len(attribution.inputs), dtype=torch.bool)
    keep[torch.arange(len(best)), best] = False
    steps = list(range(len(best)))
    without = rescore(keep[:-1], steps)
    whole = rescore(keep[-1:].expand(len(best), -1), steps)
    found: list[float] = (whole - without).tolist()
    return found


@pytest.mark.usefixtures("store")
def test_a_metric_with_two_arguments_has_values_and_a_broken_one_a_reason(
    causal_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(attribution: Any) -> float:
        raise ZeroDivisionError("no")

    attriflow.register_metric(top_token_drop, higher_is_better=True, family="faithfulness")
    attriflow.register_metric(broken, "test_broken", higher_is_better=True)
    try:
        result = evaluate(causal_folder, methods=["random"], metrics=["top_token_drop", "test_broken"])
    finally:
        metrics.unregister("top_token_drop")
        metrics.unregister("test_broken")
    assert math.isfinite(result.metrics["random/top_token_drop"])
    (row,) = result.artifacts["leaderboard"].content.to_dict("records")
    assert row["top_token_drop"] == pytest.approx(result.metrics["random/top_token_drop"])
    assert math.isnan(row["test_broken"]) and row["reason"] == "test_broken: ZeroDivisionError: no"
    assert "metric 'test_broken' failed on 'random': ZeroDivisionError: no" in caplog.text
    assert "ZeroDivisionError: no" in result.artifacts["report"].content


@pytest.mark.usefixtures("store")
def test_a_metric_that_cannot_be_called_is_refused_before_anything_runs(causal_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def mine(attribution, rescore, tokenizer):\n    return 0.0\n")
    with pytest.raises(mlflow.MlflowException, match=r"metric 'mine' cannot be called: .*'tokenizer'.*rationale"):
        evaluate(causal_folder, methods=["random"], metrics=[f"{file}:mine"])


@pytest.mark.usefixtures("store")
def test_a_metric_of_nothing_but_nan_is_not_logged_and_counted(causal_folder: Path) -> None:
    @metrics.register("test_nan", higher_is_better=True, needs=())
    def test_nan(attribution: Any, rescore: Any, rationale: Any) -> list[float]:
        return [float("nan")] * len(attribution.targets)

    try:
        with mlflow.start_run() as run:
            result = evaluate(causal_folder, methods=["random"], metrics=["test_nan", "aopc_compr"])
    finally:
        metrics.unregister("test_nan")
    assert "random/test_nan" not in result.metrics
    assert all(math.isfinite(v) for v in result.metrics.values())
    child = children(run.info.run_id)["random"]
    assert child.data.metrics["test_nan_skipped_steps"] == 3
    assert "not finite" in child.data.tags["attriflow.metrics_without_value"]
    board = result.artifacts["leaderboard"].content
    assert board["test_nan"].isna().all() and "not finite" in board["reason"][0]


@pytest.mark.slow
def test_bad_rows_fail_alone_in_evaluate_and_benchmark(store: str, tmp_path: Path) -> None:
    from attriflow.tracking.benchmark import measure
    from attriflow.tracking.command import evaluate as evaluate_file

    good = {"input": "anna has a red hat . what color is the hat ?", "target": "red"}
    lines = [json.dumps(good), '{"input": "cut off', json.dumps({**good, "target": None}), json.dumps(good)]
    (tmp_path / "d.jsonl").write_text("\n".join(lines), encoding="utf-8")
    config = {"methods": "saliency", "metrics": "aopc_compr", "step_functions": "probability", "throughput": False}
    found = evaluate_file("demo/recall", str(tmp_path / "d.jsonl"), config, targets="target")
    run = MlflowClient().get_run(found.run.run_id)
    failed = json.loads(run.data.tags["attriflow.failed_rows"])
    assert list(failed) == ["1", "2"]
    assert failed["1"].startswith("not JSON") and failed["2"].startswith("the target must be a text")
    assert found.result.tables["failed_rows"]["row"].tolist() == [1, 2]
    assert sorted(set(found.result.tables["scores"]["example"])) == [0, 3]
    assert found.result.tables["leaderboard"]["n_examples"].tolist() == [2]

    cost = {"seconds": 0.01, "find_batch": False, "rounds": (3, 3)}
    measured = measure("demo/recall", str(tmp_path / "d.jsonl"), {"methods": "random"}, targets="target", **cost)
    assert list(measured.rows.failed) == [1, 2] and measured.counts["n_examples"] == 2
