"""Tables of an evaluation with an n, an interval and tests of differences."""

from __future__ import annotations

import math
import time

import numpy as np
import pandas as pd
import pytest

from attriflow.evaluation.significance import comparison_table, summary_table
from attriflow.evaluation.tables import SCORE_COLUMNS
from attriflow.statistics import (
    bootstrap_interval,
    compare,
    effect_size,
    examples_needed,
    paired_bootstrap_difference,
    paired_permutation,
    power_note,
)


def scores(examples=30, methods=("good", "fair", "bad"), metrics=("up", "down"), gap=0.5, missing=True):
    rng, rows = np.random.default_rng(0), []
    for metric in metrics:
        for i in range(examples):
            hard = rng.normal()
            for place, method in enumerate(methods):
                sign = -1 if metric == "down" else 1
                for step in range(2):
                    value = hard + sign * gap * (len(methods) - place) + rng.normal(scale=0.3)
                    gone = missing and method == "bad" and (i == 0 or (i == 1 and step == 0))
                    rows.append((i, step, "token", method, metric, None if gone else value, "why" if gone else None))
    frame = pd.DataFrame(rows, columns=list(SCORE_COLUMNS))
    return frame.astype({"value": "float64"})


def test_every_mean_has_an_interval_and_an_n():
    table = scores()
    found = summary_table(table).set_index(["method", "metric"])
    assert list(found.columns) == ["mean", "low", "high", "n", "skipped_steps"]
    for (method, metric), row in found.iterrows():
        part = table[(table["method"] == method) & (table["metric"] == metric)]
        means = part.groupby("example")["value"].mean()
        assert tuple(row[["mean", "low", "high", "n"]]) == pytest.approx(bootstrap_interval(means))
    assert found.loc[("bad", "up"), "n"] == 29 and found.loc[("bad", "up"), "skipped_steps"] == 3
    assert found.loc[("good", "up"), "n"] == 30 and found.loc[("good", "up"), "skipped_steps"] == 0


def test_pairs_are_tested_within_each_metric():
    table = scores()
    found = comparison_table(table, {"up": True, "down": False})
    assert len(found) == 6 and set(found["metric"]) == {"up", "down"}
    assert found["better"].tolist() == ["good", "good", "fair"] * 2
    for _, row in found.iterrows():
        part = table[table["metric"] == row["metric"]].groupby(["method", "example"])["value"].mean()
        a, b = part[row["a"]].to_numpy(), part[row["b"]].to_numpy()
        interval = paired_bootstrap_difference(a, b)
        assert (row["difference"], row["low"], row["high"], row["n"]) == pytest.approx(interval)
        assert row["p"] == paired_permutation(a, b)
        assert row["effect"] == pytest.approx(effect_size(a, b))
        strict = 1 - 0.05 / 3  # three pairs
        assert row["examples_needed"] == examples_needed(a, b, level=strict)
        assert (
            row["note"] == power_note(a, b, level=strict) == f"enough examples to separate these two (n={interval.n})"
        )
    one = found[found["metric"] == "up"]
    pd.testing.assert_frame_equal(
        one.drop(columns=["metric", "better"]), compare(table[table["metric"] == "up"]), check_dtype=False
    )


def test_notes_expect_the_correction_for_many_pairs():
    """No pair is told that its examples are enough while the correction takes its difference away."""
    rng = np.random.default_rng(1)
    rows = [
        (example, 0, f"m{number}", "up", 0.02 * number + rng.normal(0, 0.08))
        for example in range(30)
        for number in range(24)
    ]
    found = comparison_table(pd.DataFrame(rows, columns=["example", "step", "method", "metric", "value"]), {"up": True})
    assert len(found) == 276
    enough = found["examples_needed"] <= found["n"]
    assert enough.sum() > 50 and found[enough]["better"].notna().mean() > 0.95
    assert found["note"].str.startswith("enough").eq(enough).all()
    # the smallest p-value that there can be is still one after it was multiplied by the number of pairs
    assert found["p_holm"].min() < 0.006


def test_what_examples_do_not_tell_is_not_called_better():
    few = comparison_table(scores(examples=8, gap=0.02, missing=False), {"up": True, "down": False})
    assert few["better"].isna().all()
    assert few["note"].str.contains(r"about \d+ more examples would separate these two \(n=8\)").any()
    undirected = comparison_table(scores(), {"up": True})
    assert undirected[undirected["metric"] == "down"]["better"].isna().all()
    assert undirected[undirected["metric"] == "up"]["better"].notna().all()


def test_a_difference_that_is_there_is_found_as_often_as_promised():
    """With as many examples as `examples_needed` asks for, four of five tests find the difference."""
    rng = np.random.default_rng(3)
    n = examples_needed(0.5 + np.array([-1.0, 1.0] * 50) * math.sqrt(0.99), np.zeros(100))
    assert 30 < n < 40  # d_z 0.5, textbooks: 34
    p = [paired_permutation(rng.normal(0.5, 1, n), np.zeros(n), n=999, seed=s) for s in range(300)]
    assert 0.72 < np.mean(np.array(p) <= 0.05) < 0.88


@pytest.mark.parametrize("frame", [scores(examples=0), scores(methods=("alone",))])
def test_nothing_to_compare(frame):
    assert len(comparison_table(frame, {})) == 0
    assert "better" in comparison_table(frame, {})
    assert len(summary_table(frame)) == (2 if len(frame) else 0)


def test_many_methods_and_metrics_take_seconds():
    table = scores(examples=32, methods=[f"m{i}" for i in range(25)], metrics=[f"up{i}" for i in range(4)])
    start = time.process_time()  # of this process: other programs share the machine
    assert len(comparison_table(table, {})) == 4 * 300
    assert time.process_time() - start < 10  # one call per pair took 20 s
