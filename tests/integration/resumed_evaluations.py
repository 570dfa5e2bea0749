"""Kills `attriflow evaluate` and resumes it until it is done, over and over; started by test_kill.py.

Every process is a fork, as in `killed_runs`; examples are explained two at a time, so that there are many units. A kill
waits for a phase (each has its turn), then for a random part of the time that the phase takes. Prints, as JSON, what
every trial did, held against an evaluation that nobody killed, and in which phases the kills were.

Usage: python resumed_evaluations.py FOLDER KILLS [SEED]
"""

from __future__ import annotations

import collections
import contextlib
import functools
import json
import mmap
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from killed_runs import start

COSTS = ("seconds", "target_tokens_per_second", "forward_equivalents", "peak_memory_mb")
KILLS = 8  # per trial, before the process is left alone
PHASES = (
    "before the evaluation", "opening the run", "logging settings", "reading rows", "planning", "explaining",
    "logging explanations", "metrics", "explaining again", "logging a method", "random tokens", "computing tables",
    "logging tables", "plots", "report", "ending",
)  # fmt: skip
EVALUATE = ["evaluate", "demo/recall", "demo/recall", "--targets", "target", "--inputs", "input", "--max-examples", "5"]
EVALUATE += ["--rationale", "rationale", "--methods", "saliency,occlusion,random", "--step-functions", "probability"]
EVALUATE += ["--metrics", "aopc_compr,taucorr_loo,deletion_auc,auprc_plau,seed_variance", "--no-throughput"]
EVALUATE += ["--reexplain-examples", "2", "--device", "cpu"]


def asked(database: Path, query: str) -> list[tuple]:
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=rw", uri=True)) as connection:
        return connection.execute(query).fetchall()


def parents(database: Path) -> list[tuple[str, str, str]]:
    """Id, status and artifacts of the runs that are no children, the latest last."""
    return asked(
        database,
        "select run_uuid, status, artifact_uri from runs where run_uuid not in "
        "(select run_uuid from tags where key = 'mlflow.parentRunId') order by start_time",
    )


def tables(uri: str) -> tuple[bytes, object]:
    """The scores, and the leaderboard without costs."""
    folder = Path(uri.removeprefix("file://"))
    board = json.loads((folder / "leaderboard.json").read_text())
    kept = [i for i, name in enumerate(board["columns"]) if name not in COSTS]
    columns = [board["columns"][i] for i in kept]
    return (folder / "scores.parquet").read_bytes(), (columns, [[row[i] for i in kept] for row in board["data"]])


def logged(database: Path, run_id: str) -> dict[tuple[str, str], int]:
    """Method ("" for the run itself) and metric -> points of a run and its children."""
    found = asked(
        database,
        "select coalesce((select value from tags t where t.run_uuid = m.run_uuid and t.key = 'attriflow.method'), ''), "
        f"m.key, count(*) from metrics m where m.run_uuid = '{run_id}' or m.run_uuid in (select run_uuid from tags "
        f"where key = 'mlflow.parentRunId' and value = '{run_id}') group by m.run_uuid, m.key",
    )
    assert len({(method, key) for method, key, _ in found}) == len(found), "a method has two runs"
    return {(method, key): n for method, key, n in found}


def files(uri: str) -> list[str]:
    folder = Path(uri.removeprefix("file://"))
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


class Phases:
    """What the process that runs is at, in memory that it shares with this one.

    Attributes:
        entered, seconds: How often each phase was begun, and what it took in all.
        targets, hits: How many kills were meant for each phase, and came in it.
    """

    def __init__(self, units: Path) -> None:
        shared = np.frombuffer(mmap.mmap(-1, 8 * (2 * len(PHASES) + 1)), dtype=float)
        self._now, self.entered, self.seconds = shared[:1], *np.split(shared[1:], 2)
        self.targets, self.hits = collections.Counter[int](), collections.Counter[str]()
        self.units = units

    def watch(self) -> None:
        """Have forks tell where they are, and which units they have done."""
        from attriflow.evaluation.runner import Evaluation
        from attriflow.evaluation.work import WorkFolder
        from attriflow.tracking import pages
        from attriflow.tracking.keeping import Keeper
        from attriflow.tracking.recorder import Recorder

        names = {
            (Recorder, "__init__"): "opening the run", (Recorder, "_log_place"): "logging settings",
            (Recorder, "_log_settings"): "logging settings", (Evaluation, "_prepare"): "reading rows",
            (Evaluation, "_make_plan"): "planning", (Evaluation, "_explain_block"): "explaining",
            (Recorder, "_log_attributions"): "logging explanations", (Evaluation, "_scored"): "metrics",
            (Evaluation, "_again"): "explaining again", (Recorder, "_finish_method"): "logging a method",
            (Evaluation, "_chance"): "random tokens", (Recorder, "_log_tables"): "logging tables",
            (pages, "plots"): "plots", (pages, "report"): "report", (WorkFolder, "close"): "ending",
            (Keeper, "close"): "ending",
        }  # fmt: skip
        for (home, name), phase in names.items():
            setattr(home, name, self._told(getattr(home, name), PHASES.index(phase)))
        pages.Tables.of = self._told(pages.Tables.of, PHASES.index("computing tables"))
        put = WorkFolder.put

        def noted(work: WorkFolder, unit: str, *found: Any, **more: Any) -> None:
            put(work, unit, *found, **more)
            with self.units.open("a") as f:
                f.write(f"{unit}\n")

        WorkFolder.put = noted

    def _told(self, call: Any, phase: int) -> Any:
        @functools.wraps(call)
        def told(*arguments: Any, **named: Any) -> Any:
            before, self._now[0] = self._now[0], phase
            self.entered[phase] += 1
            began = time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                self.seconds[phase] += time.perf_counter() - began
                self._now[0] = before if phase != len(PHASES) - 1 else phase  # nothing comes after the end

        return told

    def begin(self) -> None:
        self._now[0], self.entered[:], self.seconds[:] = 0, 0, 0
        self.entered[0] = 1

    def kill(self, pid: int, often: np.ndarray, seconds: np.ndarray, draw: random.Random) -> int:
        """Kill a process in a phase whose turn it is, unless it ends before; returns its exit code.

        Args:
            pid: The process.
            often, seconds: `entered`, and seconds per time, of an undisturbed run.
            draw: Draws the moment.
        """
        fewest = min(self.targets[i] for i in range(len(PHASES)))
        phase = draw.choice([i for i in range(len(PHASES)) if self.targets[i] == fewest])
        self.targets[phase] += 1
        number = draw.randint(1, max(1, int(often[phase])))
        while self.entered[phase] < number:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.0005)
        time.sleep(draw.uniform(0, seconds[phase]))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code == -signal.SIGKILL:
            self.hits[PHASES[int(self._now[0])]] += 1
        return code


