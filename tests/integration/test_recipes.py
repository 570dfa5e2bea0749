"""Every recipe runs and does what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fresh import run_fresh

import attriflow

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
pytestmark = pytest.mark.slow


def run(folder: Path, *arguments: str) -> str:
    done = run_fresh(RECIPES / arguments[0], folder, *arguments[1:])
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_quickstart(tmp_path):
    printed = run(tmp_path, "quickstart.py")
    assert "'rossa' depends most on 'red'" in printed
    assert attriflow.load(tmp_path / "quickstart-output" / "attributions.safetensors")[0].targets[-2].text == "rossa"
    assert "rossa" in (tmp_path / "quickstart-output" / "attributions.html").read_text(encoding="utf-8")


def test_contrastive(tmp_path):
    printed = run(tmp_path, "contrastive.py")
    assert "occlusion: 'house' speaks most for 'rossa' against 'rosso'" in printed
    assert "rosso" in (tmp_path / "contrastive-output" / "contrast.html").read_text(encoding="utf-8")


def test_context_reliance(tmp_path):
    printed = run(tmp_path, "context_reliance.py", "--examples", "10", "--out", "table.md")
    assert printed.count("occlusion") == 4
    assert "`kl_divergence`" in (tmp_path / "table.md").read_text(encoding="utf-8")


def test_planted_evidence(tmp_path):
    printed = run(
        tmp_path, "planted_evidence.py", "--examples", "6", "--methods", "deeplift,random", "--out", "table.md"
    )
    rows = {
        line.split("|")[1].strip(): line.split("|")[2:-1] for line in printed.splitlines() if line.startswith("| `")
    }
    assert [float(cell.split()[0]) for cell in rows["`deeplift`"]] == [1.0] * 5
    assert all(float(cell.split()[0]) < 0.5 for cell in rows["`random`"])
    assert (tmp_path / "table.md").read_text(encoding="utf-8").strip() in printed


def test_bad_explainers(tmp_path):
    printed = run(tmp_path, "bad_explainers.py", "--examples", "12", "--out", "table.md")
    counts = printed.strip().splitlines()[-1].split("|")[4:-1]
    assert all(int(n) >= 10 for n in counts)
    assert (tmp_path / "table.md").read_text(encoding="utf-8").strip() in printed


def test_custom_method(tmp_path):
    printed = run(tmp_path, "custom_method.py", "--examples", "4")
    assert [line.split()[0] for line in printed.splitlines()] == ["occlusion", "saliency", "recency", "random"]


def test_leaderboard(tmp_path):
    printed = run(tmp_path, "leaderboard.py", "--examples", "8")
    assert "recall-damaged" in printed and "logged to run" in printed
    board = json.loads((tmp_path / "leaderboard-output" / "model.json").read_text(encoding="utf-8"))
    scores = {row["label"]: row for row in board["rows"]}
    assert scores["recall-damaged"]["auprc_plau"] < scores["recall"]["auprc_plau"]
    won = {pair["winner"] for pair in board["pairs"] if pair["metric"] in ("aopc_compr", "auprc_plau")}
    assert won == {"recall"}


def test_gpu_throughput(tmp_path):
    """On whatever device there is."""
    printed = run(
        tmp_path, "gpu_throughput.py", "--methods", "saliency,dummy", "--largest-batch", "4", "--batch-seconds", "60"
    )
    assert "| `saliency` |" in printed and "saliency: fastest with" in printed and "4+" in printed
    assert (tmp_path / "throughput-output" / "batches.png").stat().st_size > 10_000


def test_data_set(tmp_path):
    settings = str(RECIPES / "attribute_dataset.yaml")
    code = f"from attriflow.cli import main; main(['attribute-dataset', '--config', {settings!r}])"
    done = run_fresh(code, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = (tmp_path / "attributions.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 20
    assert all(json.loads(row) for row in rows)


def test_all_are_in_the_docs():
    page = (RECIPES.parent / "docs" / "recipes.md").read_text(encoding="utf-8")
    missing = [p.name for p in RECIPES.glob("*.py") if p.name not in page and p.name != "make_docs.py"]
    assert not missing
