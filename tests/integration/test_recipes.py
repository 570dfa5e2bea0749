"""Every recipe runs and does what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import attriflow

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
pytestmark = pytest.mark.slow


def run(folder: Path, *arguments: str) -> str:
    env = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")} | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(RECIPES / arguments[0]), *arguments[1:]]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=600)
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


def test_custom_method(tmp_path):
    printed = run(tmp_path, "custom_method.py", "--examples", "4")
    assert [line.split()[0] for line in printed.splitlines()] == ["occlusion", "saliency", "recency", "random"]


def test_data_set(tmp_path):
    command = [sys.executable, "-c", "from attriflow.cli import main; main()", "attribute-dataset", "--config"]
    subprocess.run([*command, str(RECIPES / "attribute_dataset.yaml")], cwd=tmp_path, check=True, timeout=600)
    rows = (tmp_path / "attributions.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 20
    assert all(json.loads(row) for row in rows)


def test_all_are_in_the_docs():
    page = (RECIPES.parent / "docs" / "recipes.md").read_text(encoding="utf-8")
    missing = [p.name for p in RECIPES.glob("*.py") if p.name not in page and p.name != "make_docs.py"]
    assert not missing
