"""Several runs of a scale as one small baseline: forward-pass equivalents of all rounds, in pytest-benchmark's form.

Usage: ``python benchmarks/baseline.py RUN.json RUN.json RUN.json --out benchmarks/baselines/toy.json``, where each run
is what ``pytest benchmarks --benchmark-only --scale toy --benchmark-json=RUN.json`` wrote. `make baseline` does it all.
Only what a check needs is kept; benchmarks without forward-pass equivalents (imports) are left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FIELD = "forward_pass_equivalents"
MACHINE = ("scale", "device", "device_name", "dtype", "threads", "python", "attriflow", "torch", "transformers")


def baseline(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One document of several, with the benchmarks that all of them have.

    Raises:
        ValueError: Runs of different scales, devices, precisions or numbers of threads.
    """
    for key in ("scale", "device", "dtype", "threads"):
        found = {str(r["machine_info"].get(key)) for r in runs}
        if len(found) > 1:
            raise ValueError(f"the runs differ in {key}: {', '.join(sorted(found))}")
    measured = [{b["name"]: b for b in r["benchmarks"] if FIELD in b["extra_info"]} for r in runs]
    names = [n for n in measured[0] if all(n in m for m in measured)]
    return {
        "machine_info": {k: v for k, v in runs[-1]["machine_info"].items() if k in MACHINE},
        "commit_info": {k: v for k, v in runs[-1].get("commit_info", {}).items() if k == "id"},
        "benchmarks": [entry([m[name] for m in measured]) for name in names],
        "datetime": runs[-1]["datetime"],
        "version": runs[-1]["version"],
    }


def entry(same: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One benchmark of several runs."""
    rounds = [round(v, 4) for b in same for v in b["extra_info"][f"{FIELD}_rounds"]]
    seconds = [b["stats"]["median"] for b in same]
    return {
        "group": same[0]["group"],
        "name": same[0]["name"],
        "fullname": same[0]["fullname"],
        "extra_info": {FIELD: round(statistics.median(rounds), 4), f"{FIELD}_rounds": rounds},
        "stats": {"median": round(statistics.median(seconds), 6), "rounds": len(rounds)},
    }


def main() -> None:
    """Read runs, write a baseline."""
    parser = argparse.ArgumentParser(description="Merge benchmark runs into a baseline.")
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    found = baseline([json.loads(path.read_text(encoding="utf-8")) for path in options.runs])
    options.out.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(f"  {json.dumps(b)}" for b in found["benchmarks"])
    rest = json.dumps({**found, "benchmarks": []}, indent=1)
    options.out.write_text(rest.replace('"benchmarks": []', f'"benchmarks": [\n{lines}\n ]') + "\n", encoding="utf-8")
    print(f"wrote {options.out}: {len(found['benchmarks'])} benchmarks, {len(options.runs)} runs")


if __name__ == "__main__":
    main()
