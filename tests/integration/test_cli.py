"""The command line: what it prints, and how mistakes look."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient

from attriflow.cli import main
from attriflow.tracking.artifacts import read_table

DOCS = Path(__file__).resolve().parents[2] / "docs"
DATA = pd.DataFrame({"input": ["the red cat", "a dog"], "target": ["il gatto", "cane"]})


def run(*arguments: str) -> int:
    """Exit code of a command."""
    try:
        main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("methods", {"saliency", "occlusion", "random"}),
        ("step-functions", {"probability", "entropy"}),
        ("metrics", {"aopc_compr", "auprc_plau"}),
    ],
)
def test_lists(command: str, names: set[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert names <= {row["name"] for row in rows}
    assert all(row["summary"] for row in rows)
    assert run(command) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in names)


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    import attriflow

    assert run("--version") == 0
    assert capsys.readouterr().out.strip() == attriflow.__version__
    assert run("--help") == 0
    assert "demo" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [("nope",), ("demo", "--nope"), ("evaluate",), ("demo", "--examples", "0")])
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("models:/m-1", "nowhere.csv"), "no such file: nowhere.csv"),
        (("models:/m-1", "DATA", "--targets", "traget"), "no column 'traget' for the targets. Columns: input, target"),
        (("models:/m-1", "DATA", "--methods", "salincy"), "did you mean 'saliency'"),
        (("models:/m-1", "DATA", "--device", "gpu"), "there is no device 'gpu' here"),
        (("models:/m-1", "demo/nope"), "demo/recall, demo/translate"),
        (("models:/m-1", "TEXT"), "expected a file that ends in .csv, .tsv, .json, .jsonl or .parquet"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: tuple[str, ...], fragment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    DATA.to_csv(tmp_path / "data.csv", index=False)
    (tmp_path / "data.txt").write_text("x")
    files = {"DATA": str(tmp_path / "data.csv"), "TEXT": str(tmp_path / "data.txt")}
    targets = () if "--targets" in arguments or "TEXT" in arguments else ("--targets", "target")
    assert run("evaluate", *(files.get(a, a) for a in arguments), *targets) == 1
    error = capsys.readouterr().err
    assert fragment in error and error.startswith("error: ")
    assert len(error.strip().splitlines()) == 1


def test_debug_shows_where(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "models:/m-1", "nowhere.csv", "--debug"])
    error = capsys.readouterr().err
    assert stop.value.code == 1
    assert error.startswith("Traceback") and "no such file" in error


@pytest.mark.parametrize("ending", ["csv", "jsonl", "json", "parquet"])
def test_every_kind_of_file(ending: str, tmp_path: Path) -> None:
    from attriflow.tracking.data import read_data

    path = tmp_path / f"data.{ending}"
    write = {
        "csv": lambda: DATA.to_csv(path, index=False),
        "json": lambda: DATA.to_json(path, orient="records"),
        "jsonl": lambda: DATA.to_json(path, orient="records", lines=True),
        "parquet": lambda: DATA.to_parquet(path),
    }
    write[ending]()
    assert read_data(str(path))[["input", "target"]].to_dict("list") == DATA.to_dict("list")


def traces_in(store: str) -> list[object]:
    """Of the test's experiment."""
    client = MlflowClient(store)
    return list(client.search_traces(locations=[client.get_experiment_by_name("test").experiment_id]))


