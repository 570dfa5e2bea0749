"""Make every picture of README and docs anew from the present code, each with the numbers it shows beside it.

`make pictures` installs Chromium first. Usage: python recipes/make_pictures.py [--out docs] [--demo demo-output]

| pictures | made by | numbers |
| --- | --- | --- |
| leaderboard.png | `attriflow demo`, the first model | leaderboard.csv, both models |
| images/report*.png, app_runs.png | make_screenshots.py, from the demo's report and store | leaderboard.csv |
| images/*.png of the views | make_screenshots.py | images/attributions.json |
| images/app_*.png | make_screenshots.py | none: what the app computes for its own examples |
| images/critical_differences.png | leaderboard.py | images/critical_differences.csv |
| images/multiverse.png | multiverse.py | images/multiverse.csv |
| convergence.png | plot_convergence.py | convergence.csv |
| images/scaling.png | benchmarks/scaling.py --draw | images/scaling.json, measured by it without --draw |
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from make_screenshots import small

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "recipes"


def run(*arguments: object) -> None:
    """A program of this project in a process of its own."""
    # one thread: models of this size only wait for a second one
    env = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **os.environ}
    subprocess.run([sys.executable, *map(str, arguments)], env=env, check=True)


def copy(picture: Path, out: Path) -> None:
    """A picture, in fewer bytes."""
    out.write_bytes(small(picture.read_bytes()))


def places(board: Path, out: Path) -> None:
    """Of a leaderboard as CSV, the mean places that the diagrams of critical differences show."""
    import pandas as pd

    table = pd.read_csv(board).set_index("label")
    table[[name for name in table if name.endswith("_place")]].to_csv(out, float_format="%.4f")


def main(out: Path, demo: Path | None) -> None:
    """Make them."""
    images = out / "images"
    images.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as scratch:
        made = demo or Path(scratch) / "demo-output"
        if demo is None:
            run("-c", "from attriflow.cli import main; main()", "demo", "--output", made)
        copy(made / "leaderboard.png", out / "leaderboard.png")
        shutil.copyfile(made / "leaderboard.csv", out / "leaderboard.csv")
        run(RECIPES / "make_screenshots.py", "--output", images, "--report", made / "report.html")
        boards = Path(scratch) / "boards"
        run(RECIPES / "leaderboard.py", "--output", boards)
        copy(boards / "method-critical_differences.png", images / "critical_differences.png")
        places(boards / "method.csv", images / "critical_differences.csv")
        run(RECIPES / "multiverse.py", "--out", boards)
        copy(boards / "multiverse.png", images / "multiverse.png")
        shutil.copyfile(boards / "multiverse.csv", images / "multiverse.csv")
    run(RECIPES / "plot_convergence.py", "--out", out)
    run(ROOT / "benchmarks" / "scaling.py", "--draw", ROOT / "docs" / "images" / "scaling.json", "--out", images)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    parser.add_argument("--demo", type=Path, help="what `make demo` wrote, instead of running it")
    given = parser.parse_args()
    main(given.out, given.demo)
