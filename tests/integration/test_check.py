"""`attriflow check` of evaluations in real MLflow stores, and rules as MLflow's thresholds."""

from __future__ import annotations

import json
from types import SimpleNamespace
from xml.etree import ElementTree

import mlflow
import numpy as np
import pytest
from logged_evaluations import log_evaluation, numbers
from mlflow import MlflowClient
from mlflow.models.evaluation.base import EvaluationResult

from attriflow.cli import main
from attriflow.regression.rules import Rules
from attriflow.tracking.regression import check_runs, thresholds

RNG = np.random.default_rng(0)


def run(*arguments: str) -> int:
    try:
        main([str(a) for a in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def evaluation(worse=0.0, noise=0.0):
    """Three methods; `saliency` may be worse."""
    out = {}
    for i, (method, mean) in enumerate({"occlusion": 0.9, "saliency": 0.6, "lime": 0.7}.items()):
        found = numbers(mean, i)
        drop = worse if method == "saliency" else 0.0
        out[method] = {
            "aopc_compr": found["aopc_compr"] - drop + noise * RNG.standard_normal(16),
            "aopc_suff": found["aopc_suff"] + drop + noise * RNG.standard_normal(16),
        }
    return out


@pytest.fixture
def log(store):
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("test").experiment_id

    def logged(values=None, **settings):
        return log_evaluation(client, experiment, "m", values or evaluation(), **settings)

    return SimpleNamespace(store=store, run=logged)


def test_no_change_passes_and_noise_does(log, capsys):
    base = log.run(evaluation(noise=0.02))
    for noise in (0.0, 0.02, 0.02):
        assert (
            run("check", "--baseline-run", base, "--run", log.run(evaluation(noise=noise)), "--tracking-uri", log.store)
            == 0
        )
    assert "Passed: 9 within the limits." in capsys.readouterr().out


def test_a_drop_fails_for_that_method_in_both_directions(log, tmp_path, capsys):
    base, bad = log.run(), log.run(evaluation(worse=0.1, noise=0.02))
    code = run(
        "check", "--baseline-run", base, "--run", bad, "--tracking-uri", log.store, "--junit", tmp_path / "j.xml"
    )
    assert code == 1
    assert "Failed: 2 worse, 7 within the limits." in capsys.readouterr().out
    cases = ElementTree.parse(tmp_path / "j.xml").getroot().iter("testcase")
    failed = {c.get("name"): c.find("failure").get("message") for c in cases if c.find("failure") is not None}
    assert set(failed) == {"saliency/aopc_compr", "saliency/aopc_suff"}
    assert failed["saliency/aopc_compr"].startswith("worse by 0.") and "(n=16)" in failed["saliency/aopc_compr"]


def test_a_method_that_costs_twice_as_much_fails(log):
    base, slow = log.run(costs={"lime": 10.0}), log.run(costs={"lime": 20.0})
    (one,) = (v for v in check_runs(base, slow, Rules(), log.store) if v.outcome == "untested")
    assert one.name == "lime" and "1 timing of 1 s says too little" in one.message
    client = MlflowClient(log.store)
    for run_id, rounds in ((base, [9.0, 10.0, 11.0]), (slow, [19.0, 20.0, 21.0])):
        client.set_tag(run_id, "attriflow.forward_equivalents", json.dumps({"lime": rounds}))
    found = {v.name: v for v in check_runs(base, slow, Rules(), log.store) if v.failed}
    assert list(found) == ["lime"] and found["lime"].message.startswith("slower: 2.00 times the cost")


def test_methods_and_metrics_that_are_gone_or_new(log):
    values = evaluation()
    base = log.run({**values, "old": numbers(0.5, 9)})
    now = {**values, "lime": "no such layer", "added": numbers(0.5, 8)}
    now["occlusion"] = {"aopc_compr": values["occlusion"]["aopc_compr"]}
    found = {v.name: v for v in check_runs(base, log.run(now), Rules(), log.store) if v.outcome != "ok"}
    assert set(found) == {"old", "lime", "added", "occlusion/aopc_suff"}
    assert "it failed: no such layer" in found["lime"].message and found["lime"].failed
    assert not found["added"].failed and found["occlusion/aopc_suff"].failed
    ignored = check_runs(base, log.run(now), Rules(missing="ignore"), log.store)
    assert not any(v.failed for v in ignored)


def test_runs_that_cannot_be_compared_are_2(log, tmp_path, capsys):
    base, other = log.run(), log.run(inputs="another digest")
    arguments = ("check", "--baseline-run", base, "--tracking-uri", log.store, "--run")
    assert run(*arguments, other) == 2
    assert "explained different inputs" in capsys.readouterr().err
    assert run(*arguments, "0" * 32) == 2
    (tmp_path / "rules.yaml").write_text("metrics: {aopc_cmpr: {max_drop: 0.1}}")
    assert run(*arguments, log.run(), "--rules", tmp_path / "rules.yaml") == 2
    assert "did you mean 'aopc_compr'" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["targets", "evidence", "foils", "weights"])
def test_other_evaluations_are_2_and_named(log, what, tmp_path, capsys):
    tags = {"targets": "t", "evidence": "e", "foils": "f", "weights": "w"}
    base, other = log.run(tags=tags), log.run(tags={**tags, what: "other"})
    arguments = ("check", "--baseline-run", base, "--tracking-uri", log.store, "--run")
    assert run(*arguments, other) == 2
    assert f"explained different {what}: their examples cannot be paired" in capsys.readouterr().err
    assert run(*arguments, log.run(tags=tags)) == 0
    if what == "weights":
        (tmp_path / "rules.yaml").write_text("model: any")
        assert run(*arguments, other, "--rules", tmp_path / "rules.yaml") == 0
    elif what != "targets":
        gone = log.run(tags={k: v for k, v in tags.items() if k != what})
        assert run(*arguments, gone) == 2 and f"different {what}" in capsys.readouterr().err


@pytest.mark.parametrize(("lost", "code"), [(1, 0), (2, 1), (15, 1), (16, 1)])
def test_values_that_are_gone_are_missing(log, lost, code, tmp_path, capsys):
    base, values = log.run(), evaluation()
    values["saliency"]["aopc_compr"][:lost] = np.nan
    arguments = ("check", "--baseline-run", base, "--run", log.run(values), "--tracking-uri", log.store)
    assert run(*arguments) == code
    printed = " ".join(capsys.readouterr().out.split())
    assert ("1 missing" in printed) == bool(code) and (lost in (1, 16) or f"{16 - lost} of its 16" in printed)
    (tmp_path / "rules.yaml").write_text("{missing: ignore}" if lost == 16 else "{coverage: 0.05}")
    assert run(*arguments, "--rules", tmp_path / "rules.yaml") == 0


def test_other_options_of_a_method_are_2(log, capsys):
    base, other = log.run(), log.run(options={"lime": {"n_samples": 9}})
    assert run("check", "--baseline-run", base, "--run", other, "--tracking-uri", log.store) == 2
    assert 'lime: {} and {"n_samples": 9}' in capsys.readouterr().err


def test_rules_as_thresholds_of_mlflow():
    before = {"saliency/aopc_compr": 0.6, "saliency/aopc_suff": 0.4, "saliency/forward_equivalents": 4.0, "n": 1.0}
    rules = Rules(max_drop=0.05, metrics={"aopc_compr": {"min_value": 0.58}})
    found = thresholds(rules, before, before, speed=True)
    assert found["saliency/aopc_compr"].threshold == 0.58 and found["saliency/aopc_compr"].greater_is_better
    assert found["saliency/aopc_suff"].threshold == pytest.approx(0.45)
    assert found["saliency/forward_equivalents"].threshold == 6.0 and len(found) == 3
    assert set(thresholds(rules, before, before)) == {"saliency/aopc_compr", "saliency/aopc_suff"}
    mlflow.validate_evaluation_results(found, EvaluationResult(before, {}), EvaluationResult(before, {}))
    worse = EvaluationResult({**before, "saliency/aopc_suff": 0.5}, {})
    with pytest.raises(mlflow.exceptions.MlflowException, match="saliency/aopc_suff value threshold check failed"):
        mlflow.validate_evaluation_results(found, worse, EvaluationResult(before, {}))
