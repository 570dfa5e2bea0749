"""Tidy tables and the leaderboard."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attriflow.engine.job import step_tokens
from attriflow.evaluation.results import ExampleValues, MethodResult, StepScores
from attriflow.registry import PartInfo, metrics
from attriflow.statistics import ranking
from attriflow.statistics.ranking import FLOOR, same_metrics

if TYPE_CHECKING:
    import pandas as pd

    from attriflow.types import Example

COST_COLUMNS = ("seconds", "target_tokens_per_second", "forward_equivalents", "peak_memory_mb")
SCORE_COLUMNS = ("example", "step", "token", "method", "metric", "value", "skipped")
CURVE_COLUMNS = ("example", "step", "token", "method", "metric", "x", "y")
STEP_COLUMNS = ("example", "step", "token", "step_function", "value", "unit")
Valued = tuple[str, str, int, ExampleValues]
"""Method, metric, number of the example, values."""


def directions(names: Iterable[str]) -> dict[str, bool]:
    """Metric -> whether higher is better; metrics that do not say so are not ranked and not in it."""
    out = {}
    for name in names:
        part: PartInfo = metrics.info(name)
        if isinstance(part.meta.get("higher_is_better"), bool):
            out[name] = part.meta["higher_is_better"]
    return out


def leaderboard(
    results: Sequence[MethodResult],
    metric_names: Sequence[str],
    higher_is_better: Mapping[str, bool],
    n_examples: int,
    *,
    families: Mapping[str, str] | None = None,
    floor: float = FLOOR,
    gates: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """One row per method: best rank first, then those without a rank, failed ones last.

    A metric without any value has its column all the same, and `reason` says why. Each other metric is ranked in its
    own direction, see `attriflow.statistics.ranking`: `rank` is the mean over families of metrics of the mean places
    in them. Methods that explain alike (`same_as`) share one place. `status` is "ok", "partial" (values are missing),
    "gated" (a gate is not passed, see `attriflow.statistics.gates`) or "failed"; only "ok" has a rank.

    Args:
        results: What was found out.
        metric_names: Metrics that were asked for.
        higher_is_better: Metric -> direction; others are shown, not ranked.
        n_examples: Size of the data set.
        families: Metric -> family, see `attriflow.evaluation.families`.
        floor: Share of a metric's examples that a method must have values for.
        gates: Method -> the gates that it does not pass.
    """
    import pandas as pd

    shown, families = list(metric_names), families or {}
    frame = pd.DataFrame([_row(r, shown, n_examples) for r in results])
    ranked = [m for m in shown if m in higher_is_better and any(m in r.metrics for r in results)]
    by_method = {r.name: r for r in results}
    own = [r for r in results if r.ok and not r.same_as]
    gated = {name: why for name, why in (gates or {}).items() if why}
    places = _places(own, ranked, higher_is_better, floor, set(gated))
    doubles = same_metrics(example_table(own, ranked), families)
    if len(places):
        found = ranking.ranks(places[~places["metric"].isin(list(doubles))], ["row"], families, floor).set_index("row")
    else:
        found = pd.DataFrame(columns=["partial", "rank"])
    # who is like an earlier method stands with it
    home = pd.Series([by_method[name].same_as or name for name in frame["method"]], dtype=object)
    wide = places.pivot(index="row", columns="metric", values="place") if len(places) else pd.DataFrame()
    for name in ranked:
        frame[f"{name}_rank"] = home.map(wide[name]) if name in wide else float("nan")
    family_ranks = [c for c in found.columns if c.startswith("rank (")]
    for column in ("rank", *family_ranks):
        frame[column] = home.map(found[column]).astype(float)
    reasons = dict(found["partial"])
    partial = pd.Series([str(reasons.get(name, "")) for name in home], dtype=object)
    frame["gates_failed"] = [gated.get(name, "") for name in home]
    ok = frame["status"] == "ok"
    frame.loc[ok & (partial != ""), "status"] = "partial"
    frame.loc[ok & (frame["gates_failed"] != ""), "status"] = "gated"
    lacking = ok & (partial != "")
    frame.loc[lacking, "reason"] = [
        "; ".join(filter(None, (f"values for {p}", r)))
        for p, r in zip(partial[lacking], frame.loc[lacking, "reason"], strict=True)
    ]
    frame["directions"] = ", ".join(f"{m}: {'higher' if higher_is_better[m] else 'lower'}" for m in ranked)
    order = ["method", "family", "status", "reason", "rank", *shown, *(f"{m}_rank" for m in ranked)]
    more = [*(f"{m}_n" for m in shown), "n_examples", "directions", *family_ranks, "gates_failed", "same_as"]
    frame = frame[[*order, *COST_COLUMNS, *more]]
    # a method that explains as another one stands right below it
    position = frame.assign(failed=~ok, home=home, twin=frame["same_as"] != "")
    places_of = position.sort_values(["failed", "rank", "home", "twin", "method"], na_position="last").index
    return frame.loc[places_of].reset_index(drop=True)


def _places(
    results: Sequence[MethodResult], names: Sequence[str], higher: Mapping[str, bool], floor: float, gated: set[str]
) -> pd.DataFrame:
    """Places of methods on metrics; those that a gate keeps out have none, and take none from others."""
    import pandas as pd

    rows = [
        {"row": r.name, "metric": m, "value": r.metrics.get(m), "n": r.counts.get(m, 0), "applies": r.applies(m)}
        for r in results
        for m in names
        if r.name not in gated
    ]
    if not rows:
        return pd.DataFrame(columns=["row", "metric", "value", "n", "applies", "most", "place"])
    return ranking.placed(pd.DataFrame(rows), ["metric"], higher, floor)


def example_table(results: Sequence[MethodResult], names: Sequence[str]) -> pd.DataFrame:
    """Means over steps: one row per method and example (the index), one column per metric; NaN without a value."""
    import pandas as pd

    most = {r.name: max((len(v) for v in r.values.values()), default=0) for r in results}
    index = pd.MultiIndex.from_tuples(
        [(r.name, i) for r in results for i in range(most[r.name])], names=["method", "example"]
    )
    columns = {}
    for name in names:
        values: list[float | None] = []
        for r in results:
            found = [v.mean for v in r.values.get(name, ())]
            values += found + [None] * (most[r.name] - len(found))
        columns[name] = pd.Series(values, index=index, dtype="float64")
    return pd.DataFrame(columns, index=index)


def seeded_tables(result: MethodResult, doubles: Iterable[str] = ()) -> list[pd.DataFrame] | None:
    """A method's metrics under other seeds as tables by example, one per seed; without `doubles` of other metrics."""
    import pandas as pd

    if result.seeded is None:
        return None
    return [pd.DataFrame(found, dtype=float).drop(columns=list(doubles), errors="ignore") for found in result.seeded]


