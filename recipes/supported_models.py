"""Measure docs/supported-models.json anew: every generation architecture of transformers against the loop by hand.

Usage: ``python recipes/supported_models.py [ARCHITECTURE ...] [--jobs 2]``; without names all of them, a few minutes on
one core. Then ``python recipes/make_docs.py`` writes the page. How architectures are built is in
tests/toys/architectures.py, what they are held against in tests/oracles/sweep.py.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STORED = ROOT / "docs" / "supported-models.json"
sys.path[:0] = [str(ROOT / "tests" / folder) for folder in ("oracles", "toys")]

import architectures  # noqa: E402
import sweep  # noqa: E402

from attriflow.versions import versions  # noqa: E402


def main() -> None:
    """Measure, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="ARCHITECTURE", help="such as causal:llama or seq2seq:t5")
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    unknown = set(options.names) - set(architectures.ARCHITECTURES)
    if unknown:
        parser.error(f"transformers has no {', '.join(sorted(unknown))}")
    known = json.loads(STORED.read_text(encoding="utf-8"))["architectures"] if options.names else {}
    begin = time.time()
    sweep.imported_once()
    with ThreadPoolExecutor(options.jobs) as pool:
        names = options.names or architectures.ARCHITECTURES
        for name, found in zip(names, pool.map(sweep.examine, names), strict=True):
            known[name] = found
            if found["state"] != "exact":
                print(name, json.dumps(found), flush=True)
    ordered = {name: known[name] for name in architectures.ARCHITECTURES}
    content = {"versions": {k: v for k, v in versions().items() if k != "attriflow"}, "architectures": ordered}
    STORED.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    counts = {s: sum(f["state"] == s for f in known.values()) for s in sweep.STATES}
    print(f"{len(ordered)} architectures in {time.time() - begin:.0f} s: {counts}")


if __name__ == "__main__":
    main()
