"""The benchmarks of the repository: their files, their baseline, and that they measure."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from attriflow.registry import methods

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
FIELD = "forward_pass_equivalents"


def module(name: str):
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", BENCHMARKS / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found  # dataclasses look their module up
    spec.loader.exec_module(found)
    return found


def run(folder: Path, *arguments: str) -> str:
    # without the traces of the parallel run that this test is part of, in which nothing is measured
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    env |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def document(rounds: dict[str, list[float]], **machine: object) -> dict:
    entries = [
        {
            "name": name,
            "fullname": name,
            "group": "g",
            "extra_info": {FIELD: values[0], f"{FIELD}_rounds": values} if values else {"seconds": 1.0},
            "stats": {"median": 0.5, "rounds": len(values)},
        }
        for name, values in rounds.items()
    ]
    about = {"scale": "toy", "device": "cpu", "dtype": "float32", "threads": 1, "cpu": "some", **machine}
    return {"machine_info": about, "benchmarks": entries, "datetime": "now", "version": "5"}


def test_a_baseline_has_all_rounds_of_what_every_run_measured():
    merge = module("baseline").baseline
    found = merge([document({"a": [1.0, 9.0], "b": [2.0], "load": []}), document({"a": [2.0], "c": [1.0]})])
    (entry,) = found["benchmarks"]
    assert entry["name"] == "a" and entry["extra_info"] == {FIELD: 2.0, f"{FIELD}_rounds": [1.0, 9.0, 2.0]}
    assert entry["stats"] == {"median": 0.5, "rounds": 3}
    assert found["machine_info"] == {"scale": "toy", "device": "cpu", "dtype": "float32", "threads": 1}
    with pytest.raises(ValueError, match="differ in threads: 1, 2"):
        merge([document({"a": [1.0]}), document({"a": [1.0]}, threads=2)])


def test_the_recorded_baseline_is_small_and_complete():
    path = BENCHMARKS / "baselines" / "toy.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    assert path.stat().st_size < 100_000 and found["machine_info"]["scale"] == "toy"
    numbers = {b["name"]: b["extra_info"] for b in found["benchmarks"]}
    assert len(numbers) == len(found["benchmarks"])
    assert all(info[FIELD] > 0 and len(info[f"{FIELD}_rounds"]) >= 1 for info in numbers.values())
    for model in module("scales").TOY:
        named = {m for m in methods.names() if f"test_method[{model}-{m}]" in numbers}
        assert {"saliency", "integrated_gradients", "occlusion", "reagent"} <= named


def test_the_summary_has_the_columns_that_a_group_has():
    rows = [
        ("methods, toy", "test_method[toy-1+2x3-lime]", {"seconds": 0.25, FIELD: 12.0, "fraction_of_floor": 0.5}),
        ("methods, toy", "test_method[toy-1+2x3-saliency]", {"seconds": 0.125, FIELD: 3.0}),
        ("imports", "test_import[attriflow]", {"seconds": 1.5, "interpreter_starts": 2.0}),
    ]
    first, second = module("summary").summary(rows).split("\n\n")
    assert first.splitlines()[0].split()[:2] == ["imports", "seconds"] and "bare starts" in first
    heads, *lines = second.splitlines()
    assert [line.split()[0] for line in lines] == ["saliency", "lime"]  # the cheapest first
    assert "50%" in lines[1] and "bare starts" not in heads


@pytest.mark.slow
def test_the_suite_measures(tmp_path):
    chosen = "toy-12+8x2 and (saliency or entropy or auprc) or import and evaluator"
    printed = run(
        BENCHMARKS.parent, "-m", "pytest", "benchmarks", "--benchmark-only", "--benchmark-quiet", "--scale", "toy",
        "-q", "-p", "no:cacheprovider", "-k", chosen, f"--benchmark-json={tmp_path / 'found.json'}",
    )  # fmt: skip
    assert "forward equiv." in printed
    found = json.loads((tmp_path / "found.json").read_text())
    numbers = {b["name"]: b["extra_info"] for b in found["benchmarks"]}
    saliency = numbers["test_method[toy-12+8x2-saliency]"]
    for name in (FIELD, "seconds", "target_tokens_per_second", "attributions_per_second", "fraction_of_floor",
                 "model_flops_utilisation", "peak_memory_mb", "forward_passes", "products"):  # fmt: skip
        assert saliency[name] >= 0, name
    assert saliency[FIELD] > 1  # a forward and products
    assert "test_step_function[toy-12+8x2-entropy]" in numbers
    assert found["machine_info"]["threads"] == 1 and found["machine_info"]["dtype"] == "float32"
    run(BENCHMARKS.parent, "benchmarks/baseline.py", str(tmp_path / "found.json"), "--out", str(tmp_path / "base.json"))
    recorded = json.loads((tmp_path / "base.json").read_text())
    assert {b["name"] for b in recorded["benchmarks"]} == set(numbers)


@pytest.mark.sweep
def test_scaling_curves_are_fitted(tmp_path):
    scaling = str(BENCHMARKS / "scaling.py")
    printed = run(tmp_path, scaling, "--quick", "--rounds", "1", "--out", "new")
    assert "| n_steps | 2, 4 | `integrated_gradients` |" in printed
    assert (tmp_path / "new" / "scaling.png").stat().st_size > 10_000
    drawn = run(tmp_path, scaling, "--draw", "new/scaling.json", "--out", "again")
    assert printed.endswith(drawn) and (tmp_path / "again" / "scaling.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("parts", ["c", pytest.param("abcde", marks=pytest.mark.sweep)])
def test_the_check_of_a_gpu_runs_on_a_cpu(tmp_path, parts):
    """Every method is measured; what is there is not measured again."""
    command = ["benchmarks/gpu_check.py", "--device", "cpu", "--scale", "toy", "--parts", parts, "--most", "60"]
    printed = run(BENCHMARKS.parent, *command, "--out", str(tmp_path))
    assert "- failed" not in printed and "- not measured" not in printed and "- no time" not in printed
    assert all(f"| `{name}` |" in printed for name in methods.names())
    made = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    assert {name[0] for name in made} == set(parts)
    assert run(BENCHMARKS.parent, *command, "--out", str(tmp_path)) == printed
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")} == made
