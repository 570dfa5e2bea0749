"""What runs for whom: work that its page has told to stop, or whose page is gone, ends at the next model call."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from attriflow.kernels.stopping import stoppable

PATIENCE = 10.0
"""Seconds that work goes on without a page that waits for it: a reloaded one is back in less."""


@dataclass(eq=False)
class _Job:
    session: str
    stopped: bool = False
    alone_since: float | None = None


class Jobs:
    """Sessions (open pages), and the work that runs for them."""

    def __init__(self, patience: float = PATIENCE, clock: Callable[[], float] = time.monotonic) -> None:
        """Nobody is there."""
        self.patience, self.clock = patience, clock
        self._lock = threading.Lock()
        self._connections: Counter[str] = Counter()
        self._running: set[_Job] = set()
        self._ended = False

    @contextmanager
    def listening(self, session: str) -> Iterator[None]:
        """A connection over which a page waits for results."""
        with self._lock:
            self._connections[session] += 1
        try:
            yield
        finally:
            with self._lock:
                self._connections[session] -= 1
                if not self._connections[session]:
                    del self._connections[session]

    @contextmanager
    def running(self, session: str) -> Iterator[None]:
        """Work for a session; attributing in the block raises `Stopped` when it is to end."""
        job = _Job(session)
        with self._lock:
            self._running.add(job)
        try:
            with stoppable(lambda: self._over(job)):
                yield
        finally:
            with self._lock:
                self._running.discard(job)

    def stop(self, session: str | None = None) -> int:
        """End what runs for a session; or all, and whatever is still begun. Returns how much that is."""
        with self._lock:
            self._ended = self._ended or session is None
            found = [job for job in self._running if session in (None, job.session)]
            for job in found:
                job.stopped = True
        return len(found)

    def _over(self, job: _Job) -> bool:
        with self._lock:
            if job.stopped or self._ended:
                return True
            if self._connections[job.session]:
                job.alone_since = None
                return False
            now = self.clock()
            job.alone_since = now if job.alone_since is None else job.alone_since
            return now - job.alone_since > self.patience
