"""Stops evaluations whose workers are elsewhere, and goes on with them here; started by test_workers_ray.py.

Every driver is a fork, as in `killed_runs`; examples are explained two at a time, so that there are many units. Prints,
as JSON, how the driver ended, what it said, who outlived it, and whether the resumed evaluation equals a whole one.

Usage: python stopped_workers.py FOLDER ENGINE SIGNAL
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import psutil
from killed_runs import start
from resumed_evaluations import EVALUATE, parents, run, tables

UNITS = 7  # that are done when the driver is stopped: some blocks with both methods
MORE = ["--max-examples", "16", "--methods", "saliency,lime", "--metrics", "aopc_compr"]


def units(folder: Path, others: set[Path]) -> int:
    parts = set(folder.rglob("units.part")) - others  # a fork that ends removes nothing
    return max((part.read_bytes().count(b"\n") for part in parts), default=0)


def of_session(leader: int) -> list[psutil.Process]:
    """The leader of a session, its descendants, and whoever is in its session."""
    found = {}
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader or leader in {p.pid for p in process.parents()}:
                found[process.pid] = process
        except (OSError, psutil.Error):
            continue
    return list(found.values())


def stopped(arguments: list[str], folder: Path, number: signal.Signals) -> dict:
    """Start, send the signal to everybody (Ctrl-C) or to the driver when some units are done, and look who is left."""
    log, deadline, others = Path("log"), time.monotonic() + 200, set(folder.rglob("units.part"))
    pid = start(arguments, log, own_session=True)
    while units(folder, others) < UNITS and time.monotonic() < deadline:
        time.sleep(0.02)
    crew = of_session(pid)
    begin = time.monotonic()
    (os.killpg if number == signal.SIGINT else os.kill)(pid, number)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    seconds = time.monotonic() - begin
    _, alive = psutil.wait_procs([p for p in crew if p.pid != pid], timeout=20)
    told = [line for line in log.read_text(errors="replace").splitlines() if line and line[0] != " "]
    names = [p.name() for p in alive]
    kept = units(folder, others)  # below: after the plan
    return {"workers": len(crew) - 1, "code": code, "seconds": seconds, "left": names, "told": told[1:], "kept": kept}


def main() -> None:
    folder, engine, number = Path(sys.argv[1]), sys.argv[2], signal.Signals(int(sys.argv[3]))
    os.chdir(folder)
    database = folder / "mlflow.db"
    import torch  # what is imported here, forks need not import

    import attriflow
    import attriflow.evaluation.runner
    import attriflow.tracking.command
    import attriflow.tracking.recorder

    torch.set_num_threads(1)
    attriflow.load_model("demo/recall")
    attriflow.evaluation.runner.BLOCK = 2
    base = [*EVALUATE, *MORE, "--tracking-uri", f"sqlite:///{database}"]
    if code := run(base, Path("log")):
        sys.exit(f"exit code {code}: {Path('log').read_text(errors='replace')[-3000:]}")
    whole = tables(parents(database)[-1][2])
    found = stopped([*base, "--engine", engine, "--workers", "2"], folder, number)
    run_id, status, _ = parents(database)[-1]
    again = run([*base, "--resume", run_id], Path("log"))
    same = tables(parents(database)[-1][2]) == whole
    log = Path("log").read_text(errors="replace")
    resumed = f"resumed: {found['kept']} units of an earlier process are done" in log
    print(json.dumps({**found, "run": run_id, "status": status, "again": again, "resumed": resumed, "equal": same}))


if __name__ == "__main__":
    main()
