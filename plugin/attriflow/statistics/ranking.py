"""Places and ranks: who is compared with whom on a metric, and what becomes of values that are missing.

A row without a value is in one of three cases. The metric does not apply to it (it promises no completeness, say): it
has no place there, and that costs nothing. It has values for less than a share of the examples that others have
(`FLOOR`): it is *partial*, and has no rank, since the examples that are left may be the easy ones. Otherwise it has a
place by the values that it has. Ranks are means over the metrics of a family, and overall the mean over families, so
that ten metrics that measure one thing weigh no more than one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

FLOOR = 0.5
"""Share of a metric's examples that a row must have values for."""
NOT_APPLICABLE = "not applicable: "
"""Opens the reason why a metric says nothing about a method, where that is no fault of the method."""


def placed(cells: pd.DataFrame, keys: Sequence[str], higher: Mapping[str, bool], floor: float = FLOOR) -> pd.DataFrame:
    """Places within each contest.

    Args:
        cells: One row per contest and competitor: the columns `keys` (which include "metric"), `value` (mean), `n`
            (examples behind it) and `applies`.
        keys: Columns that identify a contest.
        higher: Metric -> whether higher is better.
        floor: See `FLOOR`.

    Returns:
        The cells with `place` (1 is best, ties share the mean of their places; NaN without one) and `most` (the largest
        n of the contest).
    """
    out = cells.copy()
    out["most"] = out.groupby(list(keys))["n"].transform("max")
    enough = out["applies"] & (out["n"] > 0) & (out["n"] >= floor * out["most"])
    sign = out["metric"].map(lambda m: -1.0 if higher[m] else 1.0).astype(float)
    # equal means may be rounded apart
    signed = (sign * out["value"].astype(float)).round(12).where(enough)
    out["place"] = signed.groupby([out[k] for k in keys]).rank(method="average", na_option="keep")
    return out


def ranks(places: pd.DataFrame, rows: Sequence[str], families: Mapping[str, str], floor: float = FLOOR) -> pd.DataFrame:
    """Mean places per row: overall (the mean over families), and for each family where there are several.

    Args:
        places: From `placed`.
        rows: Columns that identify a row.
        families: Metric -> family.
        floor: See `FLOOR`; over all contests of a metric.

    Returns:
        One row per row: `rank`, `rank (FAMILY)`, and `partial`: why there is no rank, "" where there is one. A partial
        row keeps the ranks of the families for which it has all values.
    """
    known = places.assign(family=[families.get(m, "") or "other" for m in places["metric"]])
    table = known.groupby([*rows, "family"], sort=False)["place"].mean().unstack("family")
    table = table[list(dict.fromkeys(known["family"]))] if len(table) else table
    counts = known[known["applies"]].groupby([*rows, "family", "metric"], sort=False)[["n", "most"]].sum().reset_index()
    lacking = counts[(counts["n"] < floor * counts["most"]) | ((counts["n"] == 0) & (counts["most"] > 0))]
    partial: dict[tuple[object, ...], list[str]] = {}
    for row in lacking.to_dict("records"):
        key = tuple(row[k] for k in rows)
        partial.setdefault(key, []).append(f"{row['metric']}: {row['n']} of {row['most']} examples")
        table.loc[key if len(key) > 1 else key[0], row["family"]] = np.nan
    keys = [key if isinstance(key, tuple) else (key,) for key in table.index]
    out = pd.DataFrame({"partial": ["; ".join(partial.get(key, ())) for key in keys]}, index=table.index, dtype=object)
    out["rank"] = table.mean(axis=1).where(out["partial"] == "")
    if table.shape[1] > 1:
        for family in table.columns:
            out[f"rank ({family})"] = table[family]
    return out.reset_index()


def same_metrics(values: pd.DataFrame, families: Mapping[str, str]) -> dict[str, str]:
    """Metrics that have the values of an earlier one of their family for every row and example: name -> that one.

    A metric of whole answers, say, where all answers have one token.

    Args:
        values: One row per row of the board and example, one column per metric.
        families: Metric -> family.
    """
    found: dict[str, str] = {}
    for i, name in enumerate(values.columns):
        for other in values.columns[:i]:
            if other in found or families.get(name, "") != families.get(other, "") or values[name].isna().all():
                continue
            if np.allclose(values[name], values[other], rtol=0, atol=1e-9, equal_nan=True):
                found[name] = other
                break
    return found


def correlations(values: pd.DataFrame, example: pd.Series, higher: Mapping[str, bool]) -> pd.DataFrame:
    """How far metrics order the rows alike, on single examples: `[metric, metric]`, -1 to 1.

    Pearson correlation of places within examples (each example's mean taken out), better being higher for all; NaN
    where a metric orders nothing.

    Args:
        values: One row per row of the board and example, one column per metric.
        example: The example of each.
        higher: Metric -> whether higher is better; others are left out.
    """
    names = [n for n in values.columns if n in higher]
    places = values[names].groupby(example.to_numpy()).rank() * [1.0 if higher[n] else -1.0 for n in names]
    return (places - places.groupby(example.to_numpy()).transform("mean")).corr(min_periods=3)


def effective_number(correlation: pd.DataFrame) -> float:
    r"""How many independent metrics would hold as much, by the eigenvalues of the correlations.

    $(\sum \lambda)^2 / \sum \lambda^2$, the participation ratio: from 1 (all say the same) to the number of metrics (no
    two agree); metrics that order nothing are left out.
    """
    matrix = correlation.to_numpy(float)
    known = ~np.isnan(np.diag(matrix))
    values = np.clip(np.linalg.eigvalsh(np.nan_to_num(matrix[known][:, known])), 0, None)
    return float(values.sum() ** 2 / (values**2).sum()) if values.any() else 0.0


def redundancy(values: pd.DataFrame, higher: Mapping[str, bool], doubles: Mapping[str, str]) -> pd.DataFrame:
    """The map of metrics that order methods alike, as a tidy table.

    Args:
        values: One row per method and example (the index), one column per metric.
        higher: Metric -> whether higher is better.
        doubles: From `same_metrics`.

    Returns:
        One row per pair of metrics, the most alike first: `first`, `second`, `correlation` (see `correlations`), `same`
        (the values are equal), and `effective_number` of all metrics, the same in each row.
    """
    found = correlations(values, values.index.get_level_values("example").to_series(), higher)
    number = effective_number(found)
    names, matrix = list(found.columns), found.to_numpy(float)
    first, second = np.triu_indices(len(names), 1)
    rows = [
        (names[i], names[j], float(matrix[i, j]), doubles.get(names[j]) == names[i], number)
        for i, j in zip(first, second, strict=True)
    ]
    frame = pd.DataFrame(rows, columns=["first", "second", "correlation", "same", "effective_number"])
    return frame.sort_values("correlation", ascending=False, kind="stable", ignore_index=True)
