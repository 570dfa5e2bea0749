"""The tests on a second device, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

OPTIONS = ("-q", "-rs", "-p", "no:cacheprovider", "-m", "not slow")


@pytest.mark.slow
def test_models_over_several_devices():
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *OPTIONS, here / "test_devices.py", here / "test_device_counts.py"],
        cwd=here.parents[1],
        env={**os.environ, "SECOND_DEVICE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    if " passed" not in done.stdout:
        pytest.skip(done.stdout.strip().splitlines()[-1])
