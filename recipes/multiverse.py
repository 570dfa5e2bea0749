"""Does the ranking of methods depend on choices? The picture of docs/leaderboards.md, and its numbers.

Reduction, baseline, objective and perturbation as they could as well have been chosen, on `demo/recall`.

Usage: ``python recipes/multiverse.py [--examples 6] [--rows 110] [--out FOLDER]``
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import attriflow
from attriflow.demo import load_demo_dataset
from attriflow.evaluation.config import EvaluationConfig
from attriflow.evaluation.data import EvaluationData
from attriflow.evaluation.runner import Evaluation
from attriflow.tracking.pages import MultiverseTables
from attriflow.views.evaluations.multiverse import multiverse
from attriflow.views.figures import save_figure

METHODS = (
    "occlusion", "lime", "integrated_gradients", "deeplift", "gradient_shap", "input_x_gradient", "saliency",
    "smooth_grad", "attention_rollout", "value_zeroing", "random", "position",
)  # fmt: skip
METRICS = ("aopc_compr", "deletion_auc", "log_odds", "auprc_plau")
OPTIONS = {
    "lime": {"n_samples": 64},
    "integrated_gradients": {"n_steps": 10},
    "smooth_grad": {"n_samples": 8},
    "gradient_shap": {"n_samples": 10},
}


def main(examples: int, rows: int, out: Path) -> None:
    """Evaluate, say what it says, draw."""
    data = load_demo_dataset("recall").head(examples)
    settings = {
        "methods": METHODS, "metrics": METRICS, "method_options": OPTIONS, "rationale": "rationale",
        "step_functions": [], "throughput": False, "multiverse": True, "multiverse_rows": rows,
    }  # fmt: skip
    config = EvaluationConfig.from_dict(settings, columns=list(data.columns), text_columns=["input"], targets="target")
    found = EvaluationData.from_frame(data, config, data["target"].tolist())
    evaluation, begin = (
        Evaluation(attriflow.load_model("demo/recall", device="cpu"), found, config),
        time.perf_counter(),
    )
    for _ in evaluation.run():
        pass
    tables = MultiverseTables.of(evaluation, (), config.min_coverage)
    assert tables is not None
    print(f"{evaluation.multiverse.choices}\n{tables.verdict}\n{time.perf_counter() - begin:.0f} s")
    print(tables.stability.to_string(index=False, float_format="%.2f"))
    out.mkdir(parents=True, exist_ok=True)
    tables.wins.to_csv(out / "multiverse.csv", index=False, float_format="%.4f")
    save_figure(multiverse(tables.wins, tables.places), out / "multiverse.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=6)
    parser.add_argument("--rows", type=int, default=110)
    parser.add_argument("--out", type=Path, default=Path("multiverse-output"))
    given = parser.parse_args()
    main(given.examples, given.rows, given.out)
