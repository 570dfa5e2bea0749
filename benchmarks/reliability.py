"""What is left when work is stopped: kills, signals, a server that goes away. The tables of docs/reliability.md.

python benchmarks/reliability.py signals --trials 20    # Ctrl-C and SIGTERM in evaluations, at random moments
python benchmarks/reliability.py kills --trials 100     # SIGKILL in evaluations
python benchmarks/reliability.py datasets --trials 100  # SIGKILL in attribute-dataset, which is then resumed
python benchmarks/reliability.py server --away 8 60 0   # seconds for which the server is away; 0: for good

Each prints a Markdown table. Processes are forks that have done their imports, so that trials take seconds.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "integration"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from killed_runs import start as started

METHODS = ("saliency", "occlusion", "attention", "random", "lime")
EVALUATE = ["evaluate", "demo/recall", "demo/recall", "--targets", "target", "--inputs", "input", "--max-examples", "3"]
EVALUATE += ["--rationale", "rationale", "--methods", ",".join(METHODS), "--step-functions", "probability"]
EVALUATE += ["--no-throughput", "--device", "cpu"]
TABLES = {"leaderboard.json", "scores.parquet", "report.html"}


def ended(pid: int) -> int:
    """Its exit code; the negative signal where one ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def prepared() -> None:
    """Imports, once for all forks."""
    import mlflow
    import torch

    import attriflow
    import attriflow.cli.app
    import attriflow.tracking.command
    import attriflow.tracking.recorder
    import attriflow.views.evaluations.report

    torch.set_num_threads(1)
    assert mlflow.__version__
    attriflow.load_model("demo/recall")


def store_of(folder: Path) -> Path:
    """A database of MLflow's, made by a process that ends: forks must not share its connections."""
    database = folder / "mlflow.db"
    code = f"import mlflow; mlflow.MlflowClient('sqlite:///{database}').search_experiments()"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return database


def left(database: Path, since: int) -> dict[str, object]:
    """What an evaluation that began after `since` (milliseconds) left in a store."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=rw", uri=True)) as connection:
        runs = connection.execute(
            "select run_uuid, status, artifact_uri from runs where start_time >= ? order by start_time", (since,)
        ).fetchall()
        of = dict(connection.execute("select run_uuid, value from tags where key = 'attriflow.method'").fetchall())
        stopped = dict(
            connection.execute("select run_uuid, value from tags where key = 'attriflow.stopped'").fetchall()
        )
        metrics = collections.Counter(u for (u,) in connection.execute("select run_uuid from latest_metrics"))
    children = {of[uuid]: (uuid, status) for uuid, status, _ in runs if uuid in of}
    parents = [(uuid, status, uri) for uuid, status, uri in runs if uuid not in of]
    if not parents:
        return {"run": None, "finished": [], "files": set(), "tag": None, "running": 0, "values": {}}
    uuid, status, uri = parents[0]
    served = str(database.parent / "artifacts")
    root = Path(uri.removeprefix("file://").replace("mlflow-artifacts:", served))
    files = {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()} if root.is_dir() else set()
    return {
        "run": status,
        "finished": [m for m, (_, s) in children.items() if s == "FINISHED"],
        "files": files,
        "tag": stopped.get(uuid),
        "running": sum(s == "RUNNING" for _, s in children.values()),
        "values": {m: metrics[u] for m, (u, _) in children.items()},
    }


def stopped_evaluations(
    options: argparse.Namespace, kinds: Sequence[signal.Signals], folder: Path
) -> list[dict[str, object]]:
    """Evaluations that get a signal at a random moment, and what each left."""
    prepared()
    database = store_of(folder)
    command = [*EVALUATE, "--tracking-uri", f"sqlite:///{database}"]
    os.chdir(folder)
    begin, trials, whole = time.perf_counter(), options.trials, options.seconds
    if whole is None:
        code = ended(started(list(command), folder / "log"))
        if code:
            sys.exit(f"exit code {code}: {(folder / 'log').read_text(errors='replace')[-2000:]}")
        whole = time.perf_counter() - begin
    draw, found = random.Random(time.time_ns()), []
    for i in range(trials):
        if options.minutes is not None and time.perf_counter() - begin > 60 * options.minutes:
            break
        kind, moment, since = kinds[i % len(kinds)], draw.uniform(0.0, whole), int(time.time() * 1000)
        pid = started(list(command), folder / "log")
        time.sleep(moment)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, kind)
        code = ended(pid)
        found.append({"signal": kind.name, "moment": moment / whole, "code": code, **left(database, since)})
        print(f"{i + 1}/{trials} {kind.name} at {moment:.1f} of {whole:.1f} s: {code}", file=sys.stderr, flush=True)
    return found


def table(rows: Sequence[Sequence[object]], header: Sequence[str]) -> str:
    """Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def signals(options: argparse.Namespace, folder: Path) -> str:
    """Ctrl-C and SIGTERM in evaluations."""
    rows = []
    found = stopped_evaluations(options, (signal.SIGINT, signal.SIGTERM), folder)
    for kind in ("SIGINT", "SIGTERM"):
        of = [t for t in found if t["signal"] == kind]
        begun = [t for t in of if t["run"] is not None and t["code"] != 0]
        known = [t for t in begun if t["finished"]]
        rows.append([
            kind,
            len(of),
            ", ".join(f"{code}: {n}" for code, n in sorted(collections.Counter(t["code"] for t in of).items())),
            f"{sum(t['run'] in ('FAILED', 'KILLED') for t in begun)} of {len(begun)}",
            f"{sum(t['tag'] is not None for t in known)} of {len(known)}",
            f"{sum(t['files'] >= TABLES for t in known)} of {len(known)}",
            sum(t["running"] for t in of),
        ])  # fmt: skip
    header = ["signal", "trials", "exit codes", "run ended FAILED or KILLED", "tag says why", "tables and report"]
    return table(rows, [*header, "nested runs left RUNNING"])


