"""Memory and speed of `attriflow attribute-dataset` on a data set that is long: one process, watched from outside.

The method is `dummy`, which sends nothing through the model, so that what is measured is reading, tokenising, keeping
the journal and writing; with another engine, the driver is watched.

Usage: python benchmarks/streaming.py [--rows 1000000] [--format jsonl] [--folder DIR] [--engine ray]
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import shlex
import sys
import tempfile
import time
from pathlib import Path

import psutil

COMMAND = "attribute-dataset -m demo/translate -a dummy -in en -gen it --hide --device cpu -bs 32"
POINTS = (0.01, 0.1, 0.25, 0.5, 0.75, 1.0)


def write_data(path: Path, rows: int) -> None:
    """Short sentences of the demo's language, and targets that are not right."""
    draw = random.Random(0)
    words = (["the", "a"], ["red", "small", "big", "old"], ["house", "dog", "tree", "man"], ["sleeps", "runs", "falls"])
    with path.open("w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f)
        writer.writerow(["id", "en", "it"])
        for i in range(rows):
            writer.writerow([i, " ".join(draw.choice(w) for w in words), "la casa rossa"])


def watch(process: psutil.Popen, output: Path, rows: int) -> dict[float, float]:
    """Largest resident memory in MB until each share of the journal was written; the rest is the last step."""
    part, peak, seen = output.with_name(output.name + ".part"), 0.0, {}
    line = None
    while process.poll() is None:
        try:
            peak = max(peak, process.memory_info().rss / 1e6)
            size = part.stat().st_size
            if line is None and size:
                with part.open("rb") as f:
                    line = len(f.readline())
            for point in POINTS:
                if line and point not in seen and size >= 0.99 * point * line * rows:
                    seen[point] = peak
        except (psutil.Error, FileNotFoundError):
            pass
        time.sleep(0.2)
    return {**seen, 1.0: peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--format", default="jsonl")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--engine", default="local")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        data, output = Path(folder, "data.csv"), Path(folder, f"out.{options.format}")
        write_data(data, options.rows)
        command = [*shlex.split(COMMAND), "--engine", options.engine]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        begin = time.perf_counter()
        code = "from attriflow.cli import main; main()"
        process = psutil.Popen(
            [sys.executable, "-c", code, *command, "-d", str(data), "-o", str(output)], env=environment
        )
        peaks = watch(process, output, options.rows)
        seconds = time.perf_counter() - begin
        if process.returncode != 0:
            sys.exit(f"exit code {process.returncode}")
        print(
            f"{options.rows:,} rows -> {output.suffix}, {output.stat().st_size / 1e6:,.0f} MB, {seconds:,.0f} s, ",
            end="",
        )
        print(f"{options.rows / seconds:,.0f} rows/s; peak memory (MB) by share done: ", end="")
        print(", ".join(f"{point:.0%} {peak:,.0f}" for point, peak in sorted(peaks.items())))


if __name__ == "__main__":
    sys.exit(main())
