"""What a leaderboard compares, from evaluations in an MLflow store."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from attriflow.evaluation.families import FAITHFUL, families
from attriflow.statistics.standings import CELLS, COSTS, EXAMPLES, Evaluated
from attriflow.tracking.evaluations import EvaluationRun, RunTables, example_values, nothing, read_all
from attriflow.tracking.foreign import options_of_metrics


@dataclass(frozen=True, kw_only=True)
class Gathered(Evaluated):
    """What a leaderboard compares, and the evaluations that it is from."""

    runs: tuple[EvaluationRun, ...]


def gather(uri: str, found: Sequence[EvaluationRun], *, gates: bool = True, notes: list[str] | None = None) -> Gathered:
    """What a leaderboard compares, from evaluations of a store (the latest first).

    A model is known by its name and its weights: of several with one name, each is a version. The same method with the
    same options on the same model and rows counts once, as it was found latest, and has the metrics of all such runs;
    with several seeds, the values of an example are averaged over them. Other options, or another attributed function,
    make another row.

    Args:
        uri: The store.
        found: What to compare.
        gates: Whether methods that failed a gate in their evaluation have no rank.
        notes: What is known about runs that are not among these; gets a line for each that cannot be read, which is
            left out.

    Raises:
        InputError: A run cannot be read, without `notes`; or none is left.
    """
    runs, tables = read_all(uri, found, notes)
    if not runs:
        raise nothing("no evaluation can be compared", notes or ())
    models, versions = _models(runs)
    rows = _rows(runs, models)
    parts = _parts(runs, tables, models)
    labels = _labels(parts)
    names = {(part.index, part.method): labels[part.key] for part in parts}
    taken = pd.DataFrame(
        [(part.index, part.method, metric) for part in parts for metric in part.metrics],
        columns=["run", "method", "metric"],
    )
    values = _named(example_values(tables).merge(taken, on=["run", "method", "metric"]), names, models, rows)
    cells, missing, problems = _cells(
        parts, tables, names, models, rows, set(zip(values["run"], values["method"], values["metric"], strict=True))
    )
    higher: dict[str, bool] = {}
    for table in tables:
        higher |= {k: v for k, v in table.directions.items() if k not in higher}
    everything = pd.concat([values[list(EXAMPLES)], missing], ignore_index=True)
    seeds = values.assign(seed=[runs[i].seed for i in values["run"]])
    several = seeds.groupby(["model", "inputs", "method", "metric"])["seed"].transform("nunique") > 1
    used = [runs[i] for i in sorted({part.index for part in parts})]
    kinds = families(everything["metric"].unique(), _options(used))
    return Gathered(
        runs=tuple(runs),
        cells=_merged(cells)[list(CELLS)],
        examples=everything.groupby(list(EXAMPLES[:-1]), sort=False, observed=True)["value"].mean().reset_index(),
        problems=problems,
        seeded=seeds.loc[several, [*EXAMPLES, "seed"]],
        gated=_gated(parts, tables, labels, models, rows) if gates else {},
        alike=_alike(parts, tables, names, models, rows),
        own=_own(parts, tables, names, models, rows),
        faithful=[metric for metric, family in kinds.items() if family in FAITHFUL],
        higher_is_better=higher,
        families=kinds,
        notes=(*_notes(runs, used), *versions, *(notes or ())),
    )


def _models(runs: Sequence[EvaluationRun]) -> tuple[list[str], list[str]]:
    """Names of the runs' models, with a version where others of the name have other weights; and what to say of it."""
    found: dict[str, list[str]] = {}
    for run in reversed(runs):  # the oldest first
        known = found.setdefault(run.model, [])
        if run.weights and run.weights not in known:
            known.append(run.weights)
    several = {name: weights for name, weights in found.items() if len(weights) > 1}
    names = [
        f"{run.model} (version {several[run.model].index(run.weights) + 1})"
        if run.model in several and run.weights
        else run.model
        for run in runs
    ]
    notes = [
        f"{name}: {len(weights)} models of this name have different weights; their versions are numbered from the "
        "oldest evaluation."
        for name, weights in several.items()
    ]
    return names, notes


def _rows(runs: Sequence[EvaluationRun], models: Sequence[str]) -> list[str]:
    """Keys of the runs' rows. One model may have generated other targets each time, and explained those."""
    written: dict[tuple[str, str], set[str]] = {}
    for run, model in zip(runs, models, strict=True):
        written.setdefault((model, run.inputs), set()).add(json.dumps(run.rows))
    apart = {key for (_, key), found in written.items() if len(found) > 1}
    return [json.dumps(run.rows) if run.inputs in apart else run.inputs for run in runs]


