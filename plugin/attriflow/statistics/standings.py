"""Leaderboards over many evaluations: means with intervals, places, pairwise tests, costs, who failed and why.

What is compared are rows: methods, models, or methods within each model. A *block* is what rows compete in: a model and
its data for methods, a method and its data for models. Examples are what was sampled: an example that occurs in several
blocks (the same text explained for several models) counts once, with the mean of its values.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from attriflow.errors import check_choice
from attriflow.statistics import contests
from attriflow.statistics.gates import examples_to_tell
from attriflow.statistics.inference import bootstrap_intervals, holm, permutation_p_values, two_level_interval
from attriflow.statistics.ranking import FLOOR, NOT_APPLICABLE

BY = ("method", "model", "both")
COSTS = ("seconds", "target_tokens_per_second", "forward_equivalents", "peak_memory_mb")
LEVEL = 0.05
"""Below this adjusted p-value a difference is a win or a loss."""
MOST_ROWS = 40
"""All pairs are tested up to this many rows in a group: more pairs than that, corrected for, leave nothing to find."""
SUFFIXES = ("_low", "_high", "_n", "_place")
"""What there is per metric beside its mean."""
CELLS = ("model", "inputs", "data", "method", "family", "status", "reason", *COSTS)
EXAMPLES = ("model", "inputs", "method", "metric", "example", "value")
PAIRS = ("group", "metric", "a", "b", "difference", "n", "p", "p_holm", "winner", "untested")
FAILURES = ("row", "model", "method", "metric", "reason")


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """What was measured, whatever store it came from.

    Attributes:
        cells: One row per model, data and method: the columns `CELLS`; `inputs` identifies the inputs, `data` names
            them.
        examples: One row per cell, metric and example: the columns `EXAMPLES`. Where a metric was asked for and has no
            value at all (or the method failed), there is one row without a value.
        problems: (model, inputs, method, metric) -> why a metric has no value in a cell.
        seeded: The values of methods that were run with several seeds, one row per seed: the columns `EXAMPLES` and
            `seed`. `examples` has their means.
        gated: (model, inputs, method) -> gates that it does not pass there; such a cell has no place.
        alike: (model, inputs, method) -> an earlier method with the same explanations there.
        own: (model, inputs, method) -> faithfulness metrics that replace tokens as the method does.
        faithful: All faithfulness metrics.
        higher_is_better: Metric -> direction; metrics without one are shown, not ranked.
        families: Metric -> family.
        notes: What a reader should know.
    """

    cells: pd.DataFrame
    examples: pd.DataFrame
    problems: Mapping[tuple[str, str, str, str], str] = field(default_factory=dict)
    seeded: pd.DataFrame | None = None
    gated: Mapping[tuple[str, str, str], str] = field(default_factory=dict)
    alike: Mapping[tuple[str, str, str], str] = field(default_factory=dict)
    own: Mapping[tuple[str, str, str], Collection[str]] = field(default_factory=dict)
    faithful: Sequence[str] = ()
    higher_is_better: Mapping[str, bool] = field(default_factory=dict)
    families: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Standings:
    """A leaderboard.

    Attributes:
        by: What a row is: "method", "model" or "both".
        rows: One row per method, model or both, best first: `group` (rows are compared within it), `row` (its name in
            the group), `label`, `model`, `method`, `family`, `status` ("ok", "partial", "gated" or "failed"),
            `reason`, `gates_failed`, `rank`
            (mean place over blocks and families of metrics, 1 is best), `rank (FAMILY)`, `same_as` (the row whose place
            it shares, as it explains the same), `scored_by_own` and `places_gained` (faithfulness metrics that replace
            tokens as the method does, and by how many places it is better on them), `blocks` and `of_blocks`,
            `wins`, `ties`, `losses`, `pareto`, per metric `NAME`, `NAME_low`, `NAME_high` (interval), `NAME_n`
            (examples), `NAME_place` (mean place on single examples), `NAME_seed_sd` (standard deviation of the means of
            several seeds, whose intervals are over seeds and examples), and the costs.
        pairs: Every test: the columns `PAIRS`; `difference` is the mean of a - b, `winner` is "" for a tie, and for
            what is `untested`.
        failures: Cells without a value: the columns `FAILURES`; an empty metric stands for all.
        metrics: Metrics, grouped by family.
        higher_is_better, families: Of the metrics.
        notes: What a reader should know.
    """

    by: str
    rows: pd.DataFrame
    pairs: pd.DataFrame
    failures: pd.DataFrame
    metrics: tuple[str, ...]
    higher_is_better: Mapping[str, bool]
    families: Mapping[str, str]
    notes: tuple[str, ...]

    def by_family(self) -> pd.DataFrame:
        """One row per group and family of methods: how many, their mean rank, the best of them."""
        known = self.rows[self.rows["rank"].notna() & (self.rows["method"] != "")]
        found = []
        for (group, family), part in known.groupby(["group", "family"], sort=False):
            best = part.loc[part["rank"].idxmin()]
            found.append(
                {"group": group, "family": family, "methods": len(part), "rank": part["rank"].mean()}
                | {"best": best["method"], "best_rank": best["rank"]}
            )
        frame = pd.DataFrame(found, columns=["group", "family", "methods", "rank", "best", "best_rank"])
        return frame.sort_values(["group", "rank"], kind="stable", ignore_index=True)


def standings(found: Evaluated, by: str = "method", *, seed: int = 0, floor: float = FLOOR) -> Standings:
    """Compare everything that can be compared.

    Means are over examples. Intervals: percentile bootstrap over examples, 95%. Places are given within each block in
    the metric's own direction; ranks are means of places within families of metrics, and over families. A row that
    lacks values is "partial" and has no rank, see `attriflow.statistics.ranking`. Wins and losses: paired permutation
    tests on the examples that both rows have in the same blocks, p-values adjusted (Holm) for all pairs of a metric in
    a group. Where no difference, however large, could have been a win with so few examples, pairs are `untested`.

    Args:
        found: What was measured.
        by: What a row is.
        seed: For resampling; the same seed gives the same leaderboard.
        floor: Share of a metric's examples that a row must have values for.
    """
    check_choice("grouping", by, BY)
    cells, examples = _keyed(found.cells, by), _keyed(found.examples, by)
    doubles = contests.double_blocks(cells, found.alike) if by == "model" else {}
    cells, examples = (t[~t["block"].isin(list(doubles))] for t in (cells, examples))
    metrics = _ordered(dict.fromkeys(examples["metric"]), found.families)
    table = _rows(cells)
    alike = contests.twins(cells, found.alike) if by != "model" else {}
    table["same_as"] = [alike.get(key, "") for key in zip(table["group"], table["row"], strict=True)]
    competing = examples
    if alike:
        competing = examples[[k not in alike for k in zip(examples["group"], examples["row"], strict=True)]]
    summaries = _summaries(examples, metrics, found.higher_is_better, seed, alike)
    table = table.merge(summaries, on=["group", "row"], how="left")
    if found.seeded is not None and len(found.seeded):
        seeded = _keyed(found.seeded, by)
        table = _over_seeds(table, seeded[~seeded["block"].isin(list(doubles))], seed)
    ranked, same = _ranks(competing, metrics, found, floor)
    table = table.merge(contests.with_twins(ranked, alike), on=["group", "row"], how="left")
    lacking = (table["partial"].fillna("") != "") & (table["status"] == "ok")
    table.loc[lacking, "status"] = "partial"
    table.loc[lacking, "reason"] = "values for " + table.loc[lacking, "partial"]
    table = _with_gates(table.drop(columns="partial"), cells, found)
    pairs, notes = _pairs(competing, [m for m in metrics if m in found.higher_is_better], found.higher_is_better, seed)
    table = table.merge(contests.with_twins(_record(table, pairs), alike), on=["group", "row"], how="left")
    table.loc[table["status"] == "failed", "rank"] = np.nan
    table["pareto"] = _pareto(table)
    table["order"] = pd.factorize(table["group"])[0]
    order = (
        table.assign(failed=table["status"] == "failed")
        .sort_values(["order", "failed", "rank", "label"], kind="stable", na_position="last")
        .index
    )
    return Standings(
        by=by,
        rows=table.loc[order].drop(columns="order").reset_index(drop=True),
        pairs=pairs,
        failures=_failures(cells, examples, found),
        metrics=tuple(metrics),
        higher_is_better={m: found.higher_is_better[m] for m in metrics if m in found.higher_is_better},
        families={m: found.families.get(m, "") for m in metrics},
        notes=(*found.notes, *_counted_once(doubles), *same, *notes, *_powerless(pairs), *_lone(table, by)),
    )


def _counted_once(doubles: Mapping[str, str]) -> list[str]:
    """Which methods are no blocks of their own."""
    return [f"{block}: explains as {home} does on every model, and counts with it." for block, home in doubles.items()]


def _keyed(table: pd.DataFrame, by: str) -> pd.DataFrame:
    """With the columns `group`, `row` and `block`."""
    own = table["model"] + " on " + table["inputs"]
    data = table["inputs"]
    if by == "method":
        return table.assign(group="", row=table["method"], block=own)
    if by == "model":
        return table.assign(group="", row=table["model"], block=table["method"] + " on " + data)
    return table.assign(group=own, row=table["method"], block=own)


def _ordered(metrics: Sequence[str] | Mapping[str, object], families: Mapping[str, str]) -> list[str]:
    """Metrics of a family side by side, in order of appearance."""
    first = {family: i for i, family in reversed(list(enumerate(families.get(m, "") for m in metrics)))}
    return sorted(metrics, key=lambda m: first[families.get(m, "")])


def _rows(cells: pd.DataFrame) -> pd.DataFrame:
    """One row per group and row: names, status, reasons, mean costs."""
    keys = ["group", "row"]
    own, ok, bad = cells.groupby(keys, sort=False), cells[cells["status"] == "ok"], cells[cells["reason"] != ""]
    # what not all cells of a row share is left open
    shared = {name: own[name].first().where(own[name].nunique() == 1, "") for name in ("model", "method", "family")}
    shared["data"] = own["data"].first().where(own["inputs"].nunique() == 1, "")
    out = pd.DataFrame(shared)
    out["reason"] = bad.groupby(keys)["reason"].agg(lambda reasons: "; ".join(dict.fromkeys(reasons)))
    out["reason"] = out["reason"].fillna("")
    out["blocks"] = ok.groupby(keys)["block"].nunique()
    out["blocks"] = out["blocks"].fillna(0).astype(int)
    out["status"] = np.where(out["blocks"] > 0, "ok", "failed")
    out[list(COSTS)] = ok.groupby(keys)[list(COSTS)].mean()
    out = out.reset_index()
    out["of_blocks"] = out["group"].map(cells.groupby("group")["block"].nunique())
    # the same model on several data sets needs the data's name as well
    several, sets = cells["model"].nunique() > 1, cells.groupby("model")["inputs"].nunique()
    out["label"] = [
        str(row) + (f" · {model}" if group and several else "") + (f" on {data}" if group and sets[model] > 1 else "")
        for group, row, model, data in zip(out["group"], out["row"], out["model"], out["data"], strict=True)
    ]
    first = ["group", "row", "label", "model", "data", "method", "family", "status", "reason", "blocks", "of_blocks"]
    return out[[*first, *COSTS]]


def _units(examples: pd.DataFrame) -> pd.DataFrame:
    """Mean over blocks of every example: one number per group, row, metric and example of the data."""
    keys = ["group", "row", "metric", "inputs", "example"]
    return examples.groupby(keys, sort=False, observed=True)["value"].mean().reset_index()


def _summaries(
    examples: pd.DataFrame,
    metrics: Sequence[str],
    higher: Mapping[str, bool],
    seed: int,
    alike: Collection[tuple[str, str]] = (),
) -> pd.DataFrame:
    """Per row and metric: mean, interval, number of examples, and mean place on single examples (not for `alike`)."""
    units = _units(examples).dropna(subset=["value"]).copy()
    grouped = units.groupby(["group", "row", "metric"], sort=False)["value"]
    lists = {key: values.to_numpy(float) for key, values in grouped}
    longest = max((len(v) for v in lists.values()), default=0)
    # gaps at the end only: columns with as many examples share their resamples
    table = np.full((longest, len(lists)), np.nan)
    for column, values in enumerate(lists.values()):
        table[: len(values), column] = values
    rows: dict[tuple[str, str], dict[str, float]] = {}
    sign = units["metric"].map(lambda m: -1.0 if higher.get(m, True) else 1.0).astype(float)
    units["place"] = (sign * units["value"]).round(12)  # equal values may be rounded apart
    if alike:
        units["place"] = units["place"].mask([k in alike for k in zip(units["group"], units["row"], strict=True)])
    rivals = units.groupby(["group", "metric", "inputs", "example"])["place"]
    units["place"] = rivals.rank(method="average").where(rivals.transform("count") > 1)  # alone, everybody is first
    places = units.groupby(["group", "row", "metric"], sort=False)["place"].mean()
    for (group, row, metric), interval in zip(lists, bootstrap_intervals(table, seed=seed), strict=True):
        numbers = {"": interval.mean, "_low": interval.low, "_high": interval.high, "_n": float(interval.n)}
        numbers["_place"] = float(places[group, row, metric])
        rows.setdefault((group, row), {}).update({f"{metric}{suffix}": v for suffix, v in numbers.items()})
    columns = [f"{metric}{suffix}" for metric in metrics for suffix in ("", *SUFFIXES)]
    found = pd.DataFrame([{"group": g, "row": r, **values} for (g, r), values in rows.items()])
    return found.reindex(columns=["group", "row", *columns])


def _ranks(
    examples: pd.DataFrame, metrics: Sequence[str], found: Evaluated, floor: float
) -> tuple[pd.DataFrame, list[str]]:
    """Mean place over families of metrics and blocks, and which metrics counted as one."""
    silent = {key for key, reason in found.problems.items() if NOT_APPLICABLE in reason}
    table, doubles = contests.ranked(
        examples,
        {m: found.higher_is_better[m] for m in metrics if m in found.higher_is_better},
        {m: found.families.get(m, "") for m in metrics},
        applies=lambda key: key not in silent,
        gated={key for key, why in found.gated.items() if why},
        own=found.own,
        faithful=found.faithful,
        floor=floor,
    )
    notes = [
        f"{', '.join(sorted(same))}: the values of {metric}, with which they count once."
        for metric, same in doubles.items()
    ]
    return table, notes


def _over_seeds(table: pd.DataFrame, seeded: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Intervals over seeds and examples where there are several seeds, and `NAME_seed_sd`, the spread of the means."""
    out = table.copy()
    places = {key: i for i, key in enumerate(zip(out["group"], out["row"], strict=True))}
    for (group, row, metric), part in seeded.groupby(["group", "row", "metric"], sort=False):
        wide = part.pivot_table(index="seed", columns=["inputs", "example"], values="value", aggfunc="mean")
        if len(wide) < 2:
            continue
        found, where = two_level_interval(wide.to_numpy(float), seed=seed), out.index[places[str(group), str(row)]]
        out.loc[where, [f"{metric}_low", f"{metric}_high"]] = found.low, found.high
        out.loc[where, f"{metric}_seed_sd"] = float(wide.mean(axis=1).std(ddof=1))
    return out


