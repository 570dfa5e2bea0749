"""Tidy tables and the leaderboard."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attriflow.evaluation.results import MethodResult, StepScores
from attriflow.registry import PartInfo, metrics

if TYPE_CHECKING:
    import pandas as pd

    from attriflow.types import Example

COST_COLUMNS = ("seconds", "target_tokens_per_second", "forward_equivalents", "peak_memory_mb")
SCORE_COLUMNS = ("example", "step", "token", "method", "metric", "value", "skipped")
CURVE_COLUMNS = ("example", "step", "token", "method", "metric", "x", "y")
STEP_COLUMNS = ("example", "step", "token", "step_function", "value", "unit")


def directions(names: Iterable[str]) -> dict[str, bool]:
    """Metric -> whether higher is better; metrics that do not say so are not ranked and not in it."""
    out = {}
    for name in names:
        part: PartInfo = metrics.info(name)
        if isinstance(part.meta.get("higher_is_better"), bool):
            out[name] = part.meta["higher_is_better"]
    return out


def leaderboard(
    results: Sequence[MethodResult], metric_names: Sequence[str], higher_is_better: Mapping[str, bool], n_examples: int
) -> pd.DataFrame:
    """One row per method: best mean rank first, failed ones last.

    A metric without any value has its column all the same, and `reason` says why. Each other metric is ranked in its
    own direction, ties share the mean of their places, and a method without a value takes the last place: missing must
    not pay. `rank` is the mean of a method's places; a failed method has none.
    """
    import pandas as pd

    shown = list(metric_names)
    frame = pd.DataFrame([_row(r, shown, n_examples) for r in results])
    ok = frame["status"] == "ok"
    ranked = [m for m in shown if m in higher_is_better and any(m in r.metrics for r in results)]
    for name in ranked:
        values = frame.loc[ok, name].astype(float)
        frame[f"{name}_rank"] = values.rank(ascending=not higher_is_better[name], na_option="bottom")
    if ranked:
        frame["rank"] = frame[[f"{m}_rank" for m in ranked]].mean(axis=1)
    frame["directions"] = ", ".join(f"{m}: {'higher' if higher_is_better[m] else 'lower'}" for m in ranked)
    order = ["method", "family", "status", "reason", "rank", *shown, *(f"{m}_rank" for m in ranked)]
    frame = frame[[*order, *COST_COLUMNS, "n_examples", "directions"]]
    places = frame.assign(failed=~ok).sort_values(["failed", "rank", "method"], na_position="last").index
    return frame.loc[places].reset_index(drop=True)


def _row(result: MethodResult, metric_names: Sequence[str], n_examples: int) -> dict[str, Any]:
    means = result.metrics
    cost = result.cost.metrics() if result.cost is not None else {}
    reason = result.reason or "; ".join(f"{m}: {why}" for m, why in result.problems.items())
    return {
        "method": result.name,
        "family": result.family,
        "status": result.status,
        "reason": reason,
        "rank": float("nan"),
        **{m: means.get(m, float("nan")) for m in metric_names},
        **{c: cost.get(c, float("nan")) for c in COST_COLUMNS},
        "n_examples": n_examples if result.ok else 0,
    }


def scores_table(results: Iterable[MethodResult], examples: Sequence[Example]) -> pd.DataFrame:
    """One row per example, step, method and metric. A skipped step has a reason instead of a value.

    Metrics that give one number for a whole explanation have no step and no token.
    """
    import pandas as pd

    rows = []
    for result in results:
        for metric, values in result.values.items():
            for i, (found, example) in enumerate(zip(values, examples, strict=True)):
                for step, value in enumerate(found.values):
                    place = (step, _token(example, step)) if found.per_step else (None, None)
                    rows.append((i, *place, result.name, metric, value, found.skipped.get(step)))
    frame = pd.DataFrame(rows, columns=list(SCORE_COLUMNS))
    return frame.astype({"example": "int64", "step": "Int64", "value": "float64"})


def curves_table(results: Iterable[MethodResult], examples: Sequence[Example]) -> pd.DataFrame:
    """The curves behind areas (and cascades), one row per example, step, method, metric and point."""
    import pandas as pd

    rows = []
    for result in results:
        for metric, values in result.values.items():
            for i, (found, example) in enumerate(zip(values, examples, strict=True)):
                for step, curve in found.curves.items():
                    place = (step, _token(example, step)) if found.per_step else (None, None)
                    rows += [(i, *place, result.name, metric, x, y) for x, y in curve]
    frame = pd.DataFrame(rows, columns=list(CURVE_COLUMNS))
    return frame.astype({"example": "int64", "step": "Int64", "x": "float64", "y": "float64"})


def _token(example: Example, step: int) -> str:
    return example.target[example.start + step].text


def step_scores_table(step_scores: Iterable[StepScores], examples: Sequence[Example]) -> pd.DataFrame:
    """One row per example, step and step function."""
    import pandas as pd

    rows = [
        (i, step, _token(examples[i], step), scores.name, value, scores.unit)
        for scores in step_scores
        for i, values in enumerate(scores.values)
        for step, value in enumerate(values)
    ]
    frame = pd.DataFrame(rows, columns=list(STEP_COLUMNS))
    return frame.astype({"example": "int64", "step": "int64", "value": "float64"})
