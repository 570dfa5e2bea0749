"""What a leaderboard compares, from evaluations in an MLflow store."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from attriflow.errors import UnknownNameError
from attriflow.registry import metrics as metric_registry
from attriflow.statistics.standings import CELLS, COSTS, EXAMPLES, Evaluated
from attriflow.tracking.evaluations import EvaluationRun, RunTables, example_values, read_all


def gather(uri: str, runs: Sequence[EvaluationRun]) -> Evaluated:
    """What a leaderboard compares, from evaluations (the latest first).

    A model is known by its name. The same method with the same options on the same model and inputs counts once, as it
    was found latest; with several seeds, the values of an example are averaged over them. Other options, or another
    attributed function, make another row.
    """
    parts = _parts(runs)
    used = list({part.run.run_id: part.run for part in parts}.values())
    tables = read_all(uri, used)
    labels = _labels(parts)
    index = {run.run_id: i for i, run in enumerate(used)}
    names = {(index[part.run.run_id], part.method): labels[part.key] for part in parts}
    values = _named(example_values(tables), names, used)
    cells, missing, problems = _cells(
        tables, names, used, set(zip(values["run"], values["method"], values["metric"], strict=True))
    )
    higher: dict[str, bool] = {}
    for table in tables:
        higher |= {k: v for k, v in table.directions.items() if k not in higher}
    everything = pd.concat([values[list(EXAMPLES)], missing], ignore_index=True)
    return Evaluated(
        cells=_merged(cells)[list(CELLS)],
        examples=everything.groupby(list(EXAMPLES[:-1]), sort=False, observed=True)["value"].mean().reset_index(),
        problems=problems,
        higher_is_better=higher,
        families=_families(everything["metric"].unique()),
        notes=_notes(runs, used),
    )


@dataclass(frozen=True)
class _Part:
    """One method of one run."""

    run: EvaluationRun
    method: str
    options: str

    @property
    def key(self) -> tuple[str, str, str]:
        return self.method, self.options, self.run.shared


def _parts(runs: Sequence[EvaluationRun]) -> list[_Part]:
    """The latest of each method, options, model, inputs and seed."""
    found: dict[tuple[str, ...], _Part] = {}
    for run in runs:
        for method, options in run.methods.items():
            found.setdefault(
                (run.model, run.inputs, run.shared, run.seed, method, options), _Part(run, method, options)
            )
    return list(found.values())


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


def _named(values: pd.DataFrame, names: Mapping[tuple[int, str], str], runs: Sequence[EvaluationRun]) -> pd.DataFrame:
    """Values of the methods that count, with their labels, models and inputs."""
    keys = pd.DataFrame(
        [(i, method, label, runs[i].model, runs[i].inputs) for (i, method), label in names.items()],
        columns=["run", "method", "label", "model", "inputs"],
    )
    found = values.merge(keys, on=["run", "method"])
    return found.drop(columns="method").rename(columns={"label": "method"})


def _cells(
    tables: Sequence[RunTables],
    names: Mapping[tuple[int, str], str],
    runs: Sequence[EvaluationRun],
    known: set[tuple[int, str, str]],
) -> tuple[pd.DataFrame, pd.DataFrame, dict[tuple[str, str, str, str], str]]:
    """Methods of the runs, metrics that were asked for without any value, and why they have none."""
    cells, missing = list[dict[str, Any]](), list[tuple[str, str, str, str, int, float]]()
    problems = dict[tuple[str, str, str, str], str]()
    for i, (run, table) in enumerate(zip(runs, tables, strict=True)):
        for row in table.leaderboard:
            name = names.get((i, row["method"]))
            if name is None:
                continue
            ok, reason = row["status"] == "ok", str(row.get("reason") or "")
            own = {"model": run.model, "inputs": run.inputs, "data": run.data, "method": name}
            own |= {"family": str(row.get("family") or ""), "status": "ok" if ok else "failed"}
            costs = {cost: _number(row.get(cost)) for cost in COSTS}
            cells.append({**own, "reason": "" if ok else reason, **costs})
            for metric in table.metrics:
                if (i, name, metric) not in known:
                    missing.append((run.model, run.inputs, name, metric, -1, math.nan))
                    if ok:
                        problems[run.model, run.inputs, name, metric] = _problem(reason, metric)
    gaps = pd.DataFrame(missing, columns=list(EXAMPLES)).astype({"example": "int64", "value": "float64"})
    return pd.DataFrame(cells), gaps, problems


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


def _families(names: Iterable[str]) -> dict[str, str]:
    """Families of metrics; empty for metrics that are not installed here."""
    found = {}
    for name in names:
        try:
            found[name] = metric_registry.info(name).meta["family"]
        except UnknownNameError:
            found[name] = ""
    return found


def _notes(runs: Sequence[EvaluationRun], used: Sequence[EvaluationRun]) -> tuple[str, ...]:
    notes = []
    if len(runs) > len(used):
        notes.append(
            f"{len(runs) - len(used)} of {len(runs)} runs do not count: later ones evaluated the same methods with the "
            "same options and seed on the same model and inputs."
        )
    options = {run.setting("metric_options") for run in used} - {""}
    if len(options) > 1:
        notes.append(
            f"The runs have different options of metrics, whose values differ for that: {'; '.join(sorted(options))}"
        )
    return tuple(notes)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