def run(arguments: list[str], log: Path, phases: Phases, *moment: Any) -> int:
    """A process that runs to its end, or is killed where `Phases.kill` has arguments."""
    phases.begin()
    pid = start(arguments, log)
    return phases.kill(pid, *moment) if moment else os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def trial(database: Path, phases: Phases, whole: dict, draw: random.Random, kills: int) -> dict:
    base, log, before = [*EVALUATE, "--tracking-uri", f"sqlite:///{database}"], Path("log"), len(parents(database))
    codes, run_id = [], None
    phases.units.unlink(missing_ok=True)
    for left in range(min(KILLS, kills), -1, -1):
        if run_id is None and len(found := parents(database)) > before:
            run_id = found[-1][0]
        more = [] if run_id is None else ["--resume", run_id]
        codes.append(run([*base, *more], log, phases, *(whole["moment"] + (draw,) if left else ())))
        if codes[-1] == 0:
            break
        if codes[-1] != -signal.SIGKILL:
            sys.exit(f"exit code {codes[-1]}: {log.read_text(errors='replace')[-3000:]}")
    if codes[-1] != 0:  # its last kill came when it had begun
        sys.exit(f"it does not end: {codes}")
    run_id, status, uri = parents(database)[-1]
    scores, board = tables(uri)
    points, units = logged(database, run_id), collections.Counter(phases.units.read_text().splitlines())
    return {
        "codes": codes,
        "status": status,
        "runs": len(parents(database)) - before,
        "scores": scores == whole["tables"][0],
        "board": board == whole["tables"][1],
        "metrics": set(points) == whole["metrics"],
        "points": max(points.values()),
        "files": files(uri) == whole["files"],
        "units done twice": sorted(unit for unit, n in units.items() if n > 1),
    }


def main() -> None:
    folder, kills = Path(sys.argv[1]), int(sys.argv[2])
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else time.time_ns() % 10**9
    os.chdir(folder)
    database = folder / "mlflow.db"
    code = f"import mlflow; mlflow.MlflowClient('sqlite:///{database}').search_experiments()"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    import mlflow
    import torch

    import attriflow
    import attriflow.cli.app
    import attriflow.evaluation.runner
    import attriflow.tracking.command
    import attriflow.tracking.recorder
    import attriflow.views.evaluations.report

    torch.set_num_threads(1)
    assert mlflow.__version__
    attriflow.load_model("demo/recall")
    attriflow.evaluation.runner.BLOCK = 2
    phases = Phases(folder / "units")
    phases.watch()
    begin = time.perf_counter()
    if code := run([*EVALUATE, "--tracking-uri", f"sqlite:///{database}"], Path("log"), phases):
        sys.exit(f"exit code {code}: {Path('log').read_text(errors='replace')[-3000:]}")
    run_id, _, uri = parents(database)[-1]
    per_time = phases.seconds / np.maximum(1, phases.entered)
    per_time[0] = time.perf_counter() - begin - phases.seconds.sum()
    whole = {
        "tables": tables(uri),
        "metrics": set(logged(database, run_id)),
        "files": files(uri),
        "moment": (phases.entered.copy(), per_time),
    }
    draw, found = random.Random(seed), []
    while sum(phases.hits.values()) < kills:
        found.append(trial(database, phases, whole, draw, kills - sum(phases.hits.values())))
        print(json.dumps({"kills": sum(phases.hits.values()), **found[-1]}), file=sys.stderr, flush=True)
    print(json.dumps({"seed": seed, "phases": {p: phases.hits[p] for p in PHASES}, "trials": found}))


if __name__ == "__main__":
    main()
