"""One leaderboard over three models: the two demo models, and one of them with noise in its weights.

    python recipes/leaderboard.py --output leaderboard-output

Each model is evaluated into one MLflow store; then `attriflow leaderboard` reads the store. The damaged model shows
what a leaderboard is for: its explanations follow the planted evidence less well, and the tests say where that is no
accident.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import mlflow
import torch

import attriflow
from attriflow.cli import main
from attriflow.demo import load_demo_dataset

METHODS = ["occlusion", "saliency", "input_x_gradient", "attention", "value_zeroing", "integrated_gradients", "random"]
METRICS = ["aopc_compr", "aopc_suff", "taucorr_loo", "auprc_plau", "token_f1_plau"]
OPTIONS = {"integrated_gradients": {"n_steps": 10}}


def damaged(noise: float):
    """`demo/recall` with Gaussian noise added to every weight matrix, in units of its standard deviation."""
    explained = attriflow.load_model("demo/recall", device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in explained.model.parameters():
            if weights.ndim > 1:
                weights += noise * weights.std() * torch.randn(weights.shape, generator=generator)
    return explained


def evaluate(explained, name: str, task: str, examples: int) -> str:
    """Evaluate a model on the data of a task; returns the id of the run."""
    data = load_demo_dataset(task).sample(examples, random_state=0, ignore_index=True)
    with mlflow.start_run(run_name=name) as run:
        info = attriflow.log_model(explained, name=name)
        mlflow.models.evaluate(
            info.model_uri,
            mlflow.data.from_pandas(data, targets="target", name=f"demo-{task}"),
            model_type="text-attribution",
            evaluators="attriflow",
            evaluator_config={
                "inputs": "input",
                "rationale": "rationale",
                "methods": METHODS,
                "method_options": OPTIONS,
                "metrics": METRICS,
                "step_functions": ["probability"],
            },
        )
    return run.info.run_id


def run() -> None:
    """Evaluate, then compare."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("leaderboard-output"))
    parser.add_argument("--examples", type=int, default=32)
    parser.add_argument("--noise", type=float, default=0.5)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    store = f"sqlite:///{options.output / 'mlflow.db'}"
    mlflow.set_tracking_uri(store)
    if mlflow.get_experiment_by_name("leaderboard") is None:
        mlflow.create_experiment("leaderboard", artifact_location=(options.output / "mlartifacts").absolute().as_uri())
    mlflow.set_experiment("leaderboard")
    evaluate(attriflow.load_model("demo/translate"), "translate", "translate", options.examples)
    evaluate(damaged(options.noise), "recall-damaged", "recall", options.examples)
    last = evaluate(attriflow.load_model("demo/recall"), "recall", "recall", options.examples)
    for by in ("method", "model", "both"):
        files = [str(options.output / f"{by}.{suffix}") for suffix in ("html", "csv", "md", "json", "png")]
        command = [
            "leaderboard",
            "--experiment",
            "leaderboard",
            "--tracking-uri",
            store,
            "--by",
            by,
            "--output",
            *files,
            "--overwrite",
        ]
        try:
            main([*command, "--log-to", last])
        except SystemExit as stop:
            if stop.code:
                raise


if __name__ == "__main__":
    run()