def _row(result: MethodResult, metric_names: Sequence[str], n_examples: int) -> dict[str, Any]:
    means, counts = result.metrics, result.counts
    cost = result.cost.metrics() if result.cost is not None else {}
    reason = result.reason or "; ".join(f"{m}: {why}" for m, why in {**result.problems, **result.failures}.items())
    return {
        "method": result.name,
        "family": result.family,
        "status": result.status,
        "reason": reason,
        "rank": float("nan"),
        **{m: means.get(m, float("nan")) for m in metric_names},
        **{f"{m}_n": counts.get(m, 0) for m in metric_names},
        **{c: cost.get(c, float("nan")) for c in COST_COLUMNS},
        "n_examples": n_examples if result.ok else 0,
        "same_as": result.same_as,
    }


def each_value(results: Iterable[MethodResult]) -> Iterator[Valued]:
    """What results have, one by one."""
    for result in results:
        for metric, values in result.values.items():
            for i, found in enumerate(values):
                yield result.name, metric, i, found


def scores_table(results: Iterable[MethodResult], examples: Sequence[Example]) -> pd.DataFrame:
    """One row per example, step, method and metric. A skipped step has a reason instead of a value.

    Metrics that give one number for a whole explanation have no step and no token.
    """
    rows = _Rows(examples)
    values, skipped = array("d"), list[str | None]()
    for method, metric, i, found in each_value(results):
        for step, value in enumerate(found.values):
            rows.add(i, step if found.per_step else None, method, metric)
            values.append(math.nan if value is None else value)
            skipped.append(found.skipped.get(step))
    return rows.frame(SCORE_COLUMNS, value=values, skipped=skipped)


def curves_table(values: Iterable[Valued], examples: Sequence[Example]) -> pd.DataFrame:
    """The curves behind areas (and cascades), one row per example, step, method, metric and point."""
    rows, x, y = _Rows(examples), array("d"), array("d")
    for method, metric, i, found in values:
        for step, curve in found.curves.items():
            for point in curve:
                rows.add(i, step if found.per_step else None, method, metric)
                x.append(point[0])
                y.append(point[1])
    return rows.frame(CURVE_COLUMNS, x=x, y=y)


class _Rows:
    """The first columns of tables that may have millions of rows: numbers without objects, texts that are shared."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._names = _names(examples)
        self.example, self.step = array("q"), list[int | None]()
        self.token, self.method, self.metric = list[str | None](), list[str](), list[str]()

    def add(self, i: int, step: int | None, method: str, metric: str) -> None:
        self.example.append(i)
        self.step.append(step)
        self.token.append(None if step is None else self._names[i][step])
        self.method.append(method)
        self.metric.append(metric)

    def frame(self, names: Sequence[str], **more: Any) -> pd.DataFrame:
        import numpy as np
        import pandas as pd

        columns = {
            "example": np.array(self.example, dtype="int64"),
            "step": pd.array(self.step, dtype="Int64"),
            "token": self.token,
            "method": self.method,
            "metric": self.metric,
        }
        arrays = {name: np.array(v, dtype="float64") if isinstance(v, array) else v for name, v in more.items()}
        return pd.DataFrame({**columns, **arrays}, columns=list(names))


def _names(examples: Sequence[Example]) -> list[list[str]]:
    """What each step of each example is called: the text of its token, or of its span."""
    return [[token.text for token in step_tokens(example)] for example in examples]


def step_scores_table(step_scores: Iterable[StepScores], examples: Sequence[Example]) -> pd.DataFrame:
    """One row per example, step and step function."""
    import pandas as pd

    texts = _names(examples)
    rows = [
        (i, step, texts[i][step], scores.name, value, scores.unit)
        for scores in step_scores
        for i, values in enumerate(scores.values)
        for step, value in enumerate(values)
    ]
    frame = pd.DataFrame(rows, columns=list(STEP_COLUMNS))
    return frame.astype({"example": "int64", "step": "int64", "value": "float64"})
