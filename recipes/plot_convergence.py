"""Plot how the errors of sampled methods shrink with the number of samples: docs/convergence.png, with convergence.csv.

The model is the tiny GPT-2 of the test data, whose exact Shapley values (all coalitions) are recorded there; gradient
SHAP is compared with integrated gradients. Usage: python recipes/plot_convergence.py [--out docs]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "data" / "golden"
SAMPLES = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
SEEDS = 4
COMPARED = (
    ("shapley_sampling", "shapley"),
    ("kernel_shap", "shapley"),
    ("gradient_shap", "integrated gradients"),
)


def measure(samples: Sequence[int] = SAMPLES, seeds: int = SEEDS) -> Any:
    """A table of errors, one row per method, number of samples and seed."""
    sys.path.insert(0, str(GOLDEN))
    import numpy as np
    import pandas as pd
    from load_golden import Golden, oracle

    import attriflow

    model = attriflow.load_model(str(GOLDEN / "models" / "gpt2"), dtype="float64", device="cpu")
    case = Golden("gpt2").cases["single"]
    arrays, _ = oracle("gpt2")
    exact = {"shapley": arrays["single/seq0/shapley[target].probability/target"]}

    def scores(method: str, **options: object) -> np.ndarray:
        out = model.attribute(
            case["input_texts"], case["generated_texts"], method=method, show_progress=False, **options
        )
        return out[0].target_attributions.numpy()

    exact["integrated gradients"] = scores("integrated_gradients", n_steps=200)
    rows = []
    for method, truth in COMPARED:
        wanted = exact[truth]
        scale = np.sqrt(np.nanmean(wanted**2))
        for n in samples:
            for seed in range(seeds):
                error = np.sqrt(np.nanmean((scores(method, n_samples=n, seed=seed) - wanted) ** 2)) / scale
                rows.append({"method": f"{method} against {truth}", "samples": n, "seed": seed, "error": error})
    return pd.DataFrame(rows)


def plot(table: Any, path: Path) -> None:
    """Errors over samples: the mean over seeds and their range."""
    import numpy as np
    import seaborn as sns
    from matplotlib import pyplot as plt

    sns.set_theme(style="whitegrid")
    axes = sns.lineplot(table, x="samples", y="error", hue="method", marker="o", errorbar=("pi", 100))
    n = np.array(sorted(set(table["samples"])))
    axes.plot(n, 2 / np.sqrt(n), "k--", lw=1, label="1 / sqrt(samples)")
    axes.set(xscale="log", yscale="log", xlabel="n_samples", ylabel="RMS error / RMS of the exact scores")
    axes.legend(title=None, frameon=False, loc="upper center", bbox_to_anchor=(0.45, -0.12), ncols=2, fontsize=9)
    axes.figure.set_size_inches(7, 4.8)
    axes.figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(axes.figure)


def main(out: Path) -> None:
    """Measure and plot."""
    table = measure()
    table.to_csv(out / "convergence.csv", index=False, float_format="%.6f")
    plot(table, out / "convergence.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    main(parser.parse_args().out)
