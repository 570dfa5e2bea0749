"""Print the demo's main metrics with bootstrap intervals, as the Markdown table of docs/evaluation.md.

Usage: python recipes/demo_intervals.py DEMO_OUTPUT   (the folder that `make demo` or `attriflow demo -o` wrote)
"""

from __future__ import annotations

import sys
from pathlib import Path

METRICS = ("aopc_compr", "auprc_plau")


def main(output: Path) -> None:
    """One row per method, one column per demo model and metric."""
    import mlflow
    import pandas as pd

    from attriflow.statistics import bootstrap_interval, example_means

    mlflow.set_tracking_uri(f"sqlite:///{output.resolve() / 'mlflow.db'}")
    runs = mlflow.search_runs(search_all_experiments=True)
    columns: dict[str, dict[str, str]] = {}
    for name in ("recall", "translate"):
        run = runs[runs["tags.mlflow.runName"] == name].iloc[0]
        path = mlflow.artifacts.download_artifacts(run_id=run.run_id, artifact_path="scores.parquet")
        scores = pd.read_parquet(path)
        means = example_means(scores[scores["metric"].isin(METRICS)], ["method", "metric"])
        for (method, metric), group in means.groupby(["method", "metric"]):
            _, low, high, _ = bootstrap_interval(group["value"].to_numpy())
            cell = f"{group['value'].mean():.3f} [{low:.3f}, {high:.3f}]"
            columns.setdefault(f"{name} `{metric}`", {})[f"`{method}`"] = cell
    table = pd.DataFrame(columns).sort_index()
    print("| method | " + " | ".join(table.columns) + " |\n| --- |" + " --- |" * len(table.columns))
    for method, row in table.iterrows():
        print(f"| {method} | " + " | ".join(row) + " |")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo-output"))
