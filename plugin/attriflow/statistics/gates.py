"""Gates before averages: what an explanation must pass before its rank means anything, each with its number.

- `control`: better than random scores of its kind. Metrics that remove positive scores only let scores without a sign
  remove more, so that methods with negative scores are held against `random`, the others against `random_unsigned`
  where it ran, too. Number: share of the faithfulness metrics won less the share lost, mean over examples, -1 to 1.
  Passed when a paired permutation test over examples finds it above 0, at 5% after Holm's correction for all methods.
- `randomisation`: the explanation changes when the model forgets. Number: mean of `parameter_randomisation`; passed up
  to `SIMILAR`.
- `completeness`: scores that are promised to add up do. Number: median of `completeness_error` over examples; passed
  below `RESIDUAL`.
- `seed`: another seed would not give the method another place. Number: standard deviation of its rank over seeds, the
  other methods staying as they are; passed below the distance to the nearest other rank, or where nothing moves. Ranks
  are those of a board of the examples and metrics for which there are other seeds.

A gate that cannot be tested is neither passed nor failed, and says why: its metric did not run or does not apply, or no
difference could have been significant with so few examples.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd

from attriflow.statistics.inference import holm, permutation_p_values
from attriflow.statistics.ranking import placed, ranks

CONTROL, UNSIGNED = "random", "random_unsigned"
LEVEL, SIMILAR, RESIDUAL = 0.05, 0.9, 0.05
COLUMNS = ("method", "gate", "value", "limit", "p_holm", "n", "passed", "why")
_NO_METRIC = "{} did not run or has no value"


def gates(
    values: pd.DataFrame,
    higher: Mapping[str, bool],
    faithful: Sequence[str],
    *,
    unsigned: Collection[str] = (),
    seeded: Mapping[str, Sequence[pd.DataFrame] | None] | None = None,
    families: Mapping[str, str] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """All gates of all methods.

    Args:
        values: One row per method and example (the index), one column per metric; NaN without a value.
        higher: Metric -> whether higher is better.
        faithful: Metrics that score changed inputs, each thing measured once.
        unsigned: Methods without negative scores.
        seeded: Method -> its values under other seeds, one table (example, the index, by metric) per seed: empty for
            methods that draw nothing, None where nobody tried. Methods that are not in it stand on no board of ranks.
        families: Metric -> family, for the ranks that seeds move.
        seed: For the permutation tests.

    Returns:
        The columns `COLUMNS`: `limit` is what `value` is held against, `passed` is None where a gate was not tested and
        `why` says why.
    """
    methods = list(dict.fromkeys(values.index.get_level_values("method")))
    names = [m for m in faithful if m in higher and m in values]
    rows = _control(values, methods, names, higher, unsigned, seed)
    for gate, metric, limit in (
        ("randomisation", "parameter_randomisation", SIMILAR),
        ("completeness", "completeness_error", RESIDUAL),
    ):
        for method in methods:
            found = values.loc[method][metric].dropna() if metric in values else pd.Series(dtype=float)
            number = math.nan if found.empty else float(found.median() if gate == "completeness" else found.mean())
            passed = None if found.empty else bool(number < limit)
            why = _NO_METRIC.format(metric) if found.empty else ""
            rows.append((method, gate, number, limit, math.nan, len(found), passed, why))
    rows += _seeds(values, methods, seeded or {}, higher, families or {})
    frame = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"passed": object})
    return frame.sort_values(
        "method", key=lambda m: m.map({n: i for i, n in enumerate(methods)}), kind="stable", ignore_index=True
    )


def failed(table: pd.DataFrame) -> dict[str, str]:
    """Method -> the gates that it does not pass, with their numbers; who passes all tested ones is not in it."""
    out: dict[str, list[str]] = {}
    for row in table.to_dict("records"):
        if row["passed"] is False:
            out.setdefault(row["method"], []).append(f"{row['gate']} ({row['value']:.2f})")
    return {method: ", ".join(found) for method, found in out.items()}


def net_wins(
    method: pd.DataFrame, control: pd.DataFrame, names: Sequence[str], higher: Mapping[str, bool]
) -> np.ndarray:
    """Per example the share of the metrics won less the share lost, `[example]`; NaN where none has both values."""
    sign = np.array([1.0 if higher[m] else -1.0 for m in names])
    apart = (method[list(names)].to_numpy(float) - control[list(names)].to_numpy(float)) * sign
    known = ~np.isnan(apart)
    wins = np.where(known, np.sign(np.round(apart, 12)), 0.0).sum(1)
    return np.where(known.any(1), wins / np.maximum(known.sum(1), 1), np.nan)


def examples_to_tell(tests: int, level: float = LEVEL) -> int:
    """Fewest examples with which a sign-flip test can fall below the level after Holm's correction for `tests`."""
    return math.floor(math.log2(2 * max(1, tests) / level)) + 1


