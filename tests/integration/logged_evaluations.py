"""Evaluations in an MLflow store that nobody ran: what the evaluator logs, with numbers of the test's choice."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlparse

import numpy as np
import pandas as pd
from mlflow import MlflowClient

from attriflow.evaluation.circularity import with_circularity
from attriflow.evaluation.families import families
from attriflow.evaluation.results import ExampleValues, MethodResult
from attriflow.evaluation.tables import SCORE_COLUMNS, leaderboard
from attriflow.measuring.cost import Cost
from attriflow.tracking.artifacts import write_table
from attriflow.tracking.run_logger import RunLogger

HIGHER = {"aopc_compr": True, "aopc_suff": False}
STEPS = 2
Values = Mapping[str, Mapping[str, np.ndarray] | str]
"""Method -> metric -> one value per example; or why the method failed."""


def tables(
    values: Values,
    costs: Mapping[str, float] | None = None,
    alike: Mapping[str, str] | None = None,
    own: Mapping[str, Sequence[str]] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Leaderboard and scores as an evaluation makes them; the steps of an example have its value as their mean."""
    results, n = [], 0
    for name, metrics in values.items():
        result = MethodResult(name=name, family="x", same_as=(alike or {}).get(name, ""))
        if isinstance(metrics, str):
            result.status, result.reason = "failed", metrics
        else:
            equivalents = (costs or {}).get(name, 1.0)
            result.cost = Cost(seconds=1.0, target_tokens_per_second=9.0, forward_equivalents=equivalents)
            for metric, numbers in metrics.items():
                n = len(numbers)
                result.values[metric] = [ExampleValues(values=(x - 0.01, x + 0.01)) for x in numbers.tolist()]
        results.append(result)
    names = [m for m in HIGHER if any(m in r.values for r in results)]
    board = leaderboard(results, names, HIGHER, n)
    return with_circularity(board, own or {}, families(names)), score_table(values)


def score_table(values: Values) -> pd.DataFrame:
    """The scores, with two steps per example."""
    rows = [
        (i, step, "token", name, metric, x + (-0.01, 0.01)[step], None)
        for name, metrics in values.items()
        if not isinstance(metrics, str)
        for metric, numbers in metrics.items()
        for i, x in enumerate(numbers.tolist())
        for step in range(STEPS)
    ]
    return pd.DataFrame(rows, columns=list(SCORE_COLUMNS)).astype({"step": "Int64", "value": "float64"})


def log_evaluation(
    client: MlflowClient,
    experiment: str,
    model: str,
    values: Values,
    *,
    inputs: str = "0123456789abcdef",
    seed: int = 0,
    options: Mapping[str, Mapping[str, object]] | None = None,
    costs: Mapping[str, float] | None = None,
    tags: Mapping[str, str] | None = None,
    alike: Mapping[str, str] | None = None,
    own: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """Log one; returns its run's id."""
    found = client.create_run(experiment, run_name=f"evaluation of {model}")
    run = RunLogger(found.info.run_id, client)
    run.params(
        {
            "attriflow.methods": list(values),
            "attriflow.method_options": options or {},
            "attriflow.attributed_fn": "probability",
            "attriflow.seed": seed,
        }
    )
    run.tags(
        {
            "attriflow.device": "cpu",
            "attriflow.model": "GPT2LMHeadModel",
            "attriflow.model_name": model,
            "attriflow.data_name": "facts",
            "attriflow.inputs": inputs,
            **{f"attriflow.{name}": value for name, value in (tags or {}).items()},
        }
    )
    board, scores = tables(values, costs, alike, own)
    run.artifact("leaderboard.json", lambda path: write_table(board, path))
    run.artifact("scores.parquet", lambda path: write_table(scores, path))
    run.finish()
    return run.run_id


def copies(database: Path, run_id: str, many: Mapping[str, tuple[str, Values]]) -> None:
    """Copy a run within a sqlite store, which is quicker than logging: new id -> model, values."""
    with sqlite3.connect(database) as connection:
        for table in ("runs", "params", "tags"):
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            rows = connection.execute(f"SELECT * FROM {table} WHERE run_uuid = ?", (run_id,)).fetchall()
            for i, (new, (model, _)) in enumerate(many.items()):
                for row in rows:
                    cell = dict(zip(columns, row, strict=True)) | {"run_uuid": new}
                    if table == "runs":
                        cell["artifact_uri"] = str(cell["artifact_uri"]).replace(run_id, new)
                        cell["start_time"] = int(cell["start_time"]) + i + 1
                    if cell.get("key") == "attriflow.model_name":
                        cell["value"] = model
                    marks = ", ".join("?" * len(columns))
                    connection.execute(f"INSERT INTO {table} VALUES ({marks})", list(cell.values()))
        (uri,) = connection.execute("SELECT artifact_uri FROM runs WHERE run_uuid = ?", (run_id,)).fetchone()
    folder = Path(unquote(urlparse(uri).path))
    board, _ = tables(next(iter(many.values()))[1])  # what is in it beside names does not matter
    for new, (_, values) in many.items():
        target = Path(str(folder).replace(run_id, new))
        target.mkdir(parents=True)
        scores = score_table(values)
        write_table(board, target / "leaderboard.json")
        write_table(scores, target / "scores.parquet")


def numbers(mean: float, seed: int, n: int = 16) -> dict[str, np.ndarray]:
    """Values of both metrics around a mean; the lower one the better the higher the other."""
    rng = np.random.default_rng(seed)
    return {"aopc_compr": mean + 0.05 * rng.standard_normal(n), "aopc_suff": 1 - mean + 0.05 * rng.standard_normal(n)}
