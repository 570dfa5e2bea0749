"""The tests on a second device, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

OPTIONS = ("-q", "-rs", "-p", "no:cacheprovider")
FILES = ("test_devices.py", "test_devices_evaluated.py", "test_device_counts.py", "test_device_memory.py")


@pytest.mark.slow
@pytest.mark.parametrize("those", ["not slow and not sweep", pytest.param("slow or sweep", marks=pytest.mark.sweep)])
def test_models_over_several_devices(those):
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *OPTIONS, "-m", those, *(here / name for name in FILES)],
        cwd=here.parents[1],
        env={**os.environ, "SECOND_DEVICE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    if " passed" not in done.stdout:
        pytest.skip(done.stdout.strip().splitlines()[-1])
