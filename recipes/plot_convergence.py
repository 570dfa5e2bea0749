"""Plot how the errors of sampled methods shrink with the number of samples: docs/convergence.png.

The model is the tiny GPT-2 of the test data, whose exact Shapley values (all coalitions) are recorded there; gradient
SHAP is compared with integrated gradients. Usage: python recipes/plot_convergence.py
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "data" / "golden"
SAMPLES = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
SEEDS = 4


def main() -> None:
    """Measure and plot."""
    sys.path.insert(0, str(GOLDEN))
    import numpy as np
    import pandas as pd
    import seaborn as sns
    from load_golden import Golden, oracle
    from matplotlib import pyplot as plt

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
    compared = (
        ("shapley_sampling", "shapley"),
        ("kernel_shap", "shapley"),
        ("gradient_shap", "integrated gradients"),
    )
    rows = []
    for method, truth in compared:
        wanted = exact[truth]
        scale = np.sqrt(np.nanmean(wanted**2))
        for n in SAMPLES:
            for seed in range(SEEDS):
                error = np.sqrt(np.nanmean((scores(method, n_samples=n, seed=seed) - wanted) ** 2)) / scale
                rows.append({"method": f"{method} against {truth}", "samples": n, "error": error})
    sns.set_theme(style="whitegrid")
    axes = sns.lineplot(pd.DataFrame(rows), x="samples", y="error", hue="method", marker="o", errorbar=("pi", 100))
    n = np.array(SAMPLES)
    axes.plot(n, 2 / np.sqrt(n), "k--", lw=1, label="1 / sqrt(samples)")
    axes.set(xscale="log", yscale="log", xlabel="n_samples", ylabel="RMS error / RMS of the exact scores")
    axes.legend(title=None, frameon=True)
    axes.figure.set_size_inches(7, 4.5)
    axes.figure.tight_layout()
    axes.figure.savefig(ROOT / "docs" / "convergence.png", dpi=110)
    plt.close(axes.figure)


if __name__ == "__main__":
    main()
