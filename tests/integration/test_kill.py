"""`attribute-dataset --resume` and `evaluate --resume` against SIGKILL, in real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def found_by(script: str, folder: Path, trials: int, *options: str) -> list[dict]:
    """What the trials of a script did."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(Path(__file__).with_name(script)), str(folder), str(trials), *options]
    out = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert out.returncode == 0, out.stderr[-2000:]
    found = json.loads(out.stdout)
    assert len(found) == trials
    return found


def killed(folder: Path, trials: int, rows: int, *options: str) -> list[dict]:
    """Trials of tests/integration/killed_runs.py, checked."""
    found = found_by("killed_runs.py", folder, trials, str(rows), *options)
    for trial in found:
        assert trial["equal"] and trial["left"] == [], trial
    return found


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path):
    found = killed(tmp_path, 6, 96, "-a", "saliency")  # up to two kills each
    lines = (tmp_path / "whole.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["row"] for line in lines] == list(range(96))
    moments = [rows for trial in found for rows in trial["rows at each kill"]]
    print("rows done when killed:", moments)
    assert len(moments) >= 7 and len(set(moments)) >= 2  # a multiple of 32 rows is done, or none, or all


@pytest.mark.slow
@pytest.mark.sweep
def test_an_evaluation_killed_at_random_moments_goes_on(tmp_path):
    (trial,) = found_by("resumed_evaluations.py", tmp_path, 1)
    print("exit codes:", trial["codes"])
    assert trial["runs"] == 1 and trial["status"] == "FINISHED", trial
    assert trial["scores"] and trial["board"], trial  # byte for byte those of an evaluation that nobody killed
    assert trial["metrics"] and trial["points"] == 1, trial  # everything is logged, and once
