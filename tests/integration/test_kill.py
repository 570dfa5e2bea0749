"""`attribute-dataset --resume` and `evaluate --resume` against SIGKILL, in real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def found_by(script: str, folder: Path, times: int, *options: str) -> Any:
    """What a script tells."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(Path(__file__).with_name(script)), str(folder), str(times), *options]
    out = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert out.returncode == 0, out.stderr[-2000:]
    return json.loads(out.stdout)


def killed(folder: Path, trials: int, rows: int, *options: str) -> list[dict]:
    """Trials of tests/integration/killed_runs.py, checked."""
    found = found_by("killed_runs.py", folder, trials, str(rows), *options)
    assert len(found) == trials
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
    found = found_by("resumed_evaluations.py", tmp_path, 3)
    print("seed:", found["seed"], "kills:", found["phases"])
    assert sum(found["phases"].values()) == 3
    for trial in found["trials"]:
        assert trial["runs"] == 1 and trial["status"] == "FINISHED", trial
        assert trial["scores"] and trial["board"], trial  # byte for byte those of an evaluation that nobody killed
        assert trial["metrics"] and trial["points"] == 1 and trial["files"], trial  # everything is logged, and once
        assert trial["units done twice"] == [], trial
