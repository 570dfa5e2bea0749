"""What goes to workers, and what comes back."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from attriflow.errors import no_memory, reason_of

Work = Callable[[Any], Any]
"""What a worker does with a unit's payload. It holds what takes long to load.

Where memory ran out for a part of it, the result says so (an attribute `no_memory` that is true): it is done again
elsewhere while there are tries left, and the last result stands.
"""
Factory = Callable[[], Work]
"""Makes that: called once in every worker."""


@dataclass(frozen=True)
class Unit:
    """A piece of work that depends on no other.

    Attributes:
        id: Unique, and the same in every run.
        payload: Small, and picklable.
    """

    id: str
    payload: Any


@dataclass(frozen=True)
class Done:
    """What became of a unit.

    Attributes:
        unit: The unit.
        result: What the work returned; None beside an error.
        error: One line: what the work raised, or why its workers were lost.
        worker: Who did it.
        seconds: Time of the work.
        cause: What the work raised; None where workers were lost.
    """

    unit: Unit
    result: Any | None
    error: str | None
    worker: str
    seconds: float
    cause: Exception | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Answer:
    """What a worker says of a unit; see `Done`."""

    result: Any | None
    error: str | None
    seconds: float
    cause: Exception | None = None
    no_memory: bool = False


class Pace:
    """How fast each worker is."""

    def __init__(self) -> None:
        self._done = dict[str, tuple[int, float]]()

    def add(self, worker: str, rows: int, seconds: float) -> None:
        """Count what a worker has done, and how long it took it."""
        before, took = self._done.get(worker, (0, 0.0))
        self._done[worker] = before + rows, took + seconds

    def rows_per_second(self) -> dict[str, float]:
        """Of each worker, while it worked."""
        return {worker: rows / max(seconds, 1e-9) for worker, (rows, seconds) in self._done.items()}


class BrokenWorkerError(Exception):
    """The worker can do nothing more: its accelerator is in an error from which only a new process recovers."""


def do(work: Work, payload: Any) -> Answer:
    """Do a unit. What is raised is part of the answer, but for what ends the worker."""
    begin = time.perf_counter()
    try:
        result = work(payload)
    except Exception as error:
        if _broken(error):
            raise BrokenWorkerError(reason_of(error)) from error
        return Answer(None, reason_of(error), time.perf_counter() - begin, error, no_memory(error))
    return Answer(result, None, time.perf_counter() - begin, no_memory=getattr(result, "no_memory", False) is True)


def answer(work: Work, payload: Any) -> bytes:
    """Do a unit and pickle the answer, which is an error where the result cannot be."""
    found = do(work, payload)
    if found.cause is not None:
        found = replace(found, cause=sendable(found.cause))
    try:
        return pickle.dumps(found)
    except Exception as error:
        return pickle.dumps(Answer(None, reason_of(error), found.seconds, sendable(error)))


def sendable(error: Exception) -> Exception:
    """The error as another process can read it, without the frames that would hold tensors."""
    try:
        return pickle.loads(pickle.dumps(error))  # type: ignore[no-any-return]
    except Exception:  # whatever a stranger's error raises when it is copied
        return RuntimeError(reason_of(error))


def _broken(error: Exception) -> bool:
    """Whether an error of PyTorch's says that the accelerator is lost to this process (a type since PyTorch 2.8)."""
    return type(error).__name__ == "AcceleratorError" or str(error).startswith(("CUDA error", "HIP error"))
