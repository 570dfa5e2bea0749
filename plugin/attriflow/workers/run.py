"""Units on workers of whichever kind."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator
from typing import Any

from attriflow.errors import InputError, check_choice, check_least
from attriflow.workers.dispatch import Crew, Dispatch
from attriflow.workers.units import BrokenWorkerError, Done, Factory, Unit, do

ENGINES = ("local", "processes", "ray")
"""Where units may be done: in this process, in others of this machine, on a Ray cluster."""


def run_units(
    factory: Factory,
    units: Iterable[Unit],
    *,
    engine: str = "local",
    workers: int | None = None,
    address: str | None = None,
    tries: int = 3,
    ordered: bool = False,
) -> Generator[Done, None, None]:
    """Do units of work, wherever that is.

    A worker calls the factory once and pulls units. Few units per worker are under way, and results are handed over as
    they come, so memory does not grow with their number. Whoever takes the results writes them: workers write nothing.
    Workers end with the iterator, and with this process.

    Args:
        factory: Makes the work, in every worker; picklable, but for "local".
        units: Read as workers ask for them.
        engine: One of `ENGINES`.
        workers: How many; by default one per accelerator, or one per core.
        address: Of a Ray cluster; without it, one is started on this machine.
        tries: How often a unit is tried whose worker is lost or runs out of memory, be it for a part of it (`Work`).
            What else a unit raises it would raise again.
        ordered: Hand the results over in the order of the units, of which few are then done ahead.

    Returns:
        What became of every unit, once.

    Raises:
        InputError: There is no such cluster, or a worker cannot start; what the factory raised, if that is ours.
        MissingExtraError: Ray is not installed.
    """
    check_engine(engine, workers, address)
    check_least("tries", tries)
    if engine == "local":
        return _here(factory, units)
    return _elsewhere(factory, units, engine, workers, address, tries, ordered)


def check_engine(engine: str, workers: int | None, address: str | None) -> None:
    """Raise `UnknownNameError`, `InputError` or `MissingExtraError` for what cannot be, before anything is done."""
    check_choice("engine", engine, ENGINES)
    if workers is not None:
        check_least("workers", workers)
        if engine == "local" and workers > 1:
            raise InputError(f"engine 'local' is one worker, not {workers}: choose 'processes' or 'ray'")
    if engine == "ray":
        from attriflow.workers.on_ray import check_installed, check_reached

        check_installed()
        check_reached(address)
    elif address is not None:
        raise InputError(f"engine {engine!r} has no use for the address of a Ray cluster: choose 'ray'")


def rounding(engine: str, workers: int | None) -> dict[str, Any]:
    """What decides, on a CPU, how sums are rounded in the last digit: threads of a process, and who does the units."""
    import torch

    found = {"threads": torch.get_num_threads()}
    if engine == "local" or os.environ.get("OMP_NUM_THREADS") == "1":  # workers share threads out
        return found
    return {**found, "engine": engine, "workers": workers}


def _here(factory: Factory, units: Iterable[Unit]) -> Generator[Done, None, None]:
    work = None
    for unit in units:
        work = work or factory()
        try:
            answer = do(work, unit.payload)
        except BrokenWorkerError as error:  # there is no other process to try it in
            raise error.__cause__ or error from None
        yield Done(unit, answer.result, answer.error, "local", answer.seconds, answer.cause)


def _elsewhere(
    factory: Factory,
    units: Iterable[Unit],
    engine: str,
    workers: int | None,
    address: str | None,
    tries: int,
    ordered: bool,
) -> Generator[Done, None, None]:
    source = iter(units)
    first = next(source, None)
    if first is None:
        return
    crew: Crew
    if engine == "ray":
        from attriflow.workers.on_ray import RayActors

        crew = RayActors(factory, workers, address)
    else:
        from attriflow.workers.processes import Processes

        crew = Processes(factory, workers)
    yield from Dispatch(crew, _with(first, source), tries, ordered).run()


def _with(first: Unit, rest: Iterator[Unit]) -> Iterator[Unit]:
    yield first
    yield from rest