def test_evaluate_a_folder(causal_folder: Path, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    DATA.to_csv(tmp_path / "data.csv", index=False)
    chosen = ("--methods", "random,saliency", "--metrics", "aopc_compr", "--step-functions", "entropy")
    chosen += ("--multiverse", "--multiverse-rows", "4", "--traces", "1")
    places = ("--tracking-uri", store, "--experiment", "test", "--targets", "target")
    assert run("evaluate", str(causal_folder), str(tmp_path / "data.csv"), *places, *chosen) == 0
    printed = capsys.readouterr()
    assert "saliency" in printed.out and "random" in printed.out and f"in {store}" in printed.out
    plan, passes, memory, most, worlds, spent, verdict = printed.err.splitlines()
    assert memory.lstrip().startswith("memory: up to ")
    assert worlds.startswith("multiverse: 4 rows") and "of 2 worlds, from 2 explanations" in worlds
    assert verdict.startswith("Your ranking d") and "of 1 pairs of methods" in verdict
    (run_id,) = re.findall(r"MLflow run (\w+) in", printed.out)
    assert len(traces_in(store)) == 1
    found = {a.path for a in MlflowClient(store).list_artifacts(run_id)}
    assert {"multiverse.parquet", *(f"multiverse_{t}.json" for t in ("ranks", "wins", "stability", "places"))} <= found
    assert "plots/multiverse.png" in {a.path for a in MlflowClient(store).list_artifacts(run_id, "plots")}
    rows = read_table(MlflowClient(store).download_artifacts(run_id, "multiverse.parquet", str(tmp_path)))
    assert rows["method"].tolist() == ["random", "saliency"] * 2 and rows["perturbation"].tolist()[2:] == ["mask"] * 2
    assert plan == "plan: 2 methods x 2 examples (3 steps), 1 metrics"
    assert "forward passes" in passes and "; metric aopc_compr (67% of" in most and spent.startswith("time: ")


def test_evaluate_with_a_settings_file_and_a_hugging_face_data_set(
    causal_folder: Path, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.Dataset.from_pandas(pd.concat([DATA] * 3, ignore_index=True)).save_to_disk(str(tmp_path / "data"))
    capsys.readouterr()
    settings = {
        "methods": ["random", "smooth_grad"],
        "metrics": "aopc_compr",
        "step_functions": ["entropy", "probability"],
        "method_options": {"smooth_grad": {"n_samples": 2}},
        "targets": "target",
        "experiment": "test",
        "seed": 4,
        "throughput": False,
    }
    (tmp_path / "evaluation.yaml").write_text(json.dumps(settings))
    given = ("--config", str(tmp_path / "evaluation.yaml"), "--tracking_uri", store, "--seed", "3")
    assert (
        run(
            "evaluate",
            str(causal_folder),
            str(tmp_path / "data"),
            "--dataset-split",
            "train[1:4]",
            *given,
            "--no-traces",
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert "smooth_grad" in printed and "saliency" not in printed
    import mlflow

    assert not traces_in(store)
    found = mlflow.search_runs(experiment_names=["test"], output_format="list")
    parameters = {key: value for run_ in found for key, value in run_.data.params.items()}
    assert parameters["attriflow.seed"] == "3" and parameters["attriflow.throughput"] == "false"
    assert parameters["n_samples"] == "2" and "smooth_grad" in parameters["attriflow.methods"]


@pytest.mark.parametrize(
    ("arguments", "code", "fragment"),
    [
        (("--config", "nowhere.yaml"), 2, "cannot read nowhere.yaml"),
        (("--method-options", "{"), 2, "is not JSON"),
        (("--method_options", '{"saliency": {"nope": 1}}'), 1, "nope"),
        (("--dataset-split", "test"), 1, "no split 'test'"),
        (("--methods", "saliency,salincy"), 1, "did you mean 'saliency'"),
    ],
)
def test_mistakes_in_the_settings_of_an_evaluation(
    arguments: tuple[str, ...], code: int, fragment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    DATA.to_csv(tmp_path / "data.csv", index=False)
    assert run("evaluate", "--targets", "target", *arguments, "models:/m-1", str(tmp_path / "data.csv")) == code
    error = capsys.readouterr().err
    assert fragment in error and error.startswith("error: ") and len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "examples",
    [pytest.param(2, marks=pytest.mark.slow), pytest.param(32, marks=pytest.mark.sweep)],  # the default takes minutes
)
def test_the_demo_leaves_a_report_a_picture_and_a_store(tmp_path: Path, examples: int) -> None:
    code = f"from attriflow.cli import main; main(['demo', '--output', 'out', '--examples', '{examples}'])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert out.returncode == 0, out.stderr
    said = [line for line in out.stderr.splitlines() if not line.startswith("units of work: ")]  # how far it is
    assert [line[:5] for line in said] == ["plan:", *[" " * 5] * 3, "time:"] * 2
    assert "Leaderboard: demo/recall" in out.stdout and "Leaderboard: demo/translate" in out.stdout
    assert "ui --backend-store-uri sqlite:///out/mlflow.db" in out.stdout
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count("<iframe") == 2 and "aopc_" in page
    assert (tmp_path / "out" / "leaderboard.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "out" / "mlflow.db").exists()
    index = ["model", "method"]
    pictured, found = (pd.read_csv(folder / "leaderboard.csv", index_col=index) for folder in (DOCS, tmp_path / "out"))
    assert set(pictured.index) == set(found.index) and list(pictured) == list(found)
    if examples == 32:
        # what docs/leaderboard.png shows; where scores are almost tied, another processor may order a few otherwise
        pd.testing.assert_frame_equal(found.loc[pictured.index], pictured, atol=0.02, rtol=0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]  # nothing beside the folder
