"""Two evaluations in an MLflow store, one of them the baseline; and rules as MLflow's thresholds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from attriflow.errors import InputError, UnknownNameError, unknown
from attriflow.registry import metrics as metric_registry
from attriflow.regression.rules import Rules
from attriflow.regression.verdicts import REGRESSION, UNTESTED, Scores, Verdict, absent, judge_costs, judge_scores, new
from attriflow.tracking.evaluations import EvaluationRun, RunTables, example_values, find_runs, read_all, store_errors
from attriflow.tracking.stored import EvaluationStore

if TYPE_CHECKING:
    from mlflow.models import MetricThreshold

FEWEST, LONG = 3, 10.0
"""A cost is judged from so many timings, or from one that took so many seconds."""
_Rows = Mapping[str, Mapping[str, Any]]


def check_runs(baseline: str, run: str, rules: Rules, tracking_uri: str | None = None) -> list[Verdict]:
    """Judge an evaluation by another one.

    Args:
        baseline, run: Ids of the runs.
        rules: Limits.
        tracking_uri: The store; MLflow's own setting by default.

    Raises:
        InputError: There are no such evaluations, or they explained different inputs.
    """
    store = EvaluationStore(tracking_uri)
    with store_errors(store.uri):
        before, after = (_one(store, name) for name in (baseline, run))
        _check_comparable(before, after, rules)
        _, tables = read_all(store.uri, [before, after])
    old, now = ({row["method"]: row for row in table.leaderboard} for table in tables)
    _check_names(rules, tables)
    gone = [
        absent(name, "quality", float("nan"), rules.missing == "fail", _why(now.get(name)))
        for name, row in old.items()
        if row["status"] != "failed" and now.get(name, {"status": "failed"})["status"] == "failed"
    ]
    added = [new(name, "quality", float("nan")) for name in now if name not in old]
    both = {
        name for name in old if all(rows.get(name, {"status": "failed"})["status"] != "failed" for rows in (old, now))
    }
    scores, without = _scores(tables, [name for name in old if name in both], rules.coverage)
    missing = [absent(name, "quality", mean, rules.missing == "fail", why) for name, (mean, why) in without.items()]
    costs = judge_costs(_costs(before, old, both), _costs(after, now, both), rules)
    costs = [_if_long_enough(v, [(before, old), (after, now)]) for v in costs]
    return [*gone, *missing, *added, *costs, *judge_scores(scores, rules)]


def _one(store: EvaluationStore, name: str) -> EvaluationRun:
    """The evaluation of a run; one that has several must be named."""
    found = find_runs(store.client, run_ids=[name])
    if len(found) > 1:
        names = ", ".join(f"{r.run_id}/{r.folder.rpartition('/')[2]}" for r in found if r.folder)
        raise InputError(f"run {name} has {len(found)} evaluations: name one of them, such as {names}")
    return found[0]


def _check_comparable(before: EvaluationRun, after: EvaluationRun, rules: Rules) -> None:
    """Examples can be paired only when both runs are of the same evaluation; what the runs do not tell is not asked."""
    differ = [what for what in before.rows if what in after.rows and before.rows[what] != after.rows[what]]
    told = "targets" in before.rows and "targets" in after.rows  # runs of older versions tell of inputs only
    differ += [what for what in ("evidence", "foils") if told and (what in before.rows) != (what in after.rows)]
    if rules.model == "same" and before.weights and after.weights and before.weights != after.weights:
        differ.append("weights")
    if differ:
        hint = "; 'model: any' in the rules compares models, too" if differ == ["weights"] else ""
        raise InputError(
            f"the runs {before.run_id} ({before.model}, {before.data}) and {after.run_id} "
            f"({after.model}, {after.data}) explained different {', '.join(differ)}: "
            f"their examples cannot be paired{hint}"
        )
    if before.shared != after.shared:
        raise InputError(f"the runs explained different functions: {before.shared} and {after.shared}")
    options = [r.setting("metric_options") for r in (before, after)]
    if options[0] != options[1]:
        raise InputError(f"the runs have different options of metrics: {options[0]} and {options[1]}")
    changed = [m for m, given in before.methods.items() if after.methods.get(m, given) != given]
    if changed:
        found = "; ".join(f"{m}: {before.methods[m]} and {after.methods[m]}" for m in changed)
        raise InputError(f"the runs have different options of methods: {found}")


def _check_names(rules: Rules, tables: Iterable[RunTables]) -> None:
    known = {metric for table in tables for metric in table.metrics}
    for name in rules.metrics:
        if name not in known:
            raise UnknownNameError(unknown("metric in the rules", name, known))


def _why(row: Mapping[str, Any] | None) -> str:
    return "" if row is None else f"it failed: {row.get('reason') or 'no reason given'}"


def _costs(run: EvaluationRun, rows: _Rows, names: set[str]) -> dict[str, tuple[float, ...]]:
    """Forward-pass equivalents of each round, or their median where the run tells no more."""
    medians = {name: row.get("forward_equivalents") for name, row in rows.items() if name in names}
    known = {name: value for name, value in medians.items() if value is not None}
    return {name: tuple(map(float, run.cost_rounds.get(name) or [value])) for name, value in known.items()}


def _if_long_enough(verdict: Verdict, sides: Sequence[tuple[EvaluationRun, _Rows]]) -> Verdict:
    """A verdict that rests on a few short timings is none: other programs can slow down a second twofold."""
    if verdict.outcome != REGRESSION:
        return verdict
    for run, rows in sides:
        rounds, seconds = len(run.cost_rounds.get(verdict.name, [])), rows[verdict.name].get("seconds") or 0.0
        if rounds < FEWEST and seconds < LONG:
            why = f"but {max(rounds, 1)} timing of {seconds:.2g} s says too little; attriflow benchmark measures more"
            return replace(verdict, outcome=UNTESTED, failed=False, message=f"{verdict.message}, {why}")
    return verdict


def _scores(
    tables: list[RunTables], methods: list[str], coverage: float
) -> tuple[list[Scores], dict[str, tuple[float, str]]]:
    """What both runs have values for; and method/metric -> mean of what the second one lacks, and how much it lacks."""
    values = example_values(tables)
    values = values[values["method"].isin(methods)]
    wide = values.pivot(index="example", columns=["run", "method", "metric"], values="value")
    empty = pd.Series(np.nan, index=wide.index)
    higher = directions({m: h for table in tables for m, h in table.directions.items()})
    out, gone = list[Scores](), dict[str, tuple[float, str]]()
    for method in methods:
        for metric in tables[0].metrics:
            before, after = (wide.get((i, method, metric), empty) for i in range(2))
            if metric not in higher or before.isna().all():
                continue
            kept, known = int((before.notna() & after.notna()).sum()), int(before.notna().sum())
            if kept < coverage * known or not kept:
                why = f"{kept} of its {known} examples have a value" if kept else ""
                gone[f"{method}/{metric}"] = float(before.mean()), why
                continue
            sides = {"baseline": before.to_numpy(float), "current": after.to_numpy(float)}
            out.append(Scores(method=method, metric=metric, higher_is_better=higher[metric], **sides))
    return out, gone


def directions(noted: Mapping[str, bool]) -> dict[str, bool]:
    """Metric -> whether higher is better: as the registry knows it, else as the runs noted it."""
    out = dict(noted)
    for name in noted:
        part = metric_registry.known(name)
        if part is not None and isinstance(part.meta["higher_is_better"], bool):
            out[name] = part.meta["higher_is_better"]
    return out


def thresholds(
    rules: Rules, candidate: Mapping[str, float], baseline: Mapping[str, float] | None = None, *, speed: bool = False
) -> dict[str, MetricThreshold]:
    """Rules as what `mlflow.validate_evaluation_results` takes.

    MLflow compares single numbers, so noise counts as much as a drop: for that, there is `attriflow check`.

    Args:
        rules: Limits; those that nothing has are left out.
        candidate: Metrics of the evaluation to judge (`result.metrics`), named method/metric.
        baseline: Metrics of the baseline; without them, only `min_value` and `max_value` count.
        speed: Limit costs as well; only for evaluations that take long, as MLflow knows no spread.
    """
    from mlflow.models import MetricThreshold

    found = {}
    for name in [*candidate, *(n for n in baseline or {} if n not in candidate)]:
        method, _, metric = name.rpartition("/")
        before = (baseline or {}).get(name)
        if metric == "forward_equivalents":
            most, slack = rules.speed(method)
            if speed and most is not None and before is not None:
                limit = max(most * before, before + slack)
                found[name] = MetricThreshold(threshold=float(limit), greater_is_better=False)
            continue
        higher = _direction(metric)
        if not method or higher is None:
            continue
        drop, bound = rules.quality(method, metric, higher)
        worst = [] if bound is None else [float(bound)]
        if drop is not None and before is not None:
            worst.append(before - drop if higher else before + drop)
        if worst:
            limit = max(worst) if higher else min(worst)
            found[name] = MetricThreshold(threshold=float(limit), greater_is_better=higher)
    return found


def _direction(metric: str) -> bool | None:
    part = metric_registry.known(metric)
    known = None if part is None else part.meta["higher_is_better"]
    return known if isinstance(known, bool) else None
