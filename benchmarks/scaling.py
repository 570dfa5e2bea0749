"""How cost grows: time against prompt length, target length, batch, n_steps and layers, with the fitted exponent.

Usage: ``python benchmarks/scaling.py [--rounds 5] [--threads 1] [--draw FILE] [--out docs/images]``. Writes
`scaling.png` and `scaling.json` into the folder and prints the table; with `--draw` it measures nothing and draws the
numbers of such a file. `make docs` writes the table into docs/benchmarks.md. The sizes of a curve are measured in turn,
round after round, so that a machine that slows down does so for all of them; a point is the median over rounds. The
expected curve is the method's arithmetic floor (`attriflow.measuring.floors`) at the same sizes: its exponent is
fitted in the same way, so both are slopes over the same range, not limits.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from random_models import Shape, random_examples, random_model

from attriflow.measuring.cost import timed
from attriflow.measuring.floors import Problem, Work, total
from attriflow.registry import methods

BASE = Shape("gpt2", layers=2, width=128, heads=4, vocabulary=1000)
SIZES = {"prompt": 32, "target": 16, "batch": 2, "n_steps": 8, "layers": 2}


@dataclass(frozen=True)
class Curve:
    """One method along one axis; everything else stays as in `SIZES`."""

    axis: str
    method: str
    points: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


CURVES = (
    *(Curve("prompt", m, (32, 64, 128, 256)) for m in ("saliency", "occlusion", "value_zeroing")),
    *(Curve("target", m, (8, 16, 32, 64)) for m in ("saliency", "occlusion", "lime")),
    *(Curve("batch", m, (1, 2, 4, 8)) for m in ("saliency", "occlusion", "integrated_gradients")),
    *(Curve("n_steps", m, (4, 8, 16, 32)) for m in ("integrated_gradients", "gradient_shap", "lime")),
    *(Curve("layers", m, (1, 2, 4, 8)) for m in ("saliency", "occlusion", "attention")),
)
QUICK = (Curve("n_steps", "integrated_gradients", (2, 4)), Curve("batch", "saliency", (1, 2)))


def options_of(method: str, points: int) -> dict[str, int]:
    """Points on the path, or samples: whichever the method has."""
    known = methods.info(method).options
    return {name: points for name in ("n_steps", "n_samples") if name in known}


@dataclass
class Measured:
    """A curve with its numbers.

    Attributes:
        seconds: Medians, one per point.
        floor: Fewest multiply-adds, one per point.
    """

    curve: Curve
    seconds: list[float]
    floor: list[float]

    @property
    def exponent(self) -> float:
        """Slope of log seconds over log size."""
        return slope(self.curve.points, self.seconds)

    @property
    def expected(self) -> float:
        """The same of the multiply-adds."""
        return slope(self.curve.points, self.floor)


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Least-squares slope in logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def measure(curve: Curve, rounds: int) -> Measured:
    """Every point once as a warm-up, then all of them in turn, `rounds` times."""
    runs, floors = [], []
    for point in curve.points:
        sizes = {**SIZES, curve.axis: point}
        shape = replace(BASE, layers=sizes["layers"])
        model = random_model(shape)
        batches = random_examples(shape, sizes["prompt"], sizes["target"], sizes["batch"])
        options = options_of(curve.method, sizes["n_steps"])
        work = Work.of_model(model)
        assert work is not None
        given = {**methods.info(curve.method).options, **options}
        floor = total(curve.method, given, [Problem.of_example(work, e) for e in next(batches)])
        assert floor is not None
        floors.append(floor)
        runs.append((model, batches, options, sizes["batch"]))

    def once(run: tuple[Any, ...]) -> float:
        model, batches, options, batch = run
        examples = next(batches)
        return timed(
            lambda: model.attribute_examples(examples, curve.method, batch_size=batch, show_progress=False, **options),
            model.device,
        )[1]

    for run in runs:
        once(run)
    seconds = [[once(run) for run in runs] for _ in range(rounds)]
    return Measured(curve, [statistics.median(column) for column in zip(*seconds, strict=True)], floors)


def read(path: Path) -> list[Measured]:
    """Curves of an earlier run."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [
        Measured(Curve(**{**row["curve"], "points": tuple(row["curve"]["points"])}), row["seconds"], row["floor"])
        for row in rows
    ]


def table(found: Sequence[Measured]) -> str:
    """Exponents in Markdown."""
    lines = [
        "| axis | sizes | method | exponent | expected | seconds at both ends |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    for m in found:
        sizes = ", ".join(map(str, m.curve.points))
        ends = f"{m.seconds[0]:.3g}, {m.seconds[-1]:.3g}"
        lines.append(
            f"| {m.curve.axis} | {sizes} | `{m.curve.method}` | {m.exponent:.2f} | {m.expected:.2f} | {ends} |"
        )
    return "\n".join(lines) + "\n"


def plot(found: Sequence[Measured], path: Path) -> None:
    """One panel per axis: measured points, and the multiply-adds scaled to them, dashed; exponents of both."""
    import seaborn as sns
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator

    names = list(dict.fromkeys(m.curve.axis for m in found))
    sns.set_theme(style="whitegrid")
    figure, panels = plt.subplots(1, len(names), figsize=(3.3 * len(names), 4.6), squeeze=False, layout="constrained")
    palette = sns.color_palette("colorblind")
    for panel, name in zip(panels[0], names, strict=True):
        for color, m in zip(palette, [m for m in found if m.curve.axis == name], strict=False):
            scale = np.exp(np.mean(np.log(m.seconds)) - np.mean(np.log(m.floor)))
            label = f"{m.curve.method}: {m.exponent:.2f} ({m.expected:.2f})"
            panel.plot(m.curve.points, m.seconds, "o-", color=color, ms=4, label=label)
            panel.plot(m.curve.points, [scale * f for f in m.floor], "--", color=color, lw=1)
            points = m.curve.points
        panel.set(xscale="log", yscale="log", title=name)
        panel.set_xticks(points, [str(p) for p in points])
        panel.xaxis.minorticks_off()
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.yaxis.minorticks_off()
        panel.tick_params(labelsize=9)
        panel.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.45, -0.08), frameon=False, handlelength=1.2)
    panels[0][0].set_ylabel("seconds")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Measure, plot, print."""
    parser = argparse.ArgumentParser(description="Scaling curves of attribution methods.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="two short curves, to see that it works")
    parser.add_argument("--draw", type=Path, metavar="FILE", help="numbers of an earlier run, to be drawn only")
    parser.add_argument("--out", type=Path, default=Path("."))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.draw:
        found = read(options.draw)
    else:
        torch.set_num_threads(options.threads)
        found = []
        for curve in QUICK if options.quick else CURVES:
            m = measure(curve, options.rounds)
            print(f"{curve.axis} {curve.method}: {m.exponent:.2f}, expected {m.expected:.2f}", flush=True)
            found.append(m)
        rows = [{**asdict(m), "exponent": m.exponent, "expected": m.expected} for m in found]
        (options.out / "scaling.json").write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n", encoding="utf-8")
    plot(found, options.out / "scaling.png")
    print(table(found))


if __name__ == "__main__":
    main()
