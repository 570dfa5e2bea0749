"""A real `mlflow server` process that can be killed and started again on its port."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path


class Server:
    """A server with a sqlite backend in a folder that hands artifacts through itself; it is not started yet."""

    def __init__(self, folder: Path, empty_store: Path | None = None) -> None:
        self.folder = folder
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = int(s.getsockname()[1])
        self.address = f"http://127.0.0.1:{self.port}"
        if empty_store is not None:
            shutil.copy(empty_store, folder / "mlflow.db")
        self.process: subprocess.Popen[bytes] | None = None
        self.environment = dict(os.environ)

    @property
    def command(self) -> list[str]:
        """What runs it."""
        return [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
            "--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}",
            "--artifacts-destination", str(self.folder / "artifacts"), "--workers", "1",
        ]  # fmt: skip

    def start(self) -> None:
        """Start it and wait until it answers."""
        log = self.folder / "server.log"
        with log.open("a") as out:
            self.process = subprocess.Popen(
                self.command, stdout=out, stderr=out, cwd=self.folder, env=self.environment, start_new_session=True
            )
        end = time.monotonic() + 120
        while time.monotonic() < end and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.address}/health", timeout=2) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                time.sleep(0.3)
        raise AssertionError(f"the server did not start:\n{log.read_text()[-3000:]}")

    def stop(self, kind: int = signal.SIGKILL) -> None:
        """End it, with its workers."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, kind)
            self.process.wait(30)
            self.process = None


class ModelServer(Server):
    """`mlflow models serve` of a folder that holds a logged model, in a process that has no attriflow."""

    def __init__(self, folder: Path, model: Path) -> None:
        super().__init__(folder)
        self.model, absent = model, folder / "absent"
        absent.mkdir()
        (absent / "attriflow.py").write_text("raise ImportError('not here')")
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        self.environment |= {"PYTHONPATH": str(absent), "PATH": programs}

    @property
    def command(self) -> list[str]:
        """What runs it."""
        return [
            sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(self.model), "--env-manager", "local",
            "--host", "127.0.0.1", "--port", str(self.port),
        ]  # fmt: skip

    def ask(self, **content: object) -> tuple[int, dict[str, object]]:
        """Status and answer of a request."""
        request = urllib.request.Request(
            f"{self.address}/invocations", json.dumps(content).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
