"""Work for workers, some of which ends them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from attriflow.errors import InputError
from attriflow.workers import Unit, run_units


class Worker:
    def __init__(self, fail: bool = False) -> None:
        if fail:
            raise InputError("there is no such model")

    def __call__(self, task: tuple[str, Any]) -> Any:
        kind, value = task
        if kind == "square":
            return value**2
        if kind == "sleep":
            time.sleep(value)
        if kind == "raise":
            raise InputError("no such text")
        if kind == "lambda":
            return lambda: None
        if kind == "kill once" and Path(value).exists():
            return "the second time"
        if kind == "kill once":
            Path(value).touch()
        if kind in ("kill", "kill once"):
            os.kill(os.getpid(), signal.SIGKILL)
        return None


def units_of(tasks: Iterable[tuple[str, Any]]) -> list[Unit]:
    return [Unit(str(i), task) for i, task in enumerate(tasks)]


def wait_in_processes() -> None:
    for done in run_units(Worker, units_of([("square", 2), *[("sleep", 600)] * 4]), engine="processes", workers=2):
        assert done.result == 4
        print("begun", flush=True)
