"""A progress bar for long work in terminals, nothing anywhere else."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

CODE = """
import time
from attriflow.progress import track
for _ in track(range(8), 'saliency', {show}):
    time.sleep({pause})
"""


def in_terminal(show: bool, pause: float) -> str:
    """What a child process prints on a standard error that is a terminal."""
    master, slave = pty.openpty()
    code = CODE.format(show=show, pause=pause)
    process = subprocess.Popen([sys.executable, "-c", code], stderr=slave, env={**os.environ, "TERM": "xterm"})
    os.close(slave)
    out = b""
    while True:
        try:
            chunk = os.read(master, 4096)
        except OSError:  # the other side is closed
            break
        if not chunk:
            break
        out += chunk
    os.close(master)
    assert process.wait() == 0
    return out.decode(errors="replace")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_appears_after_two_seconds_in_a_terminal():
    assert "saliency" in in_terminal(True, 0.35)
    assert in_terminal(True, 0.0) == ""
    assert in_terminal(False, 0.35) == ""


def test_silent_in_a_pipe():
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(show=True, pause=0.3)], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
