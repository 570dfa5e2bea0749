"""Units to workers, as they ask for them: the same for all kinds of workers.

A worker has one unit, and a second one in its queue where units are short: while the driver is busy with a result, the
worker has something to do, and no more than that is ever under way. What a lost worker had goes to others, each to one
that has nothing else: it may have been lost by what waited there, after an answer that nobody has heard.
"""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from attriflow.errors import AttriflowError, InputError, printable
from attriflow.workers.units import Answer, Done, Unit

SHORT = 2.0
"""Seconds; units that take less, on the average, wait in a worker's queue."""
AHEAD = 4
"""Units per worker that may be begun after the oldest one that is not done, where they are handed over in order."""
LOADS = 3
"""Workers in a row that may be lost while they load before no others are tried."""


@dataclass(frozen=True)
class Ready:
    """A worker has loaded what it needs. `label`: what to call it."""

    worker: str
    label: str


@dataclass(frozen=True)
class Unable:
    """A worker cannot load what it needs."""

    worker: str
    reason: str
    cause: Exception | None


@dataclass(frozen=True)
class Answered:
    """A worker has done the oldest unit that it was given."""

    worker: str
    answer: Answer


@dataclass(frozen=True)
class Lost:
    """A worker is gone."""

    worker: str
    reason: str


Event = Ready | Unable | Answered | Lost


class Crew(Protocol):
    """Workers of one kind. They begin to load when they are hired, and do what they are given one after the other."""

    def hire(self) -> str:
        """Start a worker; its name."""

    def give(self, worker: str, payload: Any) -> None:
        """Give a unit to a worker that is ready."""

    def wait(self) -> list[Event]:
        """What has happened; may be empty, but not before a moment has passed."""

    def wanted(self) -> int:
        """How many workers there should be now."""

    def waits_for_all(self) -> bool:
        """Whether no unit is given before all that were hired have loaded."""

    def close(self) -> None:
        """End every worker, whatever it does."""


class Dispatch:
    """One run of units over a crew."""

    def __init__(self, crew: Crew, units: Iterable[Unit], tries: int, ordered: bool) -> None:
        """Nothing is started before `run`."""
        self.crew, self.units, self.tries, self.ordered = crew, iter(units), tries, ordered
        self.given = dict[str, deque[tuple[int, Unit]]]()  # by worker: what it has, oldest first
        self.loading, self.again = set[str](), deque[tuple[int, Unit, str]]()  # ... and who failed with it
        self.failures, self.held = Counter[int](), dict[int, Done]()
        self.alone = set[int]()  # numbers of what was with a lost worker, or found no memory
        self.next, self.first, self.more = 0, 0, True  # number of the next unit, and of the oldest that is not done
        self.unloaded, self.why, self.begun, self.mean = 0, "", False, 0.0
        self.labels = dict[str, str]()

    def run(self) -> Iterator[Done]:
        """What became of the units, as it comes; in their order where that was asked for."""
        try:
            while True:
                self._hire()
                self._give()
                if not (self.more or self.again or any(self.given.values())):
                    break
                for event in self.crew.wait():
                    yield from self._in_turn(self._heard(event))
        finally:
            self.crew.close()

    # -- giving ------------------------------------------------------------------------------------------------------

    def _hire(self) -> None:
        while len(self.given) + len(self.loading) < self.crew.wanted() and self.unloaded < LOADS:
            self.loading.add(self.crew.hire())
        if not (self.given or self.loading):
            raise InputError(f"no worker can start: {self.why}")

    def _give(self) -> None:
        if not self.begun and (not self.given or (self.loading and self.crew.waits_for_all())):
            return
        self.begun = True
        for depth in (1, 2) if 0 < self.mean < SHORT else (1,):  # everybody's first one before anybody's second
            for worker, queue in self.given.items():
                while len(queue) < depth and (found := self._taken(worker, queue)) is not None:
                    queue.append(found)
                    self.crew.give(worker, found[1].payload)

    def _taken(self, worker: str, queue: Collection[tuple[int, Unit]]) -> tuple[int, Unit] | None:
        """The next unit for a worker: one that others failed with, which has it for itself, or a new one."""
        if any(number in self.alone for number, _ in queue):
            return None
        for at, (number, unit, failed) in enumerate(self.again if not queue else ()):
            if failed != worker or len(self.given) == 1:
                del self.again[at]
                return number, unit
        if not self.more or (self.ordered and self.next - self.first >= AHEAD * max(2, len(self.given))):
            return None
        new = next(self.units, None)
        if new is None:
            self.more = False
            return None
        self.next += 1
        return self.next - 1, new

    # -- hearing -----------------------------------------------------------------------------------------------------

    def _heard(self, event: Event) -> list[tuple[int, Done]]:
        if isinstance(event, Ready):
            self.loading.discard(event.worker)
            self.given[event.worker], self.labels[event.worker], self.unloaded = deque(), event.label, 0
        elif isinstance(event, Unable):
            self._cannot_load(event)
        elif isinstance(event, Lost):
            return self._lost(event)
        else:
            return self._answered(event.worker, event.answer)
        return []

    def _answered(self, worker: str, answer: Answer) -> list[tuple[int, Done]]:
        number, unit = self.given[worker].popleft()
        self.mean = answer.seconds if not self.mean else 0.8 * self.mean + 0.2 * answer.seconds
        if answer.no_memory and self._once_more(number, unit, worker):
            return []
        name = self.labels[worker]
        return [(number, Done(unit, answer.result, answer.error, name, answer.seconds, answer.cause))]

    def _lost(self, event: Lost) -> list[tuple[int, Done]]:
        if event.worker in self.loading:
            self.loading.discard(event.worker)
            self.unloaded, self.why = self.unloaded + 1, event.reason
            return []
        queue = self.given.pop(event.worker)
        waiting = [queue.pop() for _ in range(len(queue) - 1)]  # the newest first; these were not begun
        for number, unit in waiting:
            self.again.appendleft((number, unit, ""))
            self.alone.add(number)
        if not queue:
            return []
        number, unit = queue[0]
        if self._once_more(number, unit, event.worker):
            return []
        times = f" {self.failures[number]} times" if self.failures[number] > 1 else ""
        name = self.labels[event.worker]
        return [(number, Done(unit, None, f"lost its worker{times}: {event.reason}", name, 0.0))]

    def _once_more(self, number: int, unit: Unit, worker: str) -> bool:
        """Whether a unit that failed for want of a worker or of memory is tried again, elsewhere if possible."""
        self.failures[number] += 1
        if self.failures[number] >= self.tries:
            return False
        self.again.appendleft((number, unit, worker))
        self.alone.add(number)
        return True

    def _cannot_load(self, event: Unable) -> None:
        self.loading.discard(event.worker)
        if not self.begun:
            raise (
                event.cause
                if isinstance(event.cause, AttriflowError)
                else InputError(f"{event.worker} cannot start: {event.reason}")
            )
        self.unloaded, self.why = self.unloaded + 1, event.reason
        print(printable(f"{event.worker} cannot start and is left out: {event.reason}"), file=sys.stderr, flush=True)

    def _in_turn(self, found: Iterable[tuple[int, Done]]) -> Iterator[Done]:
        for number, done in found:
            if not self.ordered:
                yield done
                continue
            self.held[number] = done
            while self.first in self.held:
                self.first += 1
                yield self.held.pop(self.first - 1)
