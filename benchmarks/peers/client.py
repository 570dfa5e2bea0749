"""A worker as the harness sees it: a long-lived subprocess that answers one command at a time."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


class WorkerError(Exception):
    """A command failed, took too long or the worker died; the message says which."""


class Worker:
    """Starts when first asked, and again after a time limit has ended it."""

    def __init__(self, name: str, python: str, cache: Path, threads: int) -> None:
        self.name, self.python, self.cache, self.threads = name, python, cache, threads
        self.process: subprocess.Popen[str] | None = None
        self.answers: queue.Queue[str] = queue.Queue()
        self.folder: Path | None = None
        self.info: dict[str, Any] = {}

    def load(self, folder: Path) -> dict[str, Any]:
        """Load a model; remembered for restarts."""
        self.stop()
        self.folder = folder
        self.info = self.ask(1200, do="load", folder=str(folder))
        return self.info

    def ask(self, limit: float, **command: Any) -> dict[str, Any]:
        """Send a command and wait for its answer, at most `limit` seconds."""
        if self.process is None or self.process.poll() is not None:
            self._start()
            if command["do"] != "load" and self.folder is not None:
                self.info = self.ask(1200, do="load", folder=str(self.folder))
        assert self.process is not None and self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        deadline = time.monotonic() + limit
        while True:
            try:
                line = self.answers.get(timeout=0.2)
                break
            except queue.Empty:
                if self.process.poll() is not None and self.answers.empty():
                    raise WorkerError(f"the worker died with exit status {self.process.returncode}") from None
                if time.monotonic() > deadline:
                    self.stop()
                    raise WorkerError(f"more than {limit:.0f} s") from None
        answer: dict[str, Any] = json.loads(line)
        if not answer.pop("ok"):
            raise WorkerError(answer["error"])
        return answer

    def _start(self) -> None:
        self.cache.mkdir(parents=True, exist_ok=True)
        self.answers = queue.Queue()
        environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": str(self.threads),
            "MKL_NUM_THREADS": str(self.threads),
            "INSEQ_ARTIFACTS_CACHE": str(self.cache / "inseq"),
        }
        environment.pop("PYTHONPATH", None)
        log = open(self.cache / f"{self.name}.log", "a")  # noqa: SIM115  (belongs to the process)
        self.process = subprocess.Popen(
            [self.python, str(HERE / "workers" / f"{self.name}_worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
        )
        log.close()
        threading.Thread(target=self._read, args=(self.process, self.answers), daemon=True).start()

    @staticmethod
    def _read(process: subprocess.Popen[str], answers: queue.Queue[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            answers.put(line)

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