def _with_gates(table: pd.DataFrame, cells: pd.DataFrame, found: Evaluated) -> pd.DataFrame:
    """With `gates_failed`; rows that pass the gates nowhere have no rank and the status "gated"."""
    places = list(zip(cells["model"], cells["inputs"], cells["method"], strict=True))
    why = pd.Series([found.gated.get(place, "") for place in places], index=cells.index, dtype=object)
    shut: dict[tuple[str, str], list[str]] = {}
    for group, row, reason, status in zip(cells["group"], cells["row"], why, cells["status"], strict=True):
        if status == "ok":
            shut.setdefault((group, row), []).append(reason)
    reasons = [shut.get(key, [""]) for key in zip(table["group"], table["row"], strict=True)]
    out = table.assign(gates_failed=["; ".join(dict.fromkeys(r)) if all(r) else "" for r in reasons])
    gated = (out["gates_failed"] != "") & (out["status"] != "failed")
    out.loc[gated, "status"] = "gated"
    out.loc[gated, [c for c in out.columns if c == "rank" or c.startswith("rank (")]] = np.nan
    return out


def _powerless(pairs: pd.DataFrame) -> list[str]:
    """Metrics on which no pair could have been told apart, and how many examples could do so."""
    notes = []
    for (_, metric), part in pairs.groupby(["group", "metric"], sort=False):
        if part["untested"].all():
            notes.append(
                f"{metric}: {part['n'].max()} examples cannot tell any of {len(part)} pairs apart, however large the "
                f"difference; {examples_to_tell(len(part), LEVEL)} could. They count as untested, not as ties."
            )
    return list(dict.fromkeys(notes))


