"""The reductions behind a leaderboard: means over examples and their intervals."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from attriflow.errors import InputError
from attriflow_metrics.statistics import bootstrap_ci, example_means, mean_over_examples


def test_means_over_examples():
    table = pd.DataFrame(
        {
            "method": ["a"] * 5 + ["b"] * 3,
            "example": [0, 0, 0, 1, 1, 0, 1, 1],
            "value": [1.0, 2.0, 3.0, 4.0, None, 1.0, None, None],
        }
    )
    means = example_means(table, ["method"])
    assert means["value"].tolist()[:3] == [2.0, 4.0, 1.0]
    assert math.isnan(means["value"][3])
    result = mean_over_examples(table, ["method"])
    assert result["method"].tolist() == ["a", "b"]
    assert result["mean"].tolist() == [3.0, 1.0]
    assert result["n"].tolist() == [2, 1]
    whole = mean_over_examples(table[table["method"] == "a"])
    assert whole.to_dict("records") == [{"mean": 3.0, "n": 2}]
    nothing = mean_over_examples(pd.DataFrame({"method": ["a"], "example": [0], "value": [None]}), ["method"])
    assert math.isnan(nothing["mean"][0])
    assert nothing["n"][0] == 0


def test_bootstrap_interval():
    values = np.random.default_rng(1).normal(size=200)
    low, high = bootstrap_ci(values, n_resamples=4000)
    half = 1.96 * values.std() / math.sqrt(200)
    assert low == pytest.approx(values.mean() - half, abs=0.02)
    assert high == pytest.approx(values.mean() + half, abs=0.02)
    assert (low, high) == bootstrap_ci(values, n_resamples=4000)
    assert (low, high) != bootstrap_ci(values, n_resamples=4000, seed=1)
    narrow = bootstrap_ci(values, level=0.5)
    assert low < narrow[0] < narrow[1] < high
    assert bootstrap_ci([2.0, 2.0, math.nan]) == (2.0, 2.0)
    assert all(math.isnan(v) for v in bootstrap_ci([1.0, math.nan]))
    with pytest.raises(InputError, match="level"):
        bootstrap_ci(values, level=95)
    with pytest.raises(InputError, match="n_resamples"):
        bootstrap_ci(values, n_resamples=0)