def kills(options: argparse.Namespace, folder: Path) -> str:
    """SIGKILL in evaluations: nothing can be logged after it, so what counts is what was logged before."""
    found = stopped_evaluations(options, (signal.SIGKILL,), folder)
    killed = [t for t in found if t["code"] != 0]
    finished = sum(len(t["finished"]) for t in killed)
    whole = sum(f"attributions/{m}.safetensors" in t["files"] for t in killed for m in t["finished"])
    values = sum(t["values"][m] > 0 for t in killed for m in t["finished"])
    rows = [
        ["trials", len(found)],
        ["over before the kill", len(found) - len(killed)],
        ["killed before the run was there", sum(t["run"] is None for t in killed)],
        ["killed with finished methods", sum(bool(t["finished"]) for t in killed)],
        ["finished methods at the kill", finished],
        ["of these, with their attributions", whole],
        ["of these, with their metrics", values],
    ]
    return table(rows, ["kills of evaluations", "number"])


def datasets(options: argparse.Namespace, folder: Path) -> str:
    """SIGKILL in data-set runs."""
    script = Path(__file__).parents[1] / "tests" / "integration" / "killed_runs.py"
    command = [sys.executable, str(script), str(folder), str(options.trials), "96", "-a", "saliency"]
    out = subprocess.run(command, capture_output=True, text=True, check=False)
    if out.returncode:
        sys.exit(out.stderr[-2000:])
    found = json.loads(out.stdout)
    rows = []
    for suffix in sorted({t["suffix"] for t in found}):
        of = [t for t in found if t["suffix"] == suffix]
        n_kills = sum(len(t["rows at each kill"]) for t in of)
        equal = sum(t["equal"] for t in of)
        rows.append([suffix, len(of), n_kills, f"{equal} of {len(of)}", sum(bool(t["left"]) for t in of)])
    return table(rows, ["file", "runs", "kills", "equal to an undisturbed run, byte for byte", "runs that left files"])


def server(options: argparse.Namespace, folder: Path) -> str:
    """A server that is killed during an evaluation, for some seconds or for good."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "integration"))
    from server_support import Server

    prepared()
    os.chdir(folder)
    rows = []
    for seconds in options.away:
        place = folder / f"away{seconds}"
        place.mkdir()
        database, log = store_of(place), place / "log"
        found = Server(place)
        found.start()
        since = int(time.time() * 1000)
        try:
            pid = started([*EVALUATE, "--tracking-uri", found.address], log)
            while len(left(database, since)["finished"]) < 2:
                time.sleep(0.2)
            found.stop()
            if seconds:
                time.sleep(seconds)
                found.start()
            code, text = ended(pid), log.read_text(errors="replace")
            kept = re.search(r"kept in (\S+);", text)
            logged = "not needed"
            if kept:
                found.start()
                logged = f"exit {ended(started(['log', kept[1]], place / 'log2'))}"
            state = left(database, since)
        finally:
            found.stop()
        rows.append([
            f"{seconds} s" if seconds else "for good",
            code,
            text.count("does not answer ("),
            "a folder" if kept else "nothing",
            logged,
            state["run"],
            f"{len(state['finished'])} of {len(METHODS)}",
            "yes" if state["files"] >= TABLES else "no",
        ])  # fmt: skip
        print(text[-3000:], file=sys.stderr, flush=True)
    header = ["server away", "exit code", "lines", "kept", "`attriflow log`", "run", "methods", "tables and report"]
    return table(rows, header)


COMMANDS: dict[str, Callable[[argparse.Namespace, Path], str]] = {
    "signals": signals,
    "kills": kills,
    "datasets": datasets,
    "server": server,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=list(COMMANDS))
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--minutes", type=float, help="start no trial after that")
    parser.add_argument("--seconds", type=float, help="length of an undisturbed evaluation; measured by default")
    parser.add_argument("--away", type=int, nargs="+", default=[8, 60, 0])
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell are deaf to it
    with tempfile.TemporaryDirectory(prefix="reliability-") as folder:
        print(COMMANDS[options.command](options, Path(folder)))


if __name__ == "__main__":
    main()
