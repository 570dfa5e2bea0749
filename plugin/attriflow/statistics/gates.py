"""Gates before averages: what an explanation must pass before its rank means anything, each with its number.

- `control`: better than random scores of its kind. Metrics that remove positive scores only let scores without a sign
  remove more, so that methods with negative scores are held against `random`, the others against `random_unsigned`
  where it ran, too. Number: share of the faithfulness metrics won less the share lost, mean over examples, -1 to 1.
  Passed when a paired permutation test over examples finds it above 0, at 5% after Holm's correction for all methods.
- `randomisation`: the explanation changes when the model forgets. Number: mean of `parameter_randomisation`; passed up
  to `SIMILAR`.
- `completeness`: scores that are promised to add up do. Number: median of `completeness_error` over examples; passed
  below `RESIDUAL`.

A gate that cannot be tested is neither passed nor failed, and says why: its metric did not run or does not apply, or no
difference could have been significant with so few examples.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd

from attriflow.statistics.inference import holm, permutation_p_values

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
    seed: int = 0,
) -> pd.DataFrame:
    """All gates of all methods.

    Args:
        values: One row per method and example (the index), one column per metric; NaN without a value.
        higher: Metric -> whether higher is better.
        faithful: Metrics that score changed inputs, each thing measured once.
        unsigned: Methods without negative scores.
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