def _pairs(
    examples: pd.DataFrame, metrics: Sequence[str], higher: Mapping[str, bool], seed: int
) -> tuple[pd.DataFrame, list[str]]:
    """Every pair of rows of a group on every metric."""
    ranked = examples[examples["metric"].isin(list(metrics))].dropna(subset=["value"])
    keys = ["group", "metric", "row", "inputs", "example", "block"]
    values = ranked.groupby(keys, sort=False, observed=True)["value"].mean().reset_index()
    # numbers instead of names: there may be hundreds of groups
    codes = pd.DataFrame(
        {
            "metric": values["metric"].map({m: i for i, m in enumerate(metrics)}).astype(int),
            "unit": values.groupby(["inputs", "example"], sort=False).ngroup(),
            "block": pd.factorize(values["block"])[0],
            "value": values["value"].astype(float),
        }
    )
    found, crowded = list[pd.DataFrame](), False
    for group, places in values.groupby("group", sort=False).indices.items():
        row, names = pd.factorize(values["row"].to_numpy(object)[places])
        if len(names) > MOST_ROWS:
            crowded = True
        elif len(names) > 1:
            part = codes.iloc[places].assign(row=row)
            found.append(_group_pairs(str(group), part, np.asarray(names, dtype=object), metrics, higher, seed))
    note = (
        f"Wins and losses are counted among at most {MOST_ROWS} rows: with more, a correction for all pairs leaves "
        "nothing to find."
    )
    frame = pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=list(PAIRS))
    return frame, [note] if crowded else []