@dataclass(frozen=True)
class _Part:
    """One method of one run, and the metrics that are taken from there; `latest`: none of its runs is later."""

    run: EvaluationRun
    index: int
    method: str
    options: str
    metrics: tuple[str, ...]
    latest: bool

    @property
    def key(self) -> tuple[str, str, str]:
        return self.method, self.options, self.run.shared


def _parts(runs: Sequence[EvaluationRun], tables: Sequence[RunTables], models: Sequence[str]) -> list[_Part]:
    """Of each method, options, model, rows and seed the latest run, and earlier ones for metrics that it lacks."""
    taken: dict[tuple[str, ...], set[str] | None] = {}  # None: it failed, and what it was before is another matter
    out = []
    for index, (run, table, model) in enumerate(zip(runs, tables, models, strict=True)):
        status = {row["method"]: row["status"] for row in table.leaderboard}
        for method, options in run.methods.items():
            key = (model, json.dumps(run.rows), run.shared, run.seed, method, options)
            latest, known, ok = key not in taken, taken.get(key, set()), status.get(method, "failed") != "failed"
            own = tuple(m for m in table.metrics if known is not None and m not in known)
            if latest or (ok and own):
                out.append(_Part(run, index, method, options, own, latest))
                taken[key] = {*(known or ()), *own} if ok else None
    return out


def _labels(parts: Iterable[_Part]) -> dict[tuple[str, str, str], str]:
    """Names of rows: the method, with what sets it apart from other rows of the same method."""
    keys = list(dict.fromkeys(part.key for part in parts))
    labels = {}
    for method, options, shared in keys:
        others = [k for k in keys if k[0] == method]
        marks = []
        if len({k[2] for k in others}) > 1:
            marks += _different(shared, [k[2] for k in others])
        if len({k[1] for k in others}) > 1:
            marks += _different(options, [k[1] for k in others])
        labels[method, options, shared] = f"{method} ({', '.join(marks)})" if marks else method
    return labels


def _different(own: str, all_: Sequence[str]) -> list[str]:
    """`name=value` of the settings in which some differ."""
    mine, others = json.loads(own), [json.loads(text) for text in all_]
    names = sorted({name for other in others for name in other if other[name] != mine.get(name, None)} | set(mine))
    differing = [n for n in names if len({json.dumps(o.get(n), sort_keys=True) for o in others}) > 1]
    shown = [(n, mine.get(n)) for n in differing]
    texts = [f"{n}={v if isinstance(v, str) else json.dumps(v)}" for n, v in shown if v is not None]
    return texts or ["defaults"]


def _named(
    values: pd.DataFrame,
    names: Mapping[tuple[int, str], str],
    models: Sequence[str],
    rows: Sequence[str],
) -> pd.DataFrame:
    """Values of the methods that count, with their labels, models and inputs."""
    keys = pd.DataFrame(
        [(i, method, label, models[i], rows[i]) for (i, method), label in names.items()],
        columns=["run", "method", "label", "model", "inputs"],
    )
    found = values.merge(keys, on=["run", "method"])
    return found.drop(columns="method").rename(columns={"label": "method"})


def _cells(
    parts: Sequence[_Part],
    tables: Sequence[RunTables],
    names: Mapping[tuple[int, str], str],
    models: Sequence[str],
    inputs: Sequence[str],
    known: set[tuple[int, str, str]],
) -> tuple[pd.DataFrame, pd.DataFrame, dict[tuple[str, str, str, str], str]]:
    """Methods of the runs, metrics that were asked for without any value, and why they have none."""
    cells, missing = list[dict[str, Any]](), list[tuple[str, str, str, str, int, float]]()
    problems = dict[tuple[str, str, str, str], str]()
    rows = [{row["method"]: row for row in table.leaderboard} for table in tables]
    for part in parts:
        row, run = rows[part.index].get(part.method), part.run
        place = models[part.index], inputs[part.index]
        if row is None:
            continue
        name = names[part.index, part.method]
        ok, reason = row["status"] != "failed", str(row.get("reason") or "")
        own = {"model": place[0], "inputs": place[1], "data": run.data, "method": name}
        own |= {"family": str(row.get("family") or ""), "status": "ok" if ok else "failed"}
        # a run that only adds metrics is no second measurement of the costs
        costs = {cost: _number(row.get(cost)) if part.latest else math.nan for cost in COSTS}
        cells.append({**own, "reason": "" if ok else reason, **costs})
        for metric in part.metrics:
            if (part.index, name, metric) not in known:
                missing.append((*place, name, metric, -1, math.nan))
                if ok:
                    problems[place[0], place[1], name, metric] = _problem(reason, metric)
    gaps = pd.DataFrame(missing, columns=list(EXAMPLES)).astype({"example": "int64", "value": "float64"})
    return pd.DataFrame(cells), gaps, problems


