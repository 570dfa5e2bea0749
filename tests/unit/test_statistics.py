"""The reductions behind a leaderboard: means over examples, their intervals, and tests of differences."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from attriflow.errors import InputError
from attriflow.statistics import (
    bootstrap_interval,
    compare,
    effect_size,
    example_means,
    examples_needed,
    holm,
    mean_over_examples,
    paired_bootstrap_difference,
    paired_permutation,
    power_note,
    two_level_interval,
)


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
    mean, low, high, n = bootstrap_interval(values, n=4000)
    half = 1.96 * values.std() / math.sqrt(200)
    assert (mean, n) == (pytest.approx(values.mean()), 200)
    assert low == pytest.approx(values.mean() - half, abs=0.02)
    assert high == pytest.approx(values.mean() + half, abs=0.02)
    assert (mean, low, high, n) == bootstrap_interval(values, n=4000)
    assert (low, high) != bootstrap_interval(values, n=4000, seed=1)[1:3]
    narrow = bootstrap_interval(values, level=0.5)
    assert low < narrow.low < narrow.high < high
    assert bootstrap_interval([2.0, 2.0, math.nan]) == (2.0, 2.0, 2.0, 2)
    one = bootstrap_interval([1.0, math.nan])
    assert (one.mean, one.n) == (1.0, 1) and math.isnan(one.low) and math.isnan(one.high)
    assert bootstrap_interval([]).n == 0
    with pytest.raises(InputError, match="level"):
        bootstrap_interval(values, level=95)
    with pytest.raises(InputError, match="n must"):
        bootstrap_interval(values, n=0)


def test_bootstrap_interval_agrees_with_scipy():
    values = np.random.default_rng(3).exponential(size=60)
    theirs = scipy.stats.bootstrap((values,), np.mean, n_resamples=20000, method="percentile", rng=0)
    mine = bootstrap_interval(values, n=20000)
    assert mine.low == pytest.approx(theirs.confidence_interval.low, abs=0.01)
    assert mine.high == pytest.approx(theirs.confidence_interval.high, abs=0.01)


def test_permutation_test_agrees_with_scipy():
    rng = np.random.default_rng(0)
    for n in (4, 9, 40):
        a = rng.normal(size=n)
        b = a - rng.normal(0.3, 0.5, size=n)
        theirs = scipy.stats.permutation_test(
            (a, b), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples", n_resamples=9999,
            vectorized=True, rng=0,
        )  # fmt: skip
        # exact up to 13 pairs; beyond, two independent draws of 10,000
        assert paired_permutation(a, b) == pytest.approx(theirs.pvalue, abs=1e-12 if n < 13 else 0.02)
    assert paired_permutation([1, 2, 3, math.nan], [0, 1, 2, 3]) == 2 / 8
    assert paired_permutation([1.0] * 20, [1.0] * 20) == 1.0
    assert math.isnan(paired_permutation([], []))
    assert paired_permutation(a, b) == paired_permutation(a, b) == paired_permutation(b, a)
    with pytest.raises(InputError, match="as many values"):
        paired_permutation([1.0], [1.0, 2.0])


def test_permutation_test_keeps_its_level():
    rng = np.random.default_rng(0)
    found = [paired_permutation(*rng.normal(size=(2, 12)), n=500, seed=i) < 0.05 for i in range(400)]
    assert np.mean(found) < 0.085


def test_holm_by_hand():
    # the example of Holm's procedure: 0.01 * 4, 0.03 * 3, 0.04 * 2 (raised to the one before), 0.005 is first
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, math.nan, 0.9])[0] == 1.0
    assert math.isnan(holm([0.5, math.nan, 0.9])[1])
    assert holm([]) == []


def test_effect_size_and_examples_needed():
    a, b = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.0, 2.0, 2.0, 2.0])
    assert effect_size(a, b) == pytest.approx(1 / np.std([1, 0, 1, 2], ddof=1))
    assert effect_size(b, a) == -effect_size(a, b)
    assert effect_size(a, a) == 0.0 and examples_needed(a, a) is None
    assert effect_size(a + 1, a) == math.inf and examples_needed(a + 1, a) == 6
    assert math.isnan(effect_size([1.0], [2.0])) and examples_needed([1.0], [2.0]) is None
    rng = np.random.default_rng(0)
    difference = rng.normal(size=200000)
    difference = (difference - difference.mean()) / difference.std() + 0.5
    # a paired t-test needs 34 pairs for d = 0.5, alpha = 0.05, power = 0.8 (Cohen 1988, G*Power)
    assert examples_needed(difference, np.zeros_like(difference)) == 34


def test_examples_needed_are_enough():
    """Power by simulation: with as many examples as it says, four of five tests find the difference."""
    rng = np.random.default_rng(0)
    seen = rng.normal(size=1000)
    seen = (seen - seen.mean()) / seen.std(ddof=1) + 0.6
    n = examples_needed(seen, np.zeros(1000))
    found = [paired_permutation(rng.normal(0.6, 1, n), np.zeros(n), n=400, seed=i) < 0.05 for i in range(300)]
    assert 0.72 < np.mean(found) < 0.9


def test_power_note():
    rng = np.random.default_rng(0)
    near, far = rng.normal(0.3, 1, 30), rng.normal(3, 1, 30)
    more = examples_needed(near, np.zeros(30)) - 30
    assert power_note(near, np.zeros(30)) == f"about {more} more examples would separate these two (n=30)"
    assert power_note(far, np.zeros(30)) == "enough examples to separate these two (n=30)"
    assert power_note(far, far) == "no difference seen (n=30)"


def test_compare_pairs_examples_and_not_steps():
    rng = np.random.default_rng(0)
    base = rng.normal(size=20)
    rows = []
    for name, shift in (("a", 0.5), ("b", 0.0), ("c", 0.0)):
        for i in range(20):
            noise = rng.normal(0, 0.1, size=3)
            rows += [{"method": name, "example": i, "value": base[i] + shift + x} for x in noise]
    rows += [{"method": "a", "example": 99, "value": 7.0}]  # only one of the methods has this example
    table = compare(pd.DataFrame(rows))
    assert table[["a", "b"]].to_numpy().tolist() == [["a", "b"], ["a", "c"], ["b", "c"]]
    assert table["n"].tolist() == [20, 20, 20]
    assert table["difference"].tolist() == pytest.approx([0.5, 0.5, 0.0], abs=0.06)
    assert (table["p_holm"] >= table["p"]).all()
    assert table["p_holm"].lt(0.01).tolist() == [True, True, False]
    assert (table["low"] <= table["difference"]).all() and (table["difference"] <= table["high"]).all()
    alone = paired_bootstrap_difference([1.0, 2.0], [0.0, math.nan])
    assert (alone.mean, alone.n) == (1.0, 1)
    assert compare(pd.DataFrame({"method": ["a"], "example": [0], "value": [1.0]})).empty


def test_differences_of_rounding_need_no_number_of_examples():
    a = np.array([0.5, 0.25, 0.125])
    assert examples_needed(a + np.array([1e-12, -1e-12, 1e-20]), a) is None


def test_two_level_interval_has_the_variance_of_both_levels():
    """Of independent levels the variances add: seeds' / 5 + examples' / 40."""
    rng = np.random.default_rng(0)
    seeds, examples = rng.normal(0, 1.0, 5), rng.normal(0, 2.0, 40)
    found = two_level_interval(seeds[:, None] + examples[None], level=0.95, n=20000)
    expected = 1.96 * math.sqrt(seeds.var() / 5 + examples.var() / 40)
    assert (found.high - found.low) / 2 == pytest.approx(expected, rel=0.05)
    assert found.mean == pytest.approx(seeds.mean() + examples.mean()) and found.n == 40


def test_two_level_interval_with_gaps_and_of_one_seed():
    one = np.arange(10.0)[None]
    assert two_level_interval(one) == bootstrap_interval(one[0])
    gaps = np.array([[1.0, 2.0, np.nan, np.nan], [1.0, np.nan, 3.0, np.nan]])
    found = two_level_interval(gaps)
    assert found.mean == 2 and found.n == 3 and 1 <= found.low <= found.high <= 3
