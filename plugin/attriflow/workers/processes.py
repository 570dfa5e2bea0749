"""Workers that are processes of this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection, wait
from typing import Any

from attriflow.workers.dispatch import Answered, Event, Lost, Ready, Unable
from attriflow.workers.inside import serve
from attriflow.workers.units import Answer, Factory

VISIBLE = {"cuda": ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"), "xpu": ("ZE_AFFINITY_MASK",)}
"""Kind of accelerator -> what says which of them a process sees."""
END = 2.0
"""Seconds that a process has to end before it is killed."""
MOMENT = 1.0
"""Seconds; how often a wait comes back."""
_starting = threading.Lock()


class Processes:
    """A crew of processes. They are spawned: a fork of a process with threads or a GPU would not work."""

    def __init__(self, factory: Factory, n: int | None) -> None:
        """Nothing is started before `hire`.

        Args:
            factory: Of the work.
            n: How many; None is one per accelerator, one per core where there is none.
        """
        self.factory = factory
        self.kind, devices = _accelerators()
        self.n = n or len(devices) or cores()
        self.settings = [_settings(self.kind, devices, i, self.n) for i in range(self.n)]
        self.context = multiprocessing.get_context("spawn")
        self.hired = dict[str, tuple[Any, Connection, int]]()  # process, our end of its pipe, its place
        self.count = 0

    def hire(self) -> str:
        """Start a process in the first place that is free."""
        taken = {place for _, _, place in self.hired.values()}
        place = next(i for i in range(self.n) if i not in taken)
        self.count += 1
        name = f"process {self.count}"
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=serve, args=(theirs, self.factory), name=name, daemon=True)
        with _environment(self.settings[place]):
            process.start()
        theirs.close()
        self.hired[name] = process, ours, place
        return name

    def give(self, worker: str, payload: Any) -> None:
        """Into its pipe; where that is broken, `wait` will say so."""
        with contextlib.suppress(OSError):
            self.hired[worker][1].send_bytes(pickle.dumps(payload))

    def wait(self) -> list[Event]:
        """One event per pipe in which there is something."""
        by_pipe = {pipe: name for name, (_, pipe, _) in self.hired.items()}
        return [self._event(by_pipe[pipe]) for pipe in wait(list(by_pipe), MOMENT)]  # type: ignore[index]

    def _event(self, worker: str) -> Event:
        process, pipe, _ = self.hired[worker]
        try:
            said = pickle.loads(pipe.recv_bytes())
        except (EOFError, OSError):
            self._end(worker)
            return Lost(worker, _why(process.exitcode))
        if isinstance(said, Answer):
            return Answered(worker, said)
        kind, content = said
        if kind == "ready":
            return Ready(worker, worker)
        self._end(worker)
        return Unable(worker, *content) if kind == "unable" else Lost(worker, content)

    def wanted(self) -> int:
        """Always the same."""
        return self.n

    def waits_for_all(self) -> bool:
        """They all start at once."""
        return True

    def close(self) -> None:
        """Closed pipes end the processes; those that do not hear it are killed."""
        for process, pipe, _ in self.hired.values():
            pipe.close()
            process.terminate()
        for worker in list(self.hired):
            self._end(worker)

    def _end(self, worker: str) -> None:
        process, pipe, _ = self.hired.pop(worker)
        pipe.close()
        process.join(END)
        if process.exitcode is None:
            process.kill()
            process.join()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share(devices: int, place: int, n: int) -> range:
    """Devices of the worker at a place: an equal part for each; one, in turn, where workers are more."""
    each = max(1, devices // n)
    first = place * each % max(1, devices)
    return range(first, first + each) if devices else range(0)


def _accelerators() -> tuple[str, list[str]]:
    """Their kind, and what each is called where a process is told which it sees."""
    import torch

    from attriflow.kernels import devices

    found = devices.accelerator()
    if found is None or found.type not in VISIBLE:
        return "", []
    told = next((os.environ[name] for name in VISIBLE[found.type] if os.environ.get(name)), "")
    return found.type, told.split(",") if told else [str(i) for i in range(torch.accelerator.device_count())]


def _settings(kind: str, devices: list[str], place: int, n: int) -> Mapping[str, str]:
    """Environment of the process at a place: its devices, and its part of the threads."""
    threads = max(1, cores() // n)
    told = os.environ.get("OMP_NUM_THREADS", "")
    settings = {"OMP_NUM_THREADS": str(min(threads, int(told)) if told.isdigit() else threads)}
    visible = ",".join(devices[i] for i in share(len(devices), place, n))
    return settings | dict.fromkeys(VISIBLE.get(kind, ()), visible)


@contextlib.contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """A process begins with the environment that its parent has at that moment, and deaf to what that is deaf to."""
    with _starting:
        before = {name: os.environ.get(name) for name in settings}
        os.environ.update(settings)
        deaf = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if hasattr(signal, "pthread_sigmask") else None
        try:
            yield
        finally:
            if deaf is not None:
                signal.pthread_sigmask(signal.SIG_SETMASK, deaf)
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def _why(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        return f"it was killed ({name})" + (", perhaps for want of memory" if name == "SIGKILL" else "")
    return f"it ended (exit code {code})"
