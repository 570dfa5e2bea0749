"""Workers that are actors of a Ray cluster (extra `ray`)."""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from attriflow.errors import AttriflowError, InputError, MissingExtraError, reason_of
from attriflow.kernels.stopping import check_stop
from attriflow.workers.dispatch import Answered, Event, Lost, Ready, Unable
from attriflow.workers.processes import cores
from attriflow.workers.units import Answer, Factory, answer, sendable

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to Ray's authors
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a warning of a setting that changes nothing here
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",  # what it would print about workers that died, to standard output
}
"""Environment that Ray reads when it is imported, unless it is set."""
OBJECTS = 256 * 2**20
"""Bytes of the object store of a cluster of our own: only results that are on their way lie in it."""
MOMENT, JOINED = 1.0, 10.0
"""Seconds: how often a wait comes back, and how often is looked whether nodes have joined."""
REACH, CONNECT = 5.0, 15.0
"""Seconds within which a cluster's address must answer, and Ray have connected to it."""
PATIENCE = 5.0
"""Seconds that workers have to load after the first one has, at least: others may be waiting for a node to join."""


class Actor:
    """The worker."""

    def __init__(self, factory: Factory) -> None:
        """Nothing is loaded before `load`."""
        self.factory = factory

    def load(self) -> tuple[str, Any]:
        """Where this worker is, when it has loaded; why it cannot, else."""
        import ray

        where = ray.util.get_node_ip_address()
        try:
            self.work = self.factory()
        except Exception as error:
            reason = f"{reason_of(error)} (on {where})"
            return "unable", (reason, InputError(reason) if isinstance(error, AttriflowError) else sendable(error))
        return "ready", where

    def do(self, payload: bytes) -> bytes:
        """The pickled answer."""
        return answer(self.work, pickle.loads(payload))


def check_installed() -> None:
    """Raise `MissingExtraError` where Ray is not."""
    if find_spec("ray") is None:
        raise MissingExtraError("engine 'ray'", "ray", "ray")


class RayActors:
    """A crew of actors: as many as the cluster has accelerators, or cores, unless a number is given."""

    def __init__(self, factory: Factory, n: int | None, address: str | None) -> None:
        """Connect, or start a cluster."""
        os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
        import ray

        self.ray, self.n, self.factory, self.ours = ray, n, factory, not ray.is_initialized()
        if self.ours:
            with _signals_as_before():
                connect(address or os.environ.get("RAY_ADDRESS"))
        elif address not in (None, "auto", here := ray.get_runtime_context().gcs_address):
            raise InputError(f"this process is connected to the Ray cluster at {here} already, not to {address}")
        self.hired, self.waiting = dict[str, Any](), dict[Any, str]()  # actors; what they owe us -> who
        self.count, self.begin = 0, time.monotonic()
        self.loaded, self.looked = 0.0, 0.0  # when the first had loaded, and when the cluster was last looked at
        self.most = 0
        total, largest = self._resources()  # now: a node that leaves makes nobody's part smaller
        part = {"num_cpus": _share(total["CPU"], largest["CPU"], self.wanted())}
        if total["GPU"]:
            part = {"num_gpus": _share(total["GPU"], largest["GPU"], self.wanted()), "num_cpus": 1}
        self.kind = ray.remote(Actor).options(**part)

    def hire(self) -> str:
        """Ask for an actor; it comes when there is room for it."""
        self.count += 1
        name = f"actor {self.count}"
        self.hired[name] = self.kind.remote(self.factory)
        self.waiting[self.hired[name].load.remote()] = name
        return name

    def give(self, worker: str, payload: Any) -> None:
        """A call of the actor; it does its calls in their order."""
        self.waiting[self.hired[worker].do.remote(pickle.dumps(payload))] = worker

    def wait(self) -> list[Event]:
        """Every result that is there, at least one unless a moment has passed."""
        owed = list(self.waiting)
        try:
            done, _ = self.ray.wait(owed, num_returns=len(owed), timeout=0)
            if not done:
                done, _ = self.ray.wait(owed, num_returns=1, timeout=MOMENT)
        except SystemExit:
            check_stop()  # Ray raises one of its own for what a signal raised
            raise
        found, came = list[Event](), set(done)
        for one in owed:  # in the order in which they were given
            if one in came and one in self.waiting:
                found.append(self._event(one))
        return found

    def _event(self, one: Any) -> Event:
        worker = self.waiting.pop(one)
        try:
            said = self.ray.get(one)
        except self.ray.exceptions.RayError as error:
            self._end(worker)
            return Lost(worker, _why(error))
        if isinstance(said, bytes):
            return Answered(worker, self._read(said))
        kind, content = said
        if kind == "ready":
            self.loaded = self.loaded or time.monotonic()
            return Ready(worker, f"{worker} on {content}")
        self._end(worker)
        return Unable(worker, *content)

    @staticmethod
    def _read(said: bytes) -> Answer:
        found: Answer = pickle.loads(said)
        return found

    def wanted(self) -> int:
        """The number that was asked for, or the most that the cluster had room for."""
        if self.n is not None:
            return self.n
        if not self.most or time.monotonic() - self.looked > JOINED:
            self.looked = time.monotonic()
            total, _ = self._resources()
            self.most = max(self.most, int(total["GPU"] or total["CPU"]))
        return max(1, self.most)

    def waits_for_all(self) -> bool:
        """For a while after the first has loaded: where there is no room yet, others would be waited for for ever."""
        return time.monotonic() - self.loaded < max(PATIENCE, self.loaded - self.begin)

    def close(self) -> None:
        """End the actors, and a cluster of our own."""
        for worker in list(self.hired):
            self._end(worker)
        if self.ours:
            self.ray.shutdown()

    def _end(self, worker: str) -> None:
        self.waiting = {one: name for one, name in self.waiting.items() if name != worker}
        self.ray.kill(self.hired.pop(worker), no_restart=True)

    def _resources(self) -> tuple[dict[str, float], dict[str, float]]:
        """Accelerators and cores of the cluster, and of the node that has most of them."""
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        by_kind = {kind: [node.get(kind, 0.0) for node in nodes] or [0.0] for kind in ("GPU", "CPU")}
        return {k: sum(v) for k, v in by_kind.items()}, {k: max(v) for k, v in by_kind.items()}