def _gated(
    parts: Sequence[_Part],
    tables: Sequence[RunTables],
    labels: Mapping[tuple[str, str, str], str],
    models: Sequence[str],
    inputs: Sequence[str],
) -> dict[tuple[str, str, str], str]:
    """Gates that a method does not pass, as its latest run with any seed found it."""
    out: dict[tuple[str, str, str], str] = {}
    for part in parts:
        found = {row["method"]: str(row.get("gates_failed") or "") for row in tables[part.index].leaderboard}
        out.setdefault((models[part.index], inputs[part.index], labels[part.key]), found.get(part.method, ""))
    return {place: why for place, why in out.items() if why}


def _own(
    parts: Sequence[_Part],
    tables: Sequence[RunTables],
    names: Mapping[tuple[int, str], str],
    models: Sequence[str],
    inputs: Sequence[str],
) -> dict[tuple[str, str, str], set[str]]:
    """Metrics that replace tokens as a method does, each as the run says that its values are from."""
    out: dict[tuple[str, str, str], set[str]] = {}
    for part in parts:
        told = {row["method"]: str(row.get("scored_by_own") or "") for row in tables[part.index].leaderboard}
        own = {*told.get(part.method, "").split(", ")} & {*part.metrics}
        place = models[part.index], inputs[part.index], names[part.index, part.method]
        out.setdefault(place, set()).update(own)
    return out


def _alike(
    parts: Sequence[_Part],
    tables: Sequence[RunTables],
    names: Mapping[tuple[int, str], str],
    models: Sequence[str],
    inputs: Sequence[str],
) -> dict[tuple[str, str, str], str]:
    """Rows that explained as another one of their run did, in all of their runs: that one."""
    homes: dict[tuple[str, str, str], set[str]] = {}
    for part in parts:
        same = {row["method"]: str(row.get("same_as") or "") for row in tables[part.index].leaderboard}
        home = names.get((part.index, same.get(part.method, "")), "")
        homes.setdefault((models[part.index], inputs[part.index], names[part.index, part.method]), set()).add(home)
    return {place: home for place, found in homes.items() if len(found) == 1 and (home := next(iter(found)))}


def _problem(reasons: str, metric: str) -> str:
    """The part of "metric: why; metric: why" that is about a metric."""
    _, found, rest = f"; {reasons}".partition(f"; {metric}: ")
    return rest.split("; ")[0] if found else "no value for any example"


def _merged(cells: pd.DataFrame) -> pd.DataFrame:
    """One row per model, inputs and method: several seeds have mean costs, and failed only if all of them did."""
    keys = ["model", "inputs", "method"]
    ordered = cells.sort_values("status", ascending=False, kind="stable")  # "ok" before "failed"
    first = ordered.groupby(keys, sort=False, as_index=False).first()
    costs = ordered.groupby(keys, sort=False, as_index=False)[list(COSTS)].mean()
    return first.drop(columns=list(COSTS)).merge(costs, on=keys)


def _options(runs: Sequence[EvaluationRun]) -> dict[str, dict[str, Any]]:
    """Options of metrics that were given, the latest run's first."""
    found: dict[str, dict[str, Any]] = {}
    for run in reversed(runs):
        found |= options_of_metrics(run.setting("metric_options"))
    return found


def _notes(runs: Sequence[EvaluationRun], used: Sequence[EvaluationRun]) -> tuple[str, ...]:
    notes = []
    if len(runs) > len(used):
        notes.append(
            f"{len(runs) - len(used)} of {len(runs)} runs do not count: later ones evaluated the same methods and "
            "metrics with the same options and seed on the same model and rows."
        )
    options = {run.setting("metric_options") for run in used} - {""}
    if len(options) > 1:
        notes.append(
            f"The runs have different options of metrics, whose values differ for that: {'; '.join(sorted(options))}"
        )
    return tuple(notes)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
