"""Names that stand in stored data are looked up among registered ones: they have no module imported, no file run."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import logged_evaluations
import pytest
from logged_evaluations import log_evaluation, numbers
from mlflow import MlflowClient

import attriflow
from attriflow.cli import main
from attriflow.registry import metrics
from attriflow.tracking.stored import EvaluationStore

CODE = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
def f(*arguments, **options):
    return []
"""


@pytest.fixture(params=["file", "module"])
def evil(request, tmp_path, monkeypatch):
    """A reference that a user could give, to code that leaves a trace."""
    path = tmp_path / "code" / "evil_part.py"
    path.parent.mkdir()
    path.write_text(CODE, encoding="utf-8")
    monkeypatch.syspath_prepend(path.parent)
    before = set(sys.modules)
    yield f"{path}:f" if request.param == "file" else "evil_part:f"
    assert not path.with_name("ran").exists()
    assert not {name for name in set(sys.modules) - before if "evil" in name}


def run(*arguments: object) -> int:
    try:
        main([str(a) for a in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture
def stored(evil, store, monkeypatch):
    """Two runs with a metric and a method of that name; `(store, experiment, run, run)`."""
    monkeypatch.setitem(logged_evaluations.HIGHER, evil, True)
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("test").experiment_id

    def values(seed: int) -> dict:
        found = {"occlusion": numbers(0.9, seed), evil: numbers(0.5, seed + 1)}
        return {method: {**own, evil: own["aopc_compr"]} for method, own in found.items()}

    settings = {"options": {evil: {"x": 1}}, "costs": {evil: 2.0}}
    return store, "test", *(log_evaluation(client, experiment, "m", values(0), **settings) for _ in range(2))


def test_leaderboards(stored, tmp_path, capsys):
    store, experiment, *_ = stored
    outputs = [tmp_path / name for name in ("board.csv", "board.md", "board.json")]
    for out in outputs:
        assert run("leaderboard", "-e", experiment, "--tracking-uri", store, "--by", "both", "-o", out) == 0
    assert "occlusion" in capsys.readouterr().out


def test_checks(stored, tmp_path):
    store, _, base, current = stored
    assert run("check", "--baseline-run", base, "--run", current, "--tracking-uri", store) == 0


def test_stored_evaluations_as_the_app_reads_them(stored, evil):
    pytest.importorskip("gradio")
    from attriflow.app.runs_tab import _table

    found = EvaluationStore(stored[0]).run(stored[2])
    assert evil in found.leaderboard["method"].tolist() and evil in found.leaderboard
    _table(found.leaderboard)


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".safetensors", ".parquet"])
def test_saved_files(evil, golden_model, tmp_path, suffix):
    (made,) = golden_model("gpt2").attribute("the cat", "the cat sat", method="saliency", show_progress=False)
    provenance = dataclasses.replace(
        made.provenance, method=evil, attributed_fn=evil, step_scores_args={evil: {"a": 1}}
    )
    named = made.replace(provenance=provenance, step_scores={evil: made.scores.new_zeros(len(made.targets))})
    attriflow.AttributionOutput([named]).save(tmp_path / f"x{suffix}")
    assert run("show", tmp_path / f"x{suffix}") == 0
    assert run("convert", tmp_path / f"x{suffix}", tmp_path / "x.html") == 0
    (read,) = attriflow.load(tmp_path / f"x{suffix}")
    read.aggregate("subwords")
    metrics.build("completeness_error").plan(read)


def test_benchmarks(evil, tmp_path):
    entry = {"name": evil, "extra_info": {"forward_equivalents": 2.0, "method": evil}, "stats": {"data": [1.0, 1.1]}}
    path = tmp_path / "b.json"
    path.write_text(json.dumps({"machine_info": {"device": "cpu"}, "benchmarks": [entry]}), encoding="utf-8")
    assert run("check", "--baseline", path, "--current", path) in (0, 2)


def test_a_users_own_reference_is_still_run(tmp_path):
    """What keeps the tests above from passing for another reason."""
    path = Path(tmp_path / "own_part.py")
    path.write_text(CODE, encoding="utf-8")
    assert metrics.known(f"{path}:f") is None
    name = metrics.resolve(f"{path}:f")
    try:
        assert path.with_name("ran").exists()
        assert metrics.known(name) is metrics.known(f"{path}:f") is metrics.info(name)
    finally:
        metrics.unregister(name)
        metrics._aliases.pop(f"{path}:f")
