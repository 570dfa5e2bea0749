"""Units, and data sets, on a real Ray cluster of this machine."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from working import Lines, Worker, units_of

from attriflow.errors import InputError
from attriflow.workers import run_units

pytestmark = pytest.mark.slow

TOYS = Path(__file__).parents[1] / "toys"
DATA_SET = ["attribute-dataset", "-m", "demo/recall", "--hide", "--device", "cpu", "-bs", "1", "-d", "demo/recall"]


@pytest.fixture(scope="module")
def cluster():
    """Address of a cluster with two cores."""
    ray = pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    with pytest.MonkeyPatch.context() as patches:
        patches.setenv("PYTHONPATH", os.pathsep.join([str(TOYS), *filter(None, paths)]))
        patches.setenv("OMP_NUM_THREADS", "1")
        ray.init(
            address="local",
            num_cpus=2,
            object_store_memory=80 * 2**20,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
        )
        yield ray.get_runtime_context().gcs_address
        ray.shutdown()


def test_units_that_kill_their_workers(cluster, tmp_path):
    tasks = [("square", i) for i in range(12)]
    tasks[3], tasks[5], tasks[8] = ("kill", ""), ("raise", ""), ("kill once", str(tmp_path / "once"))
    tasks[10] = ("full", "")
    made = list(run_units(Worker, units_of(tasks), engine="ray", workers=2, ordered=True))
    assert [done.unit.id for done in made] == [str(i) for i in range(12)]
    assert {int(d.unit.id): d.error for d in made if d.error and d.unit.id != "3"} == {
        5: "no such text", 10: "MemoryError: no room for this text"
    }  # fmt: skip
    assert made[3].error.startswith("lost its worker 3 times: it was killed") and "\n" not in made[3].error
    assert type(made[5].cause) is InputError and made[8].result == "the second time"
    good = [i for i in range(12) if i not in (3, 5, 8, 10)]
    assert [made[i].result for i in good] == [i**2 for i in good]
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(InputError, match=rf"is connected to the Ray cluster at .* already, not to {address}$"):
            list(run_units(Worker, units_of(tasks), engine="ray", address=address))
    with pytest.raises(InputError, match=r"^there is no such model \(on [\d.]+\)$"):
        list(run_units(functools.partial(Worker, fail=True), units_of(tasks), engine="ray", workers=1))


def command(*arguments: str) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    line = [sys.executable, "-c", "from attriflow.cli import main; main()", *arguments]
    return subprocess.Popen(line, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def equal_everywhere(names):
    """Each of these methods on both demo models: the same bytes from every kind of worker."""
    tasks = [(model, method) for method in names for model in ("recall", "translate")]
    made = {
        engine: {d.unit.payload: d.result for d in run_units(Lines, units_of(tasks), engine=engine, workers=1)}
        for engine in ("local", "processes", "ray")
    }
    assert all(made["local"].values()) and len(made["local"]) == len(tasks)
    for engine in ("processes", "ray"):
        assert [task for task in tasks if made[engine][task] != made["local"][task]] == []


def test_methods_are_equal_everywhere(cluster):
    equal_everywhere(["saliency", "occlusion", "gradient_shap"])


@pytest.mark.sweep
def test_all_methods_are_equal_everywhere(cluster):
    from attriflow.registry import methods

    equal_everywhere(methods.names())


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.sweep)])
def test_actors_end_with_their_driver(cluster, number):
    code = "from attriflow.kernels.stopping import terminable\nfrom working import *\n"
    code += f"with terminable(): wait_for_long('ray', {cluster!r})"
    driver = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    worker = psutil.Process(int(driver.stdout.readline()))
    driver.send_signal(number)
    _, told = driver.communicate(timeout=30)
    assert (driver.returncode, told) == (143 if number == signal.SIGTERM else -number, "")
    assert psutil.wait_procs([worker], timeout=60)[1] == []


@pytest.mark.sweep
def test_nodes_that_leave_and_join():
    """In a process of its own: it starts a cluster of three nodes, of which one leaves and one comes."""
    paths = os.pathsep.join([str(TOYS), *filter(None, [os.environ.get("PYTHONPATH")])])
    made = subprocess.run(
        [sys.executable, "-c", "import working; working.nodes_come_and_go()"],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert made.returncode == 0, made.stderr[-2000:]
    done = json.loads(made.stdout)
    assert done["failed"] == [] and sorted(done["by worker"]) == ["actor 1", "actor 2", "actor 3"]
    assert done["by worker"]["actor 3"] >= 3  # on the node that came


@pytest.mark.sweep
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_an_evaluation_that_is_stopped_leaves_nobody_and_goes_on(engine, number, tmp_path):
    script = str(Path(__file__).with_name("stopped_workers.py"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    line = [sys.executable, script, str(tmp_path), engine, str(int(number))]
    made = subprocess.run(line, capture_output=True, text=True, check=False, env=environment)
    assert made.returncode == 0, made.stderr[-2000:]
    found = json.loads(made.stdout)
    agents = {"ray::DashboardAgent", "ray::RuntimeEnvAgent"} if number == signal.SIGKILL else set()  # for a minute
    assert found["workers"] >= 2 and set(found["left"]) <= agents and found["seconds"] < 30, found
    said = {signal.SIGINT: "interrupted (Ctrl-C)", signal.SIGTERM: "told to stop (SIGTERM)"}.get(number)
    goes_on = f"{said}; what is done is kept: the same evaluation with --resume {found['run']} goes on"
    told = [line for line in found["told"] if not re.search(r"^attribution methods|of 16 examples", line)]  # how far
    assert told == ([] if said is None else [goes_on])
    assert found["code"] == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    assert found["status"] == ("RUNNING" if number == signal.SIGKILL else "FAILED")
    assert found["again"] == 0 and found["resumed"] and found["equal"], found


@pytest.mark.sweep
def test_a_data_set_whose_driver_and_worker_are_killed(cluster, tmp_path):
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    split = ["--split", "train[:96]", "-a", "occlusion"]
    local = command(*DATA_SET, *split, "-o", str(whole))
    on_ray = [*DATA_SET, *split, "--engine", "ray", "--workers", "2", "--ray-address", cluster, "-o", str(out)]
    first = command(*on_ray)
    state = tmp_path / "out.jsonl.state"
    deadline = time.monotonic() + 120
    while not (state.exists() and 0 < json.loads(state.read_text())["rows"] < 96):
        assert first.poll() is None and time.monotonic() < deadline, first.stderr.read()
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert not out.exists()
    again = command(*on_ray, "--resume")
    told = again.communicate(timeout=200)
    assert again.returncode == 0, told
    assert "before)" in told[1] and "2 workers, rows/s while they worked" in told[1]
    assert local.wait(200) == 0 and out.read_bytes() == whole.read_bytes()
    assert told[0] == ""


def evaluated_equally(monkeypatch, methods, names, engines=("processes", "ray"), workers=2):
    """An evaluation of three rows has the same values here and elsewhere; blocks of two examples."""
    import mlflow

    import attriflow
    from attriflow.evaluation import runner
    from attriflow.statistics.standings import COSTS
    from attriflow.tracking.data import read_data

    monkeypatch.setattr(runner, "BLOCK", 2)

    def results(uri, data, engine):
        settings = {
            "inputs": "input", "methods": methods, "metrics": "aopc_compr,seed_variance", "device": "cpu",
            "step_functions": "entropy", "throughput": False, "engine": engine, "reexplain_examples": 2,
            "report_examples": 0,
            **({} if engine == "local" else {"workers": workers}),
        }  # fmt: skip
        with mlflow.start_run() as active:
            mlflow.models.evaluate(
                uri, data, targets="target", model_type="text-attribution", evaluators="attriflow",
                evaluator_config=settings,
            )  # fmt: skip
        run = mlflow.get_run(active.info.run_id)
        assert ("attriflow.workers" in run.data.tags) == (engine != "local")
        if engine != "local":
            pace = json.loads(run.data.tags["attriflow.workers"])
            assert 0 < pace.pop("in all") <= sum(pace.values()) and len(pace) in range(1, workers + 1)
            page = mlflow.artifacts.download_artifacts(run_id=active.info.run_id, artifact_path="report.html")
            assert "examples_per_second" in Path(page).read_text(encoding="utf-8")
        assert not {"attriflow.engine", "attriflow.workers"} & set(run.data.params)
        files = [
            Path(mlflow.artifacts.download_artifacts(run_id=active.info.run_id, artifact_path=name))
            for name in ("scores.parquet", "leaderboard.json")
        ]
        board = json.loads(files[1].read_text())
        kept = [i for i, column in enumerate(board["columns"]) if column not in COSTS]
        assert len(kept) < len(board["columns"]) and len(board["data"]) == len(methods)
        return files[0].read_bytes(), [[row[i] for i in kept] for row in board["data"]]

    for name in names:
        model = attriflow.load_model(f"demo/{name}", device="cpu")
        uri, data = attriflow.log_model(model, name=name).model_uri, read_data(f"demo/{name}")[:3]
        local = results(uri, data, "local")
        for engine in engines:
            assert results(uri, data, engine) == local


def test_evaluations_are_equal_on_ray(cluster, store, monkeypatch):
    evaluated_equally(monkeypatch, ["saliency", "random"], ["recall"], ["ray"], workers=1)


@pytest.mark.sweep
def test_evaluations_are_equal_everywhere(cluster, store, monkeypatch):
    evaluated_equally(monkeypatch, ["saliency", "lime", "random"], ["recall"])


@pytest.mark.sweep
def test_evaluations_with_all_methods_are_equal_everywhere(cluster, store, monkeypatch):
    from attriflow.registry import methods

    evaluated_equally(monkeypatch, methods.names(), ["recall", "translate"])
