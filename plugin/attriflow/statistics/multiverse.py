r"""How far a ranking depends on choices that could as well have been made otherwise.

A *world* makes each choice once; in every world each method has one row, and methods are ranked as on a leaderboard
(mean place within families of metrics, overall the mean over families). Worlds in which all methods have the same
values of a family's metrics are one world for this family.

- **Wins**: share of the worlds in which A stands before B, ties counting half. 0 or 1: whatever is chosen, their order
  is the same.
- **Kendall's W** (Kendall and Babington Smith 1939), the agreement of $m$ worlds on the order of $n$ methods, corrected
  for ties: $12 S / (m^2 (n^3 - n) - m \sum_j T_j)$ with $S$ the squared deviations of the rank sums from their mean
  and $T_j = \sum (t^3 - t)$ over groups of $t$ tied ranks of a world. 1: all worlds rank alike; 0: they have nothing
  in common.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations

import numpy as np
import pandas as pd

from attriflow.statistics.ranking import FLOOR, placed, ranks

OVERALL = "overall"


def world_ranks(
    rows: pd.DataFrame,
    worlds: pd.DataFrame,
    higher: Mapping[str, bool],
    families: Mapping[str, str],
    floor: float = FLOOR,
) -> pd.DataFrame:
    """Ranks of the methods in every world.

    Args:
        rows: One row per row: `row`, and per metric of `families` `NAME` (mean) and `NAME_n` (examples with a value,
            NaN where the metric does not apply).
        worlds: One row per world and method: `world`, `method`, `row` and the choices.
        higher: Metric -> whether higher is better.
        families: Metric -> family.
        floor: See `attriflow.statistics.ranking`.

    Returns:
        `worlds` with `rank` and, for several families, `rank (FAMILY)`, NaN for rows that lack values; `same` and
        `same (FAMILY)` are the first world in which all methods have the same values.
    """
    wide = worlds[["world", "method", "row"]].merge(rows[["row", *families, *(f"{m}_n" for m in families)]], on="row")
    cells = [
        pd.DataFrame(
            {"world": wide["world"], "method": wide["method"], "metric": m, "value": wide[m], "n": wide[f"{m}_n"]}
        )
        for m in families
    ]
    table = pd.concat(cells, ignore_index=True)
    table = table.assign(applies=table["n"].notna(), n=table["n"].fillna(0))
    found = ranks(placed(table, ["world", "metric"], higher, floor), ["world", "method"], families, floor)
    out = worlds.merge(found.drop(columns="partial"), on=["world", "method"], how="left")
    for column in _columns(out):
        own = [m for m in families if _family(column) in (OVERALL, families[m])]
        values = wide.pivot(index="world", columns="method", values=own).round(12)
        first: dict[bytes, int] = {}
        same = {world: first.setdefault(line.to_numpy(float).tobytes(), world) for world, line in values.iterrows()}
        out[column.replace("rank", "same", 1)] = out["world"].map(same)
    return out


def copies(
    rows: pd.DataFrame, worlds: pd.DataFrame, metrics: Sequence[str], alike: Mapping[str, str]
) -> dict[str, str]:
    """Method -> the method that it is in every world: one that explains the same as set, with the same values anywhere.

    Args:
        rows, worlds: As for `world_ranks`.
        metrics: The metrics that are looked at.
        alike: Method -> an earlier one with the same explanations as set.
    """
    wide = worlds[["world", "method", "row"]].merge(rows[["row", *metrics]], on="row")
    of = {m: part.sort_values("world")[list(metrics)].round(12).to_numpy(float) for m, part in wide.groupby("method")}
    return {
        method: home
        for method, home in alike.items()
        if method in of and home in of and np.array_equal(of[method], of[home], equal_nan=True)
    }


def wins(ranked: pd.DataFrame) -> pd.DataFrame:
    """How often each method stands before each other one.

    Args:
        ranked: From `world_ranks`.

    Returns:
        One row per ordered pair: `first`, `second`, `share` (of the worlds in which both have a rank, a tie counting
        half), for several families `share (FAMILY)`, and `worlds`; NaN without such a world.
    """
    names = list(dict.fromkeys(ranked["method"]))
    out = pd.DataFrame(list(permutations(names, 2)), columns=["first", "second"])
    for column in _columns(ranked):
        table = _distinct(ranked, column).pivot(index="world", columns="method", values=column)[names].round(12)
        apart = table[out["second"]].to_numpy() - table[out["first"]].to_numpy()  # [world, pair]
        known = ~np.isnan(apart)
        with np.errstate(invalid="ignore"):
            out[column.replace("rank", "share", 1)] = np.where(known, (np.sign(apart) + 1) / 2, 0).sum(0) / known.sum(0)
        if column == "rank":
            out["worlds"] = known.sum(0)
    return out


def kendall_w(table: np.ndarray) -> float:
    """Kendall's W of ranks `[world, method]`, ties sharing the mean of their places; NaN for fewer than two."""
    m, n = table.shape
    if m < 2 or n < 2:
        return float("nan")
    order = pd.DataFrame(table).round(12).rank(axis=1).to_numpy()
    sums = order.sum(0)
    ties = sum(float((counts**3 - counts).sum()) for counts in (np.unique(r, return_counts=True)[1] for r in order))
    most = m**2 * (n**3 - n) - m * ties
    return float(12 * ((sums - sums.mean()) ** 2).sum() / most) if most else float("nan")


