"""`attribute-dataset --resume` against SIGKILL, in real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def killed(folder: Path, trials: int, rows: int, *options: str) -> list[dict]:
    """Trials of tests/integration/killed_runs.py, checked."""
    script = Path(__file__).with_name("killed_runs.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(script), str(folder), str(trials), str(rows), *options]
    out = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert out.returncode == 0, out.stderr[-2000:]
    found = json.loads(out.stdout)
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
