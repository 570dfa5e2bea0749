"""`attriflow benchmark`: a table, a file, an MLflow run with plots, and mistakes before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attriflow.cli import main

QUICK = ("--max-examples", "3", "--seconds", "0.2", "--rounds", "3", "--batch-seconds", "60", "--largest-batch", "2")


def run(*arguments: str) -> int:
    try:
        main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_numbers_are_printed_written_and_logged(causal_folder, store, tmp_path, capsys):
    import mlflow

    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"input": t, "target": "il gatto"}) + "\n" for t in ("the cat", "a dog", "x y")))
    output = tmp_path / "new" / "benchmark.json"
    names = ("--methods", "saliency,occlusion", "--method-options", '{"occlusion": {"unit": "word"}}')
    where = ("--tracking-uri", store, "--experiment", "test", "--output", str(output), "--device", "auto")
    command = ("--model", str(causal_folder), "--data", str(data), "--targets", "target")
    assert run("benchmark", *command, *names, *where, *QUICK) == 0
    printed = capsys.readouterr().out
    assert "saliency" in printed and "occlusion" in printed and "largest" in printed and f"in {store}" in printed

    written = json.loads(output.read_text())
    extra = {b["name"]: b["extra_info"] for b in written["benchmarks"]}
    assert set(extra) == {"saliency", "occlusion"}
    assert extra["occlusion"]["options"]["unit"] == "word"
    assert written["machine_info"]["dtype"] == "float32"

    client = mlflow.MlflowClient()
    (logged,) = client.search_runs([client.get_experiment_by_name("test").experiment_id])
    for name, info in extra.items():
        assert logged.data.metrics[f"{name}/forward_equivalents"] == pytest.approx(info["forward_pass_equivalents"])
        assert logged.data.metrics[f"{name}/target_tokens_per_second"] > 0
        assert logged.data.metrics[f"{name}/largest_batch"] == 2
    assert logged.data.params["attriflow.n_examples"] == "3"
    files = {Path(f.path).name for f in client.list_artifacts(logged.info.run_id)}
    assert files == {"throughput.json", "benchmark.json", "plots"}
    plots = client.list_artifacts(logged.info.run_id, "plots")
    assert {Path(f.path).name for f in plots} == {"cost.png", "batches.png"} and all(f.file_size > 5000 for f in plots)
    board = mlflow.load_table("throughput.json", run_ids=[logged.info.run_id])
    assert board["status"].tolist() == ["ok", "ok"] and board["largest_batch"].tolist() == ["2+", "2+"]


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("--data", "nowhere.csv"), "no such file: nowhere.csv"),
        (("--methods", "salincy"), "did you mean 'saliency'"),
        (("--targets", "goal"), "no column 'goal'"),
        (("--method-options", '{"saliency": {"n_stps": 3}}'), "n_stps"),
        (("--output", "numbers.txt"), "the output is a .json file"),
        (("--seconds", "-1"), "'seconds' must be above 0"),
    ],
)
def test_a_mistake_is_found_before_the_model_is_loaded(arguments, fragment, capsys):
    given = {"--model": "no/such/model", "--data": "demo/recall", **dict([arguments])}
    assert run("benchmark", *(word for pair in given.items() for word in pair), "--no-log") == 1
    error = capsys.readouterr().err
    assert fragment in error and len(error.strip().splitlines()) == 1
