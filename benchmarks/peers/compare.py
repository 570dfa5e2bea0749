"""The harness behind `inseq.py` and `captum_llm.py`: workers, interleaved rounds, agreement, ratios."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import report
from client import HERE, Worker, WorkerError
from environments import TRANSFORMERS, python_for
from floors import floor, problem_of
from shapes import SHAPES, Shape, texts
from tasks import Peer, Sizes, Task, tasks

PEERS = ("inseq", "captum", "interpreto")
MOST_RUNS, ENOUGH_SECONDS = 7, 0.5
"""A round runs a method until it has taken this long, at most so many times."""


def parse(argv: Sequence[str] | None, peers: Sequence[str], description: str) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    known = [t.method for t in tasks(Sizes())]
    parser.add_argument("--shapes", default="gpt2-small,toy", help=f"some of {','.join(SHAPES)}")
    parser.add_argument("--methods", default=None, help=f"some of {','.join(known)}; all when left out")
    parser.add_argument("--peers", default=",".join(peers), help=f"some of {','.join(PEERS)}")
    parser.add_argument("--prompt", type=int, default=20, help="prompt (or source) tokens")
    parser.add_argument("--generated", type=int, default=20, help="explained tokens")
    parser.add_argument("--repeats", type=int, default=3, help="interleaved rounds per method")
    parser.add_argument("--patience", type=float, default=120.0, help="seconds after which no further round begins")
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds after which a single call is given up")
    for name, value in vars(Sizes()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value, help="size of the methods' work")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--transformers", choices=list(TRANSFORMERS), default="4.57", help="version under Inseq")
    parser.add_argument("--torch", default="torch==2.13.0", help="what pip installs into the peers' environments")
    parser.add_argument("--venv-dir", type=Path, default=HERE / ".venvs", help="environments, models and logs")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder for the tables")
    options = parser.parse_args(argv)
    for given, allowed in ((options.shapes, SHAPES), (options.methods or known[0], known), (options.peers, PEERS)):
        for name in given.split(","):
            if name not in allowed:
                parser.error(f"unknown name {name!r}; allowed: {', '.join(allowed)}")
    return options


def main(argv: Sequence[str] | None = None, peers: Sequence[str] = PEERS, description: str = "") -> int:
    """Measure and report every shape."""
    options = parse(argv, peers, description)
    cache = options.venv_dir.resolve()
    cache.mkdir(parents=True, exist_ok=True)
    workers = {"attriflow": Worker("attriflow", sys.executable, cache, options.threads)}
    for peer in options.peers.split(","):
        python = python_for(peer, cache, options.transformers, options.torch)
        workers[peer] = Worker(peer, python, cache, options.threads)
    try:
        for name in options.shapes.split(","):
            document = Comparison(options, SHAPES[name], workers, cache).run()
            report.write(document, options.out)
            report.show(document)
    finally:
        for worker in workers.values():
            worker.stop()
    return 0


class Comparison:
    """All methods on one shape."""

    def __init__(self, options: argparse.Namespace, shape: Shape, workers: Mapping[str, Worker], cache: Path) -> None:
        self.options, self.shape, self.workers = options, shape, workers
        self.folder = cache / "models" / shape.name
        self.kind = "encoder-decoder" if shape.encoder_decoder else "causal"
        self.text = texts(shape, options.prompt, options.generated)
        self.short = texts(shape, 5, 4)
        source, length, first = (
            (options.prompt, options.generated, 0)
            if shape.encoder_decoder
            else (0, options.prompt + options.generated - 1, options.prompt - 1)
        )
        self.problem = problem_of(shape, source, length, first)
        self.notes: list[str] = []
        self.forwards: list[float] = []
        self.rates: list[float] = []

    def run(self) -> dict[str, Any]:
        """Measure; the document that is reported."""
        self._make_model()
        versions = {}
        for name, worker in list(self.workers.items()):
            if name in ("captum", "interpreto") and self.shape.encoder_decoder:
                worker.stop()
                continue
            try:
                versions[name] = worker.load(self.folder)["versions"]
            except WorkerError as error:
                if name == "attriflow":
                    raise
                self.notes.append(f"Left out, since it does not load the model: {name} ({error}).")
        registered = self.workers["attriflow"].info["methods"]
        chosen = self.options.methods.split(",") if self.options.methods else None
        sizes = Sizes(**{name: getattr(self.options, name) for name in vars(Sizes())})
        rows: list[dict[str, Any]] = []
        for task in tasks(sizes):
            if chosen is not None and task.method not in chosen:
                continue
            if task.method not in registered:
                self.notes.append(f"Skipped, since attriflow has no such method: {task.method}.")
                continue
            peers = {
                n: p for n, p in task.peers.items() if n in self.workers and n in versions and self.kind in p.shapes
            }
            if peers:
                print(f"{self.shape.name}: {task.method} against {', '.join(peers)}", flush=True)
                rows += self._task(task, peers)
                report.write(self._document(rows, versions, sizes), self.options.out)  # what a long run leaves when cut
        return self._document(rows, versions, sizes)

    def _document(self, rows: list[dict[str, Any]], versions: Mapping[str, Any], sizes: Sizes) -> dict[str, Any]:
        report.add_bars(rows, self.shape.name)
        return {
            "shape": self.shape.name,
            "encoder_decoder": self.shape.encoder_decoder,
            "tokens": {"prompt": self.options.prompt, "generated": self.options.generated},
            "peers": [p for p in versions if p != "attriflow"],
            "threads": self.options.threads,
            "repeats": self.options.repeats,
            "sizes": vars(sizes),
            "versions": versions,
            "forward_seconds": statistics.median(self.forwards) if self.forwards else None,
            "rate": statistics.median(self.rates) if self.rates else 0.0,
            "rows": rows,
            "notes": self.notes,
        }

    def _make_model(self) -> None:
        done, source = self.folder / ".complete", (HERE / "shapes.py").read_text()
        if not done.exists() or done.read_text() != source:
            self.folder.mkdir(parents=True, exist_ok=True)
            # in a process of its own: the harness stays small and leaves the cores alone
            command = [sys.executable, str(HERE / "shapes.py"), self.shape.name, str(self.folder)]
            subprocess.run(command, check=True)
            done.write_text(source)

    # -- one method -------------------------------------------------------------------------------------------------

    def _task(self, task: Task, peers: Mapping[str, Peer]) -> list[dict[str, Any]]:
        """Rounds of one method: the yardsticks, every variant of ours, every peer, one at a time."""
        with tempfile.TemporaryDirectory() as scratch:
            ours = {label: Side(self, "attriflow", task.method, o, Path(scratch)) for label, o in task.variants.items()}
            theirs = {n: Side(self, n, p.method, p.options, Path(scratch), p.load) for n, p in peers.items()}
            begin, forwards, rates = time.monotonic(), [], []
            for side in (*ours.values(), *theirs.values()):
                side.warm_up()
            for number in range(self.options.repeats):
                if number and time.monotonic() - begin > self.options.patience:
                    break
                yard = self.workers["attriflow"].ask(600, do="yardsticks", texts=[self.text[0]], targets=[self.text[1]])
                forwards.append(yard["forward"])
                rates.append(yard["rate"])
                order = [*ours.values(), *theirs.values()]
                for side in order if number % 2 == 0 else reversed(order):
                    side.measure()
            self.forwards += forwards
            self.rates += rates
            return [
                self._row(task, variant, side, name, theirs[name], peers[name], forwards, rates, Path(scratch))
                for name in peers
                for variant, side in ours.items()
            ]

    def _row(
        self,
        task: Task,
        variant: str,
        ours: Side,
        name: str,
        theirs: Side,
        peer: Peer,
        forwards: Sequence[float],
        rates: Sequence[float],
        scratch: Path,
    ) -> dict[str, Any]:
        row: dict[str, Any] = {"method": task.method, "variant": variant, "family": task.family, "peer": name}
        row |= {"options": dict(ours.options), "peer_method": peer.method, "peer_options": dict(theirs.options)}
        if ours.error:
            return {**row, "note": f"attriflow: {ours.error}"}
        work = floor(task.method, ours.options, self.problem)
        row["ours"] = ours.medians()
        row["forwards"] = statistics.median(r["seconds"] / f for r, f in zip(ours.runs, forwards, strict=True))
        if work is not None:
            seconds = [work / rate for rate in rates]
            row["floor_multiply_adds"] = work
            row["floor_seconds"] = statistics.median(seconds)
            row["of_floor"] = statistics.median(s / r["seconds"] for s, r in zip(seconds, ours.runs, strict=True))
        if theirs.error:
            return {**row, "note": f"{name}: {theirs.error}"}
        row["theirs"] = theirs.medians()
        row["ratios"] = [t["seconds"] / o["seconds"] for t, o in zip(theirs.runs, ours.runs, strict=True)]
        row["ratio"] = statistics.median(row["ratios"])
        self._check_ids(task.method, name, ours, theirs)
        row["agreement"] = self._agreement(task.method, peer, ours, theirs, scratch)
        return row

    def _check_ids(self, method: str, name: str, ours: Side, theirs: Side) -> None:
        mine, other = ours.runs[0]["ids"], theirs.runs[0]["ids"]
        sides = ("source", "target") if self.shape.encoder_decoder else ("target",)
        for side in sides:
            if mine[side] != other[side]:
                self.notes.append(f"{method}: {name} sees other {side} ids: {other[side]}, attriflow {mine[side]}.")

    def _agreement(self, method: str, peer: Peer, ours: Side, theirs: Side, scratch: Path) -> str:
        """Largest difference relative to the largest score, where the definitions are the same."""
        if isinstance(peer.compare, str):
            return peer.compare
        if peer.check is not None:
            ours = Side(self, "attriflow", method, {**ours.options, **peer.check}, scratch)
            ours.measure()
        worst, compared = 0.0, False
        with np.load(ours.file) as a, np.load(theirs.file) as b:
            for mine, other in peer.compare.items():
                for block in ("source", "target"):
                    keys = f"{block}.{mine}", f"{block}.{other}"
                    if keys[0] in a and keys[1] in b:
                        difference = relative_difference(a[keys[0]], b[keys[1]], peer.absolute, peer.prompt_only)
                        if isinstance(difference, str):
                            return difference
                        worst, compared = max(worst, difference), True
        return f"agree {worst:.0e}" if compared else "nothing to compare"


def relative_difference(a: np.ndarray, b: np.ndarray, absolute: bool, prompt_only: bool) -> float | str:
    """Largest difference over the largest score; in words when shapes or invisible entries differ."""
    if prompt_only:
        a = a[:, : b.shape[1]]
    if a.shape != b.shape:
        return f"shapes differ: {a.shape}, {b.shape}"
    if not np.array_equal(np.isnan(a), np.isnan(b)):
        return "other entries are NaN"
    if absolute:
        a, b = np.abs(a), np.abs(b)
    scale = float(np.nanmax(np.abs(b)))
    return float(np.nanmax(np.abs(a - b))) / scale if scale else float(np.nanmax(np.abs(a)))


class Side:
    """One package running one method with its options."""

    def __init__(
        self,
        comparison: Comparison,
        package: str,
        method: str,
        options: Mapping[str, Any],
        scratch: Path,
        load: Mapping[str, Any] | None = None,
    ) -> None:
        self.comparison, self.package, self.method, self.options, self.setup = (
            comparison,
            package,
            method,
            options,
            load,
        )
        with tempfile.NamedTemporaryFile(dir=scratch, suffix=".npz", delete=False) as file:
            self.file = file.name
        self.runs: list[dict[str, Any]] = []
        self.error = ""

    def _ask(self, **command: Any) -> dict[str, Any]:
        worker = self.comparison.workers[self.package]
        return worker.ask(self.comparison.options.limit, method=self.method, options=dict(self.options), **command)

    def warm_up(self) -> None:
        """Set the method up and run it once on a short text: imports, caches and lazy set-up are not measured."""
        try:
            extra = {} if self.package == "attriflow" else {"load": dict(self.setup or {})}
            self._ask(do="prepare", **extra)
            self._ask(do="run", texts=[self.comparison.short[0]], targets=[self.comparison.short[1]])
        except WorkerError as error:
            self.error = str(error)

    def measure(self) -> None:
        """One round: a run, or the median of several where one is over in a blink; the first run's scores are kept."""
        if self.error:
            return
        source, target = self.comparison.text
        found: list[dict[str, Any]] = []
        try:
            while not found or (len(found) < MOST_RUNS and sum(r["seconds"] for r in found) < ENOUGH_SECONDS):
                save = None if self.runs or found else self.file
                found.append(self._ask(do="run", texts=[source], targets=[target], save=save))
        except WorkerError as error:
            self.error = str(error)
            return
        self.runs.append({**found[0], **{k: statistics.median(r[k] for r in found) for k in ("seconds", "grown")}})

    def medians(self) -> dict[str, Any]:
        """Medians over the rounds; counts of passes where they are known."""
        keys = [k for k, v in self.runs[0].items() if isinstance(v, (int, float))]
        return {"rounds": len(self.runs), **{k: statistics.median(r[k] for r in self.runs) for k in keys}}