def _group_pairs(
    group: str, part: pd.DataFrame, names: np.ndarray, metrics: Sequence[str], higher: Mapping[str, bool], seed: int
) -> pd.DataFrame:
    """The pairs of one group; `part` has the codes of metrics, rows, examples (`unit`) and blocks of every value."""
    first, second = np.triu_indices(len(names), 1)
    differences = _differences(part, len(metrics), first, second)  # [metric, pair, example]
    n_pairs = len(first)
    draws = max(2000, 100 * n_pairs)  # an adjusted p-value must be able to fall below the level
    flat = differences.reshape(-1, differences.shape[-1])
    p_values = permutation_p_values(flat, n=draws, seed=seed)
    counts = (~np.isnan(flat)).sum(-1)
    means = np.nansum(flat, -1) / np.maximum(counts, 1)
    adjusted = np.concatenate([holm(p) for p in p_values.reshape(len(metrics), n_pairs)])
    sign = np.repeat([1 if higher[m] else -1 for m in metrics], n_pairs)
    tests = (counts > 0).reshape(len(metrics), n_pairs).sum(1)
    a, b = np.tile(names[first], len(metrics)), np.tile(names[second], len(metrics))
    frame = pd.DataFrame(
        {
            "group": group,
            "metric": np.repeat(np.asarray(metrics, dtype=object), n_pairs),
            "a": a,
            "b": b,
            "difference": means,
            "n": counts,
            "p": p_values,
            "p_holm": adjusted,
            "winner": np.where(adjusted < LEVEL, np.where(sign * means > 0, a, b), ""),
            "untested": counts < np.repeat([examples_to_tell(int(t), LEVEL) for t in tests], n_pairs),
        }
    )
    return frame[counts > 0]


