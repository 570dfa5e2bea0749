"""Places and ranks of the rows of a leaderboard over many evaluations: who competes with whom, and what counts once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import pandas as pd

from attriflow.statistics.ranking import placed, ranks

Place = tuple[str, str, str]
"""Model, inputs, method."""
KEYS = ("group", "block", "metric")


def twins(cells: pd.DataFrame, alike: Mapping[Place, str]) -> dict[tuple[str, str], str]:
    """(group, row) -> the row that explains the same, wherever both have results.

    Args:
        cells: One row per model, data and method, with `group`, `row`, `block` and `status`.
        alike: (model, inputs, method) -> an earlier method with the same explanations.
    """
    ok = cells[cells["status"] == "ok"]
    there = set(zip(ok["block"], ok["row"], strict=True))
    homes: dict[tuple[str, str], set[str]] = {}
    for c in ok.itertuples():
        home = alike.get((str(c.model), str(c.inputs), str(c.method)), "")
        known = home if (c.block, home) in there else ""
        homes.setdefault((str(c.group), str(c.row)), set()).add(known)
    return {key: home for key, found in homes.items() if len(found) == 1 and (home := next(iter(found)))}


def double_blocks(cells: pd.DataFrame, alike: Mapping[Place, str]) -> dict[str, str]:
    """Of a board of models: block -> the block of a method that explains the same on every model that has either.

    Args:
        cells: As for `twins`; blocks are methods on data.
        alike: As for `twins`.
    """
    block_of = {(c.inputs, c.method): c.block for c in cells.itertuples()}
    rows_of = cells.assign(ok=cells["status"] == "ok").groupby("block")
    there = {block: frozenset(part.loc[part["ok"], "model"]) for block, part in rows_of}
    homes: dict[str, set[str]] = {}
    for c in cells.itertuples():
        home = alike.get((str(c.model), str(c.inputs), str(c.method)), "")
        homes.setdefault(str(c.block), set()).add(str(block_of.get((c.inputs, home), "")))
    return {
        block: home
        for block, found in homes.items()
        if len(found) == 1 and (home := next(iter(found))) and there[home] == there[block]
    }


def with_twins(table: pd.DataFrame, found: Mapping[tuple[str, str], str]) -> pd.DataFrame:
    """A table of rows with copies for those that share them."""
    own = table[[key not in found for key in zip(table["group"], table["row"], strict=True)]]
    copies = [
        own[(own["group"] == group) & (own["row"] == home)].assign(row=row) for (group, row), home in found.items()
    ]
    return pd.concat([own, *copies], ignore_index=True) if copies else table


def ranked(
    examples: pd.DataFrame,
    higher: Mapping[str, bool],
    families: Mapping[str, str],
    *,
    applies: Callable[[tuple[str, str, str, str]], bool],
    gated: Collection[Place] = (),
    own: Mapping[Place, Collection[str]] | None = None,
    faithful: Collection[str] = (),
    floor: float,
) -> tuple[pd.DataFrame, dict[str, set[str]]]:
    """Mean place over families of metrics and blocks, overall and per family.

    In a block, a metric with the values of an earlier one of its family for all rows counts once with it.

    Args:
        examples: One value per example, with `group`, `row`, `block`, and the place that it comes from.
        higher: Metric -> whether higher is better; others are not ranked.
        families: Metric -> family.
        applies: Whether a metric says something about (model, inputs, method, metric).
        gated: Places without a rank.
        own: Place -> faithfulness metrics that replace tokens as the method does.
        faithful: All faithfulness metrics.
        floor: See `attriflow.statistics.ranking`.

    Returns:
        One row per row: `rank`, per family `rank (FAMILY)`, `partial`, `places_gained` (mean place on the other
        faithfulness metrics less that on its own) and `scored_by_own`; and metric -> those that count once with it.
    """
    kept = examples[examples["metric"].isin(list(higher))]
    if gated:
        cell = zip(kept["model"], kept["inputs"], kept["method"], strict=True)
        kept = kept[[key not in gated for key in cell]]
    names = list(zip(*(kept[k] for k in ("model", "inputs", "method", "metric")), strict=True))
    mine = own or {}
    kept = kept.assign(applies=[applies(n) for n in names], own=[n[3] in mine.get(n[:3], ()) for n in names])
    grouped = kept.groupby([*KEYS, "row"], as_index=False)
    cells = grouped.agg(value=("value", "mean"), n=("value", "count"), applies=("applies", "all"), own=("own", "any"))
    # alone, everybody is first; and where nobody has a value, nobody is
    contest = cells.groupby(list(KEYS))
    cells = cells[(contest["row"].transform("size") > 1) & (contest["n"].transform("max") > 0)]
    if cells.empty:
        return pd.DataFrame(columns=["group", "row", "partial", "rank"]).astype({"rank": float}), {}
    again, doubles = _repeated(cells, list(higher), families)
    places = placed(cells, KEYS, higher, floor)
    table = ranks(places[~again], ["group", "row"], families, floor)
    return table.merge(_gained(places, faithful), on=["group", "row"], how="left"), doubles


def _repeated(
    cells: pd.DataFrame, names: Sequence[str], families: Mapping[str, str]
) -> tuple[pd.Series, dict[str, set[str]]]:
    """Which cells repeat those of an earlier metric of the family in the whole block; metric -> its doubles."""
    wide = cells.pivot(index=["group", "block", "row"], columns="metric", values="value").sort_index()
    group = wide.index.get_level_values("group")
    codes = pd.factorize(pd.MultiIndex.from_arrays([group, wide.index.get_level_values("block")]))[0]
    starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])
    blocks = wide.index.droplevel("row")[starts]
    order = [n for n in names if n in wide]
    gone: dict[str, np.ndarray] = {n: np.zeros(len(starts), bool) for n in order}
    doubles: dict[str, set[str]] = {}
    for i, name in enumerate(order):
        values = wide[name].to_numpy(float)
        known = np.logical_or.reduceat(~np.isnan(values), starts)
        for other in order[:i]:
            if families.get(name, "") != families.get(other, ""):
                continue
            equal = np.isclose(values, wide[other].to_numpy(float), rtol=0, atol=1e-9, equal_nan=True)
            same = np.logical_and.reduceat(equal, starts) & known & ~gone[other]
            gone[name] |= same
            if same.any():
                doubles.setdefault(other, set()).add(name)
    table = pd.DataFrame(gone, index=blocks).stack()
    repeated = {(*key[:2], key[2]) for key, is_gone in table.items() if is_gone}
    keys = zip(cells["group"], cells["block"], cells["metric"], strict=True)
    return pd.Series([key in repeated for key in keys], index=cells.index), doubles


def _gained(places: pd.DataFrame, faithful: Collection[str]) -> pd.DataFrame:
    part = places[places["metric"].isin(list(faithful))]
    sides = part.groupby(["group", "row", "own"])["place"].mean().unstack("own").reindex(columns=[False, True])
    scored = part[part["own"]].groupby(["group", "row"])["metric"].agg(lambda names: ", ".join(dict.fromkeys(names)))
    out = pd.DataFrame({"places_gained": sides[False] - sides[True]})
    return out.assign(scored_by_own=scored.reindex(out.index).fillna("")).reset_index()
