"""The command line: what it prints, and how mistakes look."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from attriflow.cli import main

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
        (("models:/m-1", "DATA", "--device", "gpu"), "'device' must be"),
        (("models:/m-1", "demo/nope"), "demo/recall, demo/translate"),
        (("models:/m-1", "TEXT"), "expected a file that ends in .csv, .json, .jsonl, .parquet"),
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


def test_debug_shows_where() -> None:
    with pytest.raises(Exception, match="no such file"):
        main(["evaluate", "models:/m-1", "nowhere.csv", "--debug"])


@pytest.mark.parametrize("ending", ["csv", "jsonl", "json", "parquet"])
def test_every_kind_of_file(ending: str, tmp_path: Path) -> None:
    from attriflow.tracking.command import read_data

    path = tmp_path / f"data.{ending}"
    write = {
        "csv": lambda: DATA.to_csv(path, index=False),
        "json": lambda: DATA.to_json(path, orient="records"),
        "jsonl": lambda: DATA.to_json(path, orient="records", lines=True),
        "parquet": lambda: DATA.to_parquet(path),
    }
    write[ending]()
    assert read_data(str(path))[["input", "target"]].to_dict("list") == DATA.to_dict("list")


def test_evaluate_a_folder(causal_folder: Path, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    DATA.to_csv(tmp_path / "data.csv", index=False)
    chosen = ("--methods", "random,saliency", "--metrics", "aopc_compr", "--step-functions", "entropy")
    places = ("--tracking-uri", store, "--experiment", "test", "--targets", "target")
    assert run("evaluate", str(causal_folder), str(tmp_path / "data.csv"), *places, *chosen) == 0
    printed = capsys.readouterr()
    assert "saliency" in printed.out and "random" in printed.out and f"in {store}" in printed.out
    assert printed.err == ""


@pytest.mark.slow
def test_the_demo_leaves_a_report_a_picture_and_a_store(tmp_path: Path) -> None:
    code = "from attriflow.cli import main; main(['demo', '--output', 'out', '--examples', '3'])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert out.returncode == 0, out.stderr
    assert out.stderr == ""
    assert "Leaderboard: demo/recall" in out.stdout and "Leaderboard: demo/translate" in out.stdout
    assert "ui --backend-store-uri sqlite:///out/mlflow.db" in out.stdout
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count("<iframe") == 2 and "aopc_" in page
    assert (tmp_path / "out" / "leaderboard.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "out" / "mlflow.db").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]  # nothing beside the folder
