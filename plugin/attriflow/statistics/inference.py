"""From metric values per step to numbers with error bars: examples, not steps, are what was sampled.

`example_means` takes the table `scores` of an evaluation to one number per example. All that follows works on such
numbers: an interval for one method (`bootstrap_interval`), and for two methods on the same examples the difference
(`paired_bootstrap_difference`), whether it may be chance (`paired_permutation`), how large it is (`effect_size`) and
how many examples would tell (`examples_needed`). `compare` makes the table of all pairs of methods.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import pandas as pd

from attriflow.errors import InputError

Values = Sequence[float] | np.ndarray | pd.Series
"""One number per example; NaN where an example has none."""
CHUNK = 2**22
"""Numbers held at once while resampling."""


class Interval(NamedTuple):
    """A mean and its confidence interval; never without the number of examples behind it.

    Attributes:
        mean: Mean over examples; NaN without any.
        low, high: Ends of the interval; NaN for fewer than two examples, as one says nothing about the spread.
        n: Examples with a value.
    """

    mean: float
    low: float
    high: float
    n: int


def example_means(
    table: pd.DataFrame, by: Sequence[str] = (), *, example: str = "example", value: str = "value"
) -> pd.DataFrame:
    """Mean over the steps of each example; a row with all steps skipped has NaN.

    Args:
        table: One row per step: the columns `by`, `example` and `value`; a missing value is a skipped step.
        by: Columns that identify what is compared (method, metric, ...).
        example: Column with the example's name.
        value: Column with the metric value.

    Returns:
        One row per group and example, in order of appearance: `by`, `example`, `value`.
    """
    numbers = table.assign(**{value: pd.to_numeric(table[value])})
    grouped = numbers.groupby([*by, example], sort=False, dropna=False, as_index=False, observed=True)
    return grouped[value].mean()


def mean_over_examples(
    table: pd.DataFrame, by: Sequence[str] = (), *, example: str = "example", value: str = "value"
) -> pd.DataFrame:
    """Mean of the examples' means, so that an example with many steps weighs no more than one with few.

    Args:
        table: As for `example_means`.
        by: Columns that identify what is compared; without any, the result has one row.
        example: Column with the example's name.
        value: Column with the metric value.

    Returns:
        One row per group, in order of appearance: `by`, `mean` (NaN when every step was skipped) and `n`, the number of
        examples with a value.
    """
    means = example_means(table, by, example=example, value=value)
    if not by:
        return pd.DataFrame({"mean": [means[value].mean()], "n": [int(means[value].count())]})
    grouped = means.groupby(list(by), sort=False, dropna=False, as_index=False, observed=True)
    return grouped.agg(mean=(value, "mean"), n=(value, "count"))


def bootstrap_interval(values: Values, *, level: float = 0.95, n: int = 2000, seed: int = 0) -> Interval:
    """Percentile bootstrap interval of a mean (Efron 1979), resampling examples.

    Args:
        values: `[example]`; NaN is left out.
        level: Coverage, between 0 and 1.
        n: Number of resamples.
        seed: The same seed gives the same interval.
    """
    array = np.asarray(values, dtype=float).reshape(-1)
    return bootstrap_intervals(array[:, None], level=level, n=n, seed=seed)[0]


def bootstrap_intervals(
    table: np.ndarray | pd.DataFrame, *, level: float = 0.95, n: int = 2000, seed: int = 0
) -> list[Interval]:
    """`bootstrap_interval` of every column, with the same resamples for columns with the same examples.

    Args:
        table: `[example, column]`; NaN is left out.
        level: Coverage, between 0 and 1.
        n: Number of resamples.
        seed: The same seed gives the same intervals.

    Returns:
        `[column]`.
    """
    _check("level", level)
    if n < 1:
        raise InputError(f"n must be at least 1, not {n}")
    array = np.asarray(table, dtype=float)
    out = [Interval(math.nan, math.nan, math.nan, 0)] * array.shape[1]
    patterns: dict[bytes, list[int]] = {}
    for column, known in enumerate(~np.isnan(array.T)):
        patterns.setdefault(known.tobytes(), []).append(column)
    for columns in patterns.values():
        part = array[:, columns]
        part = part[~np.isnan(part[:, 0])]
        for column, interval in zip(columns, _intervals(part, level, n, seed), strict=True):
            out[column] = interval
    return out


def _intervals(table: np.ndarray, level: float, n: int, seed: int) -> list[Interval]:
    """Of columns without gaps."""
    size, width = table.shape
    if size == 0:
        return [Interval(math.nan, math.nan, math.nan, 0)] * width
    means = table.mean(0)
    if size < 2:
        return [Interval(float(mean), math.nan, math.nan, 1) for mean in means]
    share, out = np.full(size, 1 / size), list[Interval]()
    for begin in range(0, width, max(1, CHUNK // n)):
        part, rng = table[:, begin : begin + max(1, CHUNK // n)], np.random.default_rng(seed)
        # One resample at a time would be slow, all at once large: the counts of a multinomial are both small and fast.
        drawn = [rng.multinomial(size, share, size=rows) / size @ part for rows in _chunks(n, size)]
        ends = np.quantile(np.concatenate(drawn), [(1 - level) / 2, (1 + level) / 2], axis=0)
        found = zip(means[begin : begin + part.shape[1]], *ends, strict=True)
        out += [Interval(float(mean), float(low), float(high), size) for mean, low, high in found]
    return out


def two_level_interval(values: np.ndarray, *, level: float = 0.95, n: int = 2000, seed: int = 0) -> Interval:
    """Bootstrap interval of a mean over seeds and examples: both are resampled, seeds first (Davison and Hinkley 1997).

    An interval over examples alone says how sure the mean of these seeds is, not what another seed would give.

    Args:
        values: `[seed, example]`; an example counts with the seeds that have a value, and not without any.
        level: Coverage, between 0 and 1.
        n: Number of resamples.
        seed: The same seed gives the same interval.
    """
    _check("level", level)
    array = np.asarray(values, dtype=float)
    array = array[:, ~np.isnan(array).all(0)]
    seeds, size = array.shape
    if size < 2 or seeds < 2:
        return bootstrap_interval(np.nanmean(array, 0) if size else array.reshape(-1), level=level, n=n, seed=seed)
    known, filled = (~np.isnan(array)).astype(float), np.nan_to_num(array)
    rng = np.random.default_rng(seed)
    times = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=n)  # [resample, seed]
    weights = rng.multinomial(size, np.full(size, 1 / size), size=n)  # [resample, example]
    counts = times @ known  # of the drawn seeds, those with a value
    means = np.divide(times @ filled, counts, out=np.zeros_like(counts), where=counts > 0)
    weights = weights * (counts > 0)
    with np.errstate(invalid="ignore"):  # a draw of examples that the drawn seeds have no value for says nothing
        drawn = (weights * means).sum(1) / weights.sum(1)
    low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(np.nanmean(array, 0).mean()), float(low), float(high), size)


def paired_bootstrap_difference(a: Values, b: Values, *, level: float = 0.95, n: int = 2000, seed: int = 0) -> Interval:
    """Bootstrap interval of the mean difference `a - b` on the same examples.

    Args:
        a, b: `[example]`, in the same order; examples without a value in both are left out.
        level: Coverage, between 0 and 1.
        n: Number of resamples.
        seed: The same seed gives the same interval.
    """
    return bootstrap_interval(_differences(a, b), level=level, n=n, seed=seed)


def paired_permutation(a: Values, b: Values, *, n: int = 10000, seed: int = 0) -> float:
    """Two-sided p-value of the paired permutation (sign-flip) test of equal means (Fisher 1935).

    If `a` and `b` do not differ, every difference is as likely with either sign. All signs are tried where there are at
    most `n` of them; otherwise `n` are drawn, and p is `(1 + as large) / (1 + n)`, which is never 0 (Phipson and Smyth
    2010).

    Args:
        a, b: `[example]`, in the same order; examples without a value in both are left out.
        n: Number of draws.
        seed: The same seed gives the same p-value.

    Returns:
        p in (0, 1]; NaN without examples.
    """
    return float(permutation_p_values(_differences(a, b)[None], n=n, seed=seed)[0])


def permutation_p_values(differences: np.ndarray, *, n: int = 10000, seed: int = 0) -> np.ndarray:
    """`paired_permutation` of many pairs at once, all with the same signs.

    Args:
        differences: `[test, example]`; NaN where an example has no value on both sides.
        n: Number of draws.
        seed: The same seed gives the same p-values.

    Returns:
        `[test]`, in (0, 1]; NaN without examples.
    """
    if n < 1:
        raise InputError(f"n must be at least 1, not {n}")
    missing = np.isnan(differences)
    given = ~missing.all(0)
    numbers = np.where(missing, 0.0, differences)[:, given]  # a zero adds nothing, whatever its sign
    size = numbers.shape[1]
    found = np.abs(numbers.sum(1)) * (1 - 1e-12) - 1e-15  # equal sums may be rounded apart
    extreme = np.zeros(len(numbers), dtype=int)
    if size < 60 and 2**size <= n:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=size))).reshape(2**size, size)
        out = np.mean(np.abs(numbers @ signs.T) >= found[:, None], axis=1)
    else:
        rng = np.random.default_rng(seed)
        for chunk in _chunks(n, max(size, len(numbers))):
            signs = rng.integers(0, 2, size=(chunk, size), dtype=np.int8) * 2.0 - 1.0
            extreme += np.sum(np.abs(numbers @ signs.T) >= found[:, None], axis=1)
        out = (1 + extreme) / (1 + n)
    return np.where(missing.all(1), np.nan, out)


def holm(p_values: Sequence[float] | np.ndarray) -> list[float]:
    """p-values adjusted for the number of tests (Holm 1979): reject at `level` those up to `1 - level`.

    Args:
        p_values: `[test]`; NaN is no test and stays NaN.

    Returns:
        Adjusted p-values in the same order, at most 1 and never smaller than those given.
    """
    array = np.asarray(p_values, dtype=float).reshape(-1)
    out = np.full(array.size, math.nan)
    known = np.flatnonzero(~np.isnan(array))
    order = known[np.argsort(array[known], kind="stable")]
    factors = np.arange(known.size, 0, -1)
    out[order] = np.minimum(1.0, np.maximum.accumulate(array[order] * factors))
    return [float(v) for v in out]


def effect_size(a: Values, b: Values) -> float:
    """Standardised mean difference of pairs, Cohen's d_z: mean of `a - b` over its standard deviation.

    0.2 is called small, 0.5 medium, 0.8 large (Cohen 1988). 0 where all differences are 0, infinite where they are all
    the same other number, NaN for fewer than two examples.

    Args:
        a, b: `[example]`, in the same order; examples without a value in both are left out.
    """
    differences = _differences(a, b)
    differences = differences[~np.isnan(differences)]
    if differences.size < 2:
        return math.nan
    mean, spread = float(differences.mean()), float(differences.std(ddof=1))
    if spread <= 1e-12 * abs(mean):
        return math.copysign(math.inf, mean) if mean else 0.0
    return mean / spread


def examples_needed(a: Values, b: Values, *, level: float = 0.95, power: float = 0.8) -> int | None:
    """How many examples in all a paired test would need to tell `a` from `b`, if they differ as much as seen.

    The normal approximation with Guenther's (1981) correction; at least as many as a permutation test needs to be able
    to fall below `1 - level`. What was seen is itself uncertain: this is a note for planning, not a result.

    Args:
        a, b: `[example]`, in the same order.
        level: Confidence of the test.
        power: Probability to find the difference.

    Returns:
        A number of examples; None where no difference was seen, or one of rounding's size that a billion would not
        show, or from fewer than two examples.
    """
    _check("level", level)
    _check("power", power)
    size = abs(effect_size(a, b))
    if math.isnan(size) or size == 0:
        return None
    fewest = math.ceil(1 - math.log2(1 - level))
    if math.isinf(size):
        return fewest
    critical, wanted = NormalDist().inv_cdf((1 + level) / 2), NormalDist().inv_cdf(power)
    needed = ((critical + wanted) / size) ** 2 + critical**2 / 2
    return None if needed > 1e9 else max(fewest, math.ceil(needed))


def power_note(a: Values, b: Values, *, level: float = 0.95, power: float = 0.8) -> str:
    """`examples_needed` in words: "about 40 more examples would separate these two (n=32)"."""
    n = int(np.sum(~np.isnan(_differences(a, b))))
    return _power_note(examples_needed(a, b, level=level, power=power), n)


def _power_note(needed: int | None, n: int) -> str:
    if needed is None:
        return f"no difference seen (n={n})"
    if needed <= n:
        return f"enough examples to separate these two (n={n})"
    return f"about {needed - n} more examples would separate these two (n={n})"


def compare(
    table: pd.DataFrame,
    *,
    method: str = "method",
    example: str = "example",
    value: str = "value",
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """All pairs of methods on one metric, tested on the examples that both have a value for.

    Args:
        table: Rows of one metric: the columns `method`, `example` and `value`, one row per step or per example.
        method, example, value: Names of these columns.
        level: Coverage of intervals, and confidence of all tests together.
        seed: For resampling.

    Returns:
        One row per pair: `a`, `b`, `difference` (mean of a - b), `low`, `high` (its bootstrap interval), `n`
        (examples), `p` (paired permutation), `p_holm` (adjusted for the number of pairs), `effect` (d_z),
        `examples_needed` (in all, at a level that is divided among the pairs) and `note` (see `power_note`).
    """
    means = example_means(table, [method], example=example, value=value)
    wide = means.pivot(index=example, columns=method, values=value)
    names = list(dict.fromkeys(means[method]))
    pairs = list(itertools.combinations(names, 2))
    values = wide[names].to_numpy(float).T if names else np.empty((0, 0))
    place = {name: i for i, name in enumerate(names)}
    differences = np.array([values[place[a]] - values[place[b]] for a, b in pairs]).reshape(len(pairs), len(wide))
    intervals = bootstrap_intervals(differences.T, level=level, seed=seed) if pairs else []
    # fine enough that the smallest p-value there can be is far below the level after the correction, too
    p_values = permutation_p_values(differences, n=max(10000, 200 * len(pairs)), seed=seed)
    strict = 1 - (1 - level) / max(1, len(pairs))
    rows = []
    for pair, row, interval, p in zip(pairs, differences, intervals, p_values, strict=True):
        zero = np.zeros_like(row)
        needed = examples_needed(row, zero, level=strict)
        effect, note = effect_size(row, zero), _power_note(needed, interval.n)
        rows.append((*pair, *interval, p, effect, needed, note))
    columns = ["a", "b", "difference", "low", "high", "n", "p", "effect", "examples_needed", "note"]
    frame = pd.DataFrame(rows, columns=columns)
    frame.insert(7, "p_holm", holm(frame["p"].to_numpy(float)))
    return frame.astype({"examples_needed": "Int64", "n": "int64"})


def _differences(a: Values, b: Values) -> np.ndarray:
    first, second = np.asarray(a, dtype=float).reshape(-1), np.asarray(b, dtype=float).reshape(-1)
    if first.shape != second.shape:
        raise InputError(f"pairs need as many values on both sides, not {first.size} and {second.size}")
    return np.asarray(first - second)


def _check(name: str, share: float) -> None:
    if not 0 < share < 1:
        raise InputError(f"{name} must lie between 0 and 1, not {share}")


def _chunks(n: int, width: int) -> list[int]:
    """`n` rows of `width` numbers in parts that fit `CHUNK`."""
    size = max(1, CHUNK // max(1, width))
    return [min(size, n - at) for at in range(0, n, size)]