def _control(
    values: pd.DataFrame,
    methods: Sequence[str],
    names: Sequence[str],
    higher: Mapping[str, bool],
    unsigned: Collection[str],
    seed: int,
) -> list[tuple[str, str, float, float, float, int, bool | None, str]]:
    compared = [m for m in methods if m not in (CONTROL, UNSIGNED)]
    if CONTROL not in methods or not names or not compared:
        why = (
            f"'{CONTROL}' is not among the methods" if CONTROL not in methods else "no faithfulness metric has a value"
        )
        return [(m, "control", math.nan, 0.0, math.nan, 0, None, why) for m in compared]
    of = {str(m): part.droplevel("method") for m, part in values.groupby(level="method", sort=False)}
    wins = np.array(
        [
            net_wins(
                of[m].reindex(of[CONTROL].index),
                of[UNSIGNED if m in unsigned and UNSIGNED in of else CONTROL],
                names,
                higher,
            )
            for m in compared
        ]
    )
    counts = (~np.isnan(wins)).sum(1)
    p_values = permutation_p_values(wins, n=max(10000, 200 * len(compared)), seed=seed)
    adjusted, needed = holm(p_values), examples_to_tell(len(compared))
    few = "{} examples could not tell " + f"{len(compared)} methods from the control, {needed} could"
    rows = list[tuple[str, str, float, float, float, int, bool | None, str]]()
    for method, won, n, p in zip(compared, wins, counts, adjusted, strict=True):
        mean = float(np.nanmean(won)) if n else math.nan
        passed = None if n < needed else bool(mean > 0 and p < LEVEL)
        rows.append((method, "control", mean, 0.0, p, int(n), passed, few.format(n) if passed is None else ""))
    return rows


def _seeds(
    values: pd.DataFrame,
    methods: Sequence[str],
    seeded: Mapping[str, Sequence[pd.DataFrame] | None],
    higher: Mapping[str, bool],
    families: Mapping[str, str],
) -> list[tuple[str, str, float, float, float, int, bool | None, str]]:
    rows = list[tuple[str, str, float, float, float, int, bool | None, str]]()
    for method in (m for m in methods if m not in (CONTROL, UNSIGNED)):
        others = seeded.get(method)
        if not others:
            why = "it was not tried with other seeds" if others is None else "it draws no random numbers"
            why = why if method in seeded or not seeded else "it explains as another method does"
            rows.append((method, "seed", math.nan, math.nan, math.nan, 0, None, why))
            continue
        names = [m for m in others[0].columns if m in higher and m in values]
        examples = others[0].index
        level = values.index.get_level_values
        board = values.loc[level("example").isin(examples) & level("method").isin(list(seeded)), names]
        found = _ranked(board, higher, families)
        moved = [found.get(method, math.nan)]
        for other in others:
            changed = board.copy()
            changed.loc[[(method, i) for i in examples], names] = other[names].to_numpy(float)
            moved.append(_ranked(changed, higher, families).get(method, math.nan))
        gaps = (found.drop(method) - moved[0]).abs().dropna() if method in found else pd.Series(dtype=float)
        spread, gap = float(np.std(moved, ddof=1)), float(gaps.min()) if len(gaps) else math.nan
        why = "no rank to compare" if math.isnan(spread) or math.isnan(gap) else ""
        passed = None if why else bool(spread < max(gap, 1e-9))
        rows.append((method, "seed", spread, gap, math.nan, len(examples), passed, why))
    return rows


def _ranked(board: pd.DataFrame, higher: Mapping[str, bool], families: Mapping[str, str]) -> pd.Series:
    """Method -> rank by the means over the examples of a table like `values`."""
    grouped = board.groupby(level="method", sort=False)
    cells = grouped.mean().rename_axis("row").reset_index().melt("row", var_name="metric")
    cells["n"] = grouped.count().rename_axis("row").reset_index().melt("row")["value"]
    places = placed(cells.assign(applies=cells["n"] > 0), ["metric"], higher)
    return ranks(places, ["row"], families).set_index("row")["rank"].dropna()