def stability(ranked: pd.DataFrame, axes: Sequence[str]) -> pd.DataFrame:
    """How far worlds agree, over all choices and over each of them alone.

    Args:
        ranked: From `world_ranks`; the first world is as set.
        axes: The columns of choices.

    Returns:
        One row per family ("overall" first) and choice ("all" first; others: the worlds that differ from the first in
        this one only): `kendall_w`, `worlds` (distinct ones), `methods` (those with a rank in all of them) and `moved`,
        the mean distance of a method's place from that in the first world, in places.
    """
    first = ranked[ranked["world"] == ranked["world"].min()].iloc[0]
    alone = {axis: _alone(ranked, axis, axes, first) for axis in axes}
    out = []
    for column in _columns(ranked):
        distinct = _distinct(ranked, column)
        for choice in ("all", *axes):
            part = distinct if choice == "all" else distinct[distinct["world"].isin(alone[choice])]
            table = part.pivot(index="world", columns="method", values=column).dropna(axis=1)
            order = table.round(12).rank(axis=1).to_numpy()
            moved = float(np.abs(order[1:] - order[0]).mean()) if order.size and len(order) > 1 else 0.0
            row = {"family": _family(column), "choice": choice, "kendall_w": kendall_w(table.to_numpy())}
            out.append({**row, "worlds": len(table), "methods": table.shape[1], "moved": moved})
    return pd.DataFrame(out)


def spans(ranked: pd.DataFrame) -> pd.DataFrame:
    """Where each method stands: one row per method and family.

    Returns:
        `method`, `family`, `as_set` (place among the methods in the first world), `best`, `worst`, `first` (share of
        worlds in which no method is before it) and `worlds`; best as set first.
    """
    out = []
    for column in _columns(ranked):
        table = _distinct(ranked, column).pivot(index="world", columns="method", values=column)
        table = table.dropna(axis=1, how="all")
        places = table.round(12).rank(axis=1)
        order = places.iloc[0].sort_values(kind="stable") if len(places) else pd.Series(dtype=float)
        top = places.eq(places.min(axis=1), axis=0).where(places.notna()).astype(float)
        for method in order.index:
            own = {"method": method, "family": _family(column), "as_set": order[method]}
            own |= {"best": places[method].min(), "worst": places[method].max(), "first": top[method].mean()}
            out.append({**own, "worlds": int(places[method].notna().sum())})
    return pd.DataFrame(out, columns=["method", "family", "as_set", "best", "worst", "first", "worlds"])


def verdict(won: pd.DataFrame, stable: pd.DataFrame, places: pd.DataFrame) -> str:
    """The answer to "does your ranking depend on your choices", in a few sentences."""
    overall = places[places["family"] == OVERALL]
    if len(overall) < 2 or stable["worlds"].max() < 2:
        return "Nothing to compare: there are fewer than two ranked methods, or no choice to make."
    pairs = won[[a < b for a, b in zip(won["first"], won["second"], strict=True)]].dropna(subset=["share"])
    sure = int(pairs["share"].isin([0.0, 1.0]).sum())
    whole = stable[(stable["family"] == OVERALL) & (stable["choice"] == "all")].iloc[0]
    top = overall.iloc[0]
    opening = "depends on your choices" if sure < len(pairs) or whole["moved"] else "does not depend on your choices"
    leader = (
        f"{top['method']}, first as set, is first in {top['first']:.0%} of {int(top['worlds'])} worlds (place "
        f"{top['best']:g} to {top['worst']:g})"
    )
    agreed = ", ".join(
        f"{row['kendall_w']:.2f} {row['family']}"
        for row in stable[stable["choice"] == "all"].to_dict("records")
        if not np.isnan(row["kendall_w"])
    )
    single = stable[(stable["family"] == OVERALL) & (stable["choice"] != "all") & (stable["worlds"] > 1)]
    moved = ", ".join(
        f"{row['choice']} {row['moved']:.1f}"
        for row in single.sort_values("moved", ascending=False, kind="stable").to_dict("records")
    )
    return (
        f"Your ranking {opening}: {sure} of {len(pairs)} pairs of methods stand in the same order whatever is chosen; "
        f"{leader}. "
        f"Agreement of worlds (Kendall's W): {agreed}."
        + (f" Places that a choice alone moves a method by, on average: {moved}." if moved else "")
    )


def _alone(ranked: pd.DataFrame, axis: str, axes: Sequence[str], first: pd.Series) -> list[int]:
    """The worlds that differ from the first in one choice only, and the first."""
    others = [a for a in axes if a != axis]
    return list(ranked.loc[(ranked[others] == first[others]).all(axis=1), "world"].unique())


def _distinct(ranked: pd.DataFrame, column: str) -> pd.DataFrame:
    return ranked[ranked["world"] == ranked[column.replace("rank", "same", 1)]]


def _columns(ranked: pd.DataFrame) -> list[str]:
    return ["rank", *(c for c in ranked.columns if c.startswith("rank ("))]


def _family(column: str) -> str:
    return OVERALL if column == "rank" else column[len("rank (") : -1]
