"""A progress bar for long work in terminals, a line now and then anywhere else."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from attriflow import progress

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


def test_short_work_is_silent_in_a_pipe():
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(show=True, pause=0.3)], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


@pytest.mark.parametrize("known", [True, False])
def test_long_work_says_how_far_it_is_in_a_log(monkeypatch, capsys, known):
    now = iter(range(0, 10_000, 20))  # each look at the clock is 20 seconds after the last
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(now)))
    assert list(progress.track(range(6) if known else iter(range(6)), "methods")) == list(range(6))
    lines = ["methods: 2 of 6 done after 40 s (80 s left)", "methods: 4 of 6 done after 80 s (40 s left)"]
    if not known:
        lines = ["methods: 2 done after 40 s", "methods: 4 done after 80 s", "methods: 6 done after 2 min"]
    assert capsys.readouterr().err.splitlines() == lines
    assert list(progress.track(range(6), "methods", show=False)) == list(range(6))
    assert capsys.readouterr().err == ""


def test_what_was_there_before_says_nothing_of_the_speed(monkeypatch, capsys):
    now = iter([0.0, 100.0, 130.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with progress.Meter("rows", 10_000, 4_000) as meter:
        meter.advance(200)
        meter.advance(5_800)
    assert capsys.readouterr().err == "rows: 4,200 of 10,000 done after 2 min (2.0/s, 48 min left)\n"


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "1 s"), (89, "89 s"), (91, "2 min"), (5000, "83 min"), (9000, "2 h 30 min")]
)
def test_durations(seconds, said):
    assert progress.duration(seconds) == said
