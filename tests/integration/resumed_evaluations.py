"""Kills `attriflow evaluate` at random moments and resumes it until it is done; started by test_kill.py.

Every process is a fork, as in `killed_runs`; examples are explained two at a time, so that there are many units.
Prints, as JSON, what every trial did, held against an evaluation that nobody killed.

Usage: python resumed_evaluations.py FOLDER TRIALS
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from killed_runs import start

COSTS = ("seconds", "target_tokens_per_second", "forward_equivalents", "peak_memory_mb")
KILLS = 3  # per trial, before the process is left alone
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


def run(arguments: list[str], log: Path, moment: float | None = None) -> int:
    pid = start(arguments, log)
    if moment is not None:
        time.sleep(moment)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def trial(database: Path, seconds: float, whole: tuple, draw: random.Random) -> dict:
    base, log, before = [*EVALUATE, "--tracking-uri", f"sqlite:///{database}"], Path("log"), len(parents(database))
    codes, run_id = [], None
    for left in range(KILLS, -1, -1):
        if run_id is None and len(found := parents(database)) > before:
            run_id = found[-1][0]
        more = [] if run_id is None else ["--resume", run_id]
        codes.append(run([*base, *more], log, draw.uniform(0.1, 1.05) * seconds if left else None))
        if codes[-1] == 0:
            break
        if codes[-1] != -signal.SIGKILL:
            sys.exit(f"exit code {codes[-1]}: {log.read_text(errors='replace')[-3000:]}")
    run_id, status, uri = parents(database)[-1]
    scores, board = tables(uri)
    points = logged(database, run_id)
    return {
        "codes": codes,
        "status": status,
        "runs": len(parents(database)) - before,
        "scores": scores == whole[0],
        "board": board == whole[1],
        "metrics": set(points) == whole[2],
        "points": max(points.values()),
    }


def main() -> None:
    folder, trials = Path(sys.argv[1]), int(sys.argv[2])
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
    begin = time.perf_counter()
    if code := run([*EVALUATE, "--tracking-uri", f"sqlite:///{database}"], Path("log")):
        sys.exit(f"exit code {code}: {Path('log').read_text(errors='replace')[-3000:]}")
    seconds, (run_id, _, uri) = time.perf_counter() - begin, parents(database)[-1]
    whole = (*tables(uri), set(logged(database, run_id)))
    draw = random.Random(time.time_ns())
    found = []
    for _ in range(trials):
        found.append(trial(database, seconds, whole, draw))
        print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