def _differences(part: pd.DataFrame, n_metrics: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """`[metric, pair, example]`: differences within blocks, then the mean over the blocks of an example."""
    unit, block = part["unit"].to_numpy(), part["block"].to_numpy()
    keys, column = np.unique(unit * (block.max() + 1) + block, return_inverse=True)
    units = keys // (block.max() + 1)
    table = np.full((n_metrics, int(second.max()) + 1, len(keys)), np.nan)
    table[part["metric"].to_numpy(), part["row"].to_numpy(), column.reshape(-1)] = part["value"].to_numpy()
    apart = table[:, first] - table[:, second]
    starts = np.flatnonzero(np.r_[True, units[1:] != units[:-1]])
    known = ~np.isnan(apart)
    sums = np.add.reduceat(np.where(known, apart, 0.0), starts, axis=-1)
    counts = np.add.reduceat(known.astype(float), starts, axis=-1)
    with np.errstate(invalid="ignore"):
        return np.asarray(sums / np.where(counts, counts, np.nan))


def _record(table: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """Wins, ties and losses of every row over all metrics and opponents."""
    keys = ["group", "row"]
    out = table[keys].copy()
    sides = pd.concat([pairs.assign(row=pairs["a"]), pairs.assign(row=pairs["b"])], ignore_index=True)
    won, none = sides["winner"] == sides["row"], sides["winner"] == ""
    tied = none & ~sides["untested"].astype(bool)
    for name, chosen in (("wins", won), ("ties", tied), ("losses", ~won & ~none)):
        counts = sides[chosen].groupby(keys).size().rename(name).reset_index()
        out = out.merge(counts, on=keys, how="left")
        out[name] = out[name].fillna(0).astype(int)
    return out


def _pareto(table: pd.DataFrame) -> pd.Series:
    """Whether no other row of the group has a rank and a cost (forward-pass equivalents) that are both better."""
    known = table[table["rank"].notna() & table["forward_equivalents"].notna()]
    ordered = known.sort_values(["group", "forward_equivalents", "rank"])
    before = ordered.groupby("group")["rank"].cummin().groupby(ordered["group"]).shift(fill_value=np.inf)
    front = ordered["rank"] < before
    # of twins the first one decides
    front = front.groupby([ordered[k] for k in ("group", "forward_equivalents", "rank")]).transform("first")
    return front.reindex(table.index, fill_value=False).astype(bool)


def _failures(cells: pd.DataFrame, examples: pd.DataFrame, found: Evaluated) -> pd.DataFrame:
    rows = [
        {"row": c.row, "model": c.model, "method": c.method, "metric": "", "reason": c.reason or "no reason given"}
        for c in cells[cells["status"] != "ok"].itertuples()
    ]
    keys = {(c.model, c.inputs, c.method): c.row for c in cells[cells["status"] == "ok"].itertuples()}
    for (model, inputs, method, metric), reason in found.problems.items():
        if (model, inputs, method) in keys:
            row = keys[model, inputs, method]
            rows.append({"row": row, "model": model, "method": method, "metric": metric, "reason": reason})
    return pd.DataFrame(rows, columns=list(FAILURES))


def _lone(table: pd.DataFrame, by: str) -> list[str]:
    if by == "model" and len(table) > 1 and table["rank"].isna().all():
        return ["No two models were evaluated on the same inputs with the same method: they are listed, not compared."]
    part = table[(table["blocks"] < table["of_blocks"]) & (table["status"] == "ok")]
    if len(part):
        what = {"method": "models", "model": "methods and data sets"}.get(by, "blocks")
        return [f"{len(part)} of {len(table)} rows lack results for some {what}; their ranks are over those they have."]
    return []
