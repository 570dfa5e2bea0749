"""What the scores of an evaluation say beyond means: intervals over examples, and tests of all pairs of methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from attriflow import statistics

if TYPE_CHECKING:
    import pandas as pd

SUMMARY_COLUMNS = ("method", "metric", "mean", "low", "high", "n", "skipped_steps")


def summary_table(scores: pd.DataFrame, *, level: float = 0.95, seed: int = 0) -> pd.DataFrame:
    """Every mean with its bootstrap interval over examples.

    Args:
        scores: Table `scores` of an evaluation: one row per example, step, method and metric.
        level: Coverage of the intervals.
        seed: For resampling.

    Returns:
        One row per method and metric: `mean` over examples of their means over steps, `low`, `high`, `n` (examples with
        a value) and `skipped_steps`.
    """
    import pandas as pd

    means = statistics.example_means(scores, ["method", "metric"])
    wide = means.pivot(index="example", columns=["method", "metric"], values="value")
    order = list(dict.fromkeys(zip(means["method"], means["metric"], strict=True)))
    found = statistics.bootstrap_intervals(wide[order].to_numpy(float), level=level, seed=seed) if order else []
    skipped = scores[scores["value"].isna()].groupby(["method", "metric"], observed=True).size().to_dict()
    rows = [(*key, *interval, int(skipped.get(key, 0))) for key, interval in zip(order, found, strict=True)]
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS)).astype({"n": "int64", "skipped_steps": "int64"})


def comparison_table(
    scores: pd.DataFrame, directions: Mapping[str, bool], *, level: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """All pairs of methods on every metric, see `attriflow.statistics.compare`.

    Args:
        scores: Table `scores` of an evaluation: one row per example, step, method and metric.
        directions: Metric -> whether higher is better.
        level: Coverage of the intervals; a method is called better when `p_holm` is at most `1 - level`.
        seed: For resampling.

    Returns:
        The columns of `compare` after `metric`, and `better`: the better method of the pair, None where the examples do
        not tell or the metric has no direction. p-values are adjusted (Holm) within each metric.
    """
    import pandas as pd

    parts = []
    for metric, rows in scores.groupby("metric", sort=False, observed=True):
        part = statistics.compare(rows, level=level, seed=seed)
        part.insert(0, "metric", metric)
        higher = directions.get(str(metric))
        part["better"] = None if higher is None else _better(part, higher, 1 - level)
        parts.append(part)
    if not parts:
        empty = statistics.compare(scores, level=level, seed=seed)
        empty.insert(0, "metric", pd.Series(dtype=object))
        return empty.assign(better=pd.Series(dtype=object))
    return pd.concat([p.astype({"better": object}) for p in parts], ignore_index=True)


def _better(pairs: pd.DataFrame, higher: bool, alpha: float) -> pd.Series:
    first = (pairs["difference"] > 0) == higher
    return pairs["a"].where(first, pairs["b"]).where((pairs["p_holm"] <= alpha) & (pairs["difference"] != 0), None)
