"""From metric values per step to numbers with error bars: examples, not steps, are what was sampled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from attriflow.errors import InputError


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


def bootstrap_ci(
    values: Sequence[float] | np.ndarray | pd.Series,
    n_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean (Efron 1979), resampling examples.

    Args:
        values: One value per example; NaN is left out.
        n_resamples: Number of resamples.
        level: Coverage, between 0 and 1.
        seed: The same seed gives the same interval.

    Returns:
        Lower and upper end; NaN for fewer than two values, as one example says nothing about the spread.
    """
    if not 0 < level < 1:
        raise InputError(f"level must lie between 0 and 1, not {level}")
    if n_resamples < 1:
        raise InputError(f"n_resamples must be at least 1, not {n_resamples}")
    array = np.asarray(values, dtype=float)
    array = array[~np.isnan(array)]
    if array.size < 2:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    # One resample at a time would be slow, all at once large: the counts of a multinomial are both small and fast.
    counts = rng.multinomial(array.size, np.full(array.size, 1 / array.size), size=n_resamples)
    means = counts @ array / array.size
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
