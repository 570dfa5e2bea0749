"""Evaluate a model, compare it with the baseline, and let MLflow validate the result.

    python recipes/ci_regression/evaluate.py --store sqlite:///mlflow.db --baseline          # on the main branch
    python recipes/ci_regression/evaluate.py --store sqlite:///mlflow.db                     # on every other one

The run that is the baseline has the tag `baseline: true`; the latest one counts. Prints the ids of both runs, for
`attriflow check`, and fails when `mlflow.validate_evaluation_results` does.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import mlflow
from mlflow.models.evaluation.base import EvaluationResult

import attriflow
from attriflow.demo import load_demo_dataset
from attriflow.regression.rules import Rules
from attriflow.tracking.regression import thresholds

METHODS = ["occlusion", "saliency", "random"]
METRICS = ["aopc_compr", "aopc_suff", "auprc_plau"]
EXPERIMENT = "regression"


def main() -> int:
    """Run the recipe."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--store", default="sqlite:///mlflow.db")
    parser.add_argument("--model", default="demo/recall", help="yours")
    parser.add_argument("--examples", type=int, default=32)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--baseline", action="store_true", help="what is measured becomes the baseline")
    parser.add_argument("--rules", type=Path, default=Path(__file__).with_name("rules.yaml"))
    options = parser.parse_args()
    mlflow.set_tracking_uri(options.store)
    mlflow.set_experiment(EXPERIMENT)
    before = mlflow.search_runs(
        experiment_names=[EXPERIMENT],
        filter_string="tags.baseline = 'true' AND attributes.status = 'FINISHED'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
        output_format="list",
    )
    # the data of a check are fixed: examples are compared one by one
    data = load_demo_dataset("recall").head(options.examples)
    with mlflow.start_run(tags={"baseline": str(options.baseline).lower()}) as run:
        model = attriflow.log_model(attriflow.load_model(options.model), name="model")
        result = mlflow.models.evaluate(
            model.model_uri,
            data,
            targets="target",
            model_type="text-attribution",
            evaluators="attriflow",
            evaluator_config={
                "inputs": "input",
                "rationale": "rationale",
                "methods": options.methods,
                "metrics": METRICS,
                "step_functions": ["probability"],
            },
        )
    print(f"run={run.info.run_id}")
    rules, baseline = Rules.read(options.rules), None
    if before and not options.baseline:
        print(f"baseline-run={before[0].info.run_id}")
        baseline = EvaluationResult(metrics=before[0].data.metrics, artifacts={})
    if "GITHUB_OUTPUT" in os.environ and baseline is not None:
        with open(os.environ["GITHUB_OUTPUT"], "a", encoding="utf-8") as file:
            file.write(f"run={run.info.run_id}\nbaseline-run={before[0].info.run_id}\n")
    limits = thresholds(rules, result.metrics, None if baseline is None else baseline.metrics)
    try:
        mlflow.validate_evaluation_results(limits, result, baseline)
    except mlflow.exceptions.MlflowException as error:
        print(f"MLflow does not accept the result:\n{error}", file=sys.stderr)
        return 1
    print(f"MLflow accepts the result: {len(limits)} limits are kept")
    return 0


if __name__ == "__main__":
    sys.exit(main())