def _share(total: float, largest: float, n: int) -> float:
    """A worker's part of a resource: whole ones that one node has, or part of one where workers are many."""
    part = total / n
    return max(1, min(math.floor(part), math.floor(largest))) if part >= 1 else math.floor(1000 * part) / 1000


def connect(address: str | None) -> None:
    """Connect to a cluster; start one on this machine where there is no address.

    Raises:
        InputError: There is none at this address.
    """
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None or address == "local":
        own = {"num_cpus": cores(), "object_store_memory": OBJECTS, "include_dashboard": False}
        ray.init(address="local", **own, **quiet)
        return
    check_reached(address)
    failed = list[Exception]()

    def start() -> None:
        try:
            ray.init(address=address, **quiet)
        except Exception as error:
            failed.append(error)

    # in a thread: Ray tries for minutes, or for ever where something else answers
    thread = threading.Thread(target=start, daemon=True)
    with _unheard():
        thread.start()
        thread.join(CONNECT)
    if thread.is_alive():
        raise InputError(f"no Ray cluster at {address}: nothing within {CONNECT:.0f} s")
    if failed:
        raise InputError(f"no Ray cluster at {address}: {reason_of(failed[0])}")


@contextlib.contextmanager
def _signals_as_before() -> Iterator[None]:
    """Ray would answer SIGTERM with its stack on the standard error and an abort; whoever did so before, does so."""
    here = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM) if here else None
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """Without what Ray's libraries write to the standard error, a line per try; what is wrong is told at the end."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def check_reached(address: str | None) -> None:
    """Raise `InputError` for what is no address, or where nothing listens."""
    if address in (None, "auto", "local"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise InputError(f"{address!r} is no address of a Ray cluster: give HOST:PORT, ray://HOST:PORT or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"no Ray cluster at {address}: {getattr(error, 'strerror', None) or reason_of(error)}"
        ) from error


def _why(error: Exception) -> str:
    """One line of what Ray says at length; an error's own line is the last."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, Exception):
        return reason_of(cause)
    found = re.search(r"exit detail: (.+?)(?:\. Some common|$)", str(error), re.MULTILINE)
    if found is not None:
        return f"it was killed, perhaps for want of memory ({found[1]})"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
