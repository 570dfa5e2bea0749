"""What all workers share: JSON commands on stdin, one JSON answer per command on stdout, seconds and peak memory.

A worker lives in its package's own environment, so this file needs nothing but the standard library and torch. It is
kept in a folder without any file named like a package, since Python looks for imports beside the script first.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any


def serve(commands: dict[str, Callable[..., dict[str, Any]]]) -> None:
    """Answer `{"do": name, **arguments}` lines until stdin ends; whatever libraries print goes to stderr."""
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        arguments = json.loads(line)
        try:
            answer = {"ok": True, **commands[arguments.pop("do")](**arguments)}
        except Exception as error:
            traceback.print_exc()
            message = str(error).strip().split("\n", 1)[0]
            answer = {"ok": False, "error": f"{type(error).__name__}: {message}"[:300]}
        answers.write(json.dumps(answer) + "\n")


def measured(function: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Result; seconds, peak resident memory of the process and what it grew by, both in bytes."""
    gc.collect()
    _give_back()
    with _peak() as memory:
        begin = time.perf_counter()
        result = function()
        seconds = time.perf_counter() - begin
    return result, {"seconds": seconds, "peak": memory["peak"], "grown": memory["peak"] - memory["before"]}


def _give_back() -> None:
    """Have the allocator return what it keeps, so that one method's memory does not count for the next."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return


def _status(name: str) -> float:
    with open("/proc/self/status") as file:
        found = re.search(rf"{name}:\s+(\d+)", file.read())
    return 1024.0 * int(found.group(1)) if found else 0.0


@contextmanager
def _peak() -> Any:
    """Peak resident memory: the kernel's own mark where it can be reset (Linux), else sampled in a thread."""
    memory = {"before": 0.0, "peak": 0.0}
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        yield from _sampled(memory)
        return
    memory["before"] = _status("VmRSS")
    yield memory
    memory["peak"] = _status("VmHWM")


def _sampled(memory: dict[str, float]) -> Any:
    import psutil

    process, done = psutil.Process(), threading.Event()

    def watch() -> None:
        while not done.is_set():
            memory["peak"] = max(memory["peak"], process.memory_info().rss)
            time.sleep(0.005)

    memory["before"] = memory["peak"] = process.memory_info().rss
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield memory
    done.set()
    thread.join()
