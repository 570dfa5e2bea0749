"""Gates and redundancy, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from attriflow.statistics.gates import examples_to_tell, failed, gates, net_wins
from attriflow.statistics.ranking import correlations, effective_number, redundancy, same_metrics

HIGHER = {"up": True, "down": False}


def table(values):
    """`values`: method -> metric -> one number per example."""
    parts = {m: pd.DataFrame(v) for m, v in values.items()}
    return pd.concat(parts, names=["method", "example"])


def test_net_wins_are_counted_per_example():
    a = pd.DataFrame({"up": [1.0, 0.0, np.nan, np.nan], "down": [0.0, 0.5, 0.0, np.nan]})
    b = pd.DataFrame({"up": [0.0, 1.0, 1.0, 1.0], "down": [1.0, 0.5, 1.0, 1.0]})
    assert net_wins(a, b, ["up", "down"], HIGHER).tolist()[:3] == [1.0, -0.5, 1.0]
    assert math.isnan(net_wins(a, b, ["up", "down"], HIGHER)[3])


def test_a_method_must_beat_the_signed_control():
    n, rng = 12, np.random.default_rng(0)
    values = {
        "good": {"up": [1.0] * n, "down": [0.0] * n},
        "reversed": {"up": [-1.0] * n, "down": [2.0] * n},
        "random": {"up": rng.random(n).tolist(), "down": rng.random(n).tolist()},
    }
    found = gates(table(values), HIGHER, ["up", "down"]).set_index(["gate", "method"])
    good, bad = found.loc[("control", "good")], found.loc[("control", "reversed")]
    # all twelve signs agree: 2 of 4096 sign flips are as extreme, twice for two methods
    assert good["value"] == 1 and good["passed"] is True and good["p_holm"] == pytest.approx(4 / 4096)
    assert bad["value"] == -1 and bad["passed"] is False
    assert failed(found.reset_index()) == {"reversed": "control (-1.00)"}
    assert "did not run" in found.loc[("randomisation", "good"), "why"]


def test_scores_without_a_sign_are_held_against_a_control_without():
    """An unsigned method that is no better than unsigned noise beats signed noise by what it may remove."""
    n = 12
    levels = {"random": 0.0, "random_unsigned": 2.0, "noise": 2.0, "better": 3.0, "signed": 1.0}
    values = table({m: {"up": [x] * n} for m, x in levels.items()})
    found = gates(values, HIGHER, ["up"], unsigned={"random_unsigned", "noise", "better"})
    control = found[found["gate"] == "control"].set_index("method")
    assert control["value"].to_dict() == {"noise": 0, "better": 1, "signed": 1}
    assert control["passed"].to_dict() == {"noise": False, "better": True, "signed": True}


def test_few_examples_test_no_gate_and_say_how_many_would():
    values = {m: {"up": [x] * 4} for m, x in (("a", 1.0), ("b", 2.0), ("random", 0.0))}
    found = gates(table(values), HIGHER, ["up"])
    control = found[found["gate"] == "control"]
    assert control["passed"].isna().all() and failed(found) == {}
    # 2 / 2^n * 2 <= 0.05 from n = 7
    assert examples_to_tell(2) == 7 and all("4 examples could not tell" in w and "7 could" in w for w in control["why"])


def test_randomisation_and_completeness_have_their_limits():
    values = {
        "honest": {"parameter_randomisation": [0.2, 0.4], "completeness_error": [0.01, 0.02]},
        "constant": {"parameter_randomisation": [1.0, 1.0], "completeness_error": [np.nan, np.nan]},
        "few points": {"parameter_randomisation": [0.1, 0.1], "completeness_error": [0.07, 0.07]},
    }
    found = gates(table(values), HIGHER, []).set_index(["gate", "method"])
    assert found.loc["randomisation"]["value"].tolist() == pytest.approx([0.3, 1.0, 0.1])
    assert found.loc["randomisation"]["passed"].tolist() == [True, False, True]
    assert found.loc["completeness"]["passed"].tolist() == [True, None, False]
    assert failed(found.reset_index()) == {"constant": "randomisation (1.00)", "few points": "completeness (0.07)"}


def test_a_seed_that_moves_a_method_past_its_neighbour_fails():
    """Four methods on one metric, ranks 1 to 4 by hand; `far` keeps its place under both seeds, `near` loses two."""
    level = {"far": 9.0, "near": 3.0, "b": 2.0, "c": 1.0}
    values = table({m: {"up": [x] * 2, "down": [0.5] * 2} for m, x in level.items()})

    def seed(x):
        return pd.DataFrame({"up": [x] * 2}, index=[0, 1])

    seeded = {"far": [seed(8.0), seed(7.0)], "near": [seed(0.0), seed(2.5)], "b": [], "c": None}
    found = gates(values, HIGHER, [], seeded=seeded)
    found = found[found["gate"] == "seed"].set_index("method")
    assert found.loc["far", ["value", "limit", "n", "passed"]].tolist() == [0, 1, 2, True]
    # ranks 2, 4 and 2: variance ((2/3)^2 + (4/3)^2 + (2/3)^2) / 2 = 4/3
    assert found.loc["near", "value"] == pytest.approx((4 / 3) ** 0.5) and found.loc["near", "limit"] == 1
    assert found.loc["near", "passed"] is False and found["passed"].tolist()[2:] == [None, None]
    assert found["why"].tolist()[2:] == ["it draws no random numbers", "it was not tried with other seeds"]
    assert failed(gates(values, HIGHER, [], seeded=seeded)) == {"near": "seed (1.15)"}
    # a method that explains as another one is nobody's neighbour
    twins = gates(values, HIGHER, [], seeded={m: s for m, s in seeded.items() if m != "b"})
    twins = twins[twins["gate"] == "seed"].set_index("method")
    assert twins.loc["near", "value"] == pytest.approx((1 / 3) ** 0.5)
    assert "as another" in twins.loc["b", "why"]


def test_metrics_with_the_same_values_are_one():
    values = pd.DataFrame(
        {"a": [1.0, 2.0, np.nan], "b": [1.0, 2.0, np.nan], "c": [1.0, 2.0, 3.0], "d": [1.0, 2.0, np.nan]}
    )
    assert same_metrics(values, {"a": "x", "b": "x", "c": "x", "d": "y"}) == {"b": "a"}


def test_the_effective_number_counts_what_is_independent():
    eye = pd.DataFrame(np.eye(4), index=list("abcd"), columns=list("abcd"))
    assert effective_number(eye) == pytest.approx(4)
    assert effective_number(eye * 0 + 1) == pytest.approx(1)
    two = pd.DataFrame(np.kron(np.eye(2), np.ones((2, 2))))
    assert effective_number(two) == pytest.approx(2)
    r = pd.DataFrame([[1, 0.5], [0.5, 1]])  # eigenvalues 1.5 and 0.5: 4 / 2.5
    assert effective_number(r) == pytest.approx(1.6)


def test_metrics_are_correlated_by_how_they_order_methods_on_an_example():
    """Examples differ in level, which no metric's order of methods knows of."""
    values = table(
        {m: {"up": [i + 10.0, i + 0.0], "down": [-i + 5.0, -i + 50.0]} for i, m in enumerate(("a", "b", "c"))}
    )
    found = correlations(values, values.index.get_level_values("example").to_series(), HIGHER)
    assert found.loc["up", "down"] == pytest.approx(1)
    pairs = redundancy(values, HIGHER, {})
    assert pairs["correlation"].tolist() == pytest.approx([1]) and pairs["effective_number"].tolist() == pytest.approx(
        [1]
    )


def test_a_board_of_many_metrics_fits_into_100_columns():
    from rich.console import Console

    from attriflow.views.evaluations.console_leaderboard import leaderboard_table

    names = [f"a_metric_of_many_{i}" for i in range(36)]
    families = ("removal", "replacement", "plausibility", "robustness", "sanity")
    methods = [
        "occlusion",
        "discretized_integrated_gradients",
        "information_flow_routes",
        "feature_ablation",
        "constant",
    ]
    board = pd.DataFrame({"method": methods, "status": ["ok"] * 4 + ["gated"], "reason": ""})
    board["rank"] = [1.25, 2.5, 3.0, 1.25, np.nan]
    board["same_as"] = ["", "", "", "occlusion", ""]
    board["gates_failed"] = ["", "", "", "", "randomisation (1.00)"]
    board = board.assign(**dict.fromkeys(names, 0.5), **{f"rank ({f})": 2.25 for f in families})
    console = Console(width=100, record=True)
    console.print(leaderboard_table(board, dict.fromkeys(names, True)))
    lines = console.export_text().splitlines()
    shown = {line.split()[1]: line for line in lines if line.strip().startswith(("1.25", "2.5", "3 ", "–"))}
    assert shown["occlusion"].split()[:5] == ["1.25", "occlusion", "=", "feature_ablation", "2.25"]
    assert "2.5 discretized_integrated_gradients" in " ".join(shown["discretized_integrated_gradients"].split())
    assert all(family in "".join(lines) for family in families)
    assert any("– constant: gate not passed: randomisation (1.00)" in line for line in lines)


def test_the_correlation_map_shows_the_table_with_alike_metrics_side_by_side():
    from attriflow.views.evaluations.agreement import correlation_heatmap

    pairs = [("a", "b", 0.1), ("a", "c", 0.9), ("b", "c", -0.2), ("a", "d", np.nan), ("b", "d", np.nan)]
    pairs.append(("c", "d", np.nan))
    table = pd.DataFrame(pairs, columns=["first", "second", "correlation"]).assign(effective_number=2.04)
    figure = correlation_heatmap(table)
    (axes,) = [a for a in figure.axes if a.get_yticklabels() and a.get_yticklabels()[0].get_text()]
    names = [t.get_text() for t in axes.get_yticklabels()]
    assert sorted(names) == ["a", "b", "c"] and abs(names.index("a") - names.index("c")) == 1
    shown = {frozenset(names[int(x)] for x in t.get_position()): t.get_text() for t in axes.texts}
    assert [shown[frozenset(p)] for p in ("ab", "ac", "bc", "a")] == ["0.10", "0.90", "-0.20", "1.00"]
    note = "2.0 independent metrics would hold as much as these 3\nno order: d"
    assert note in [t.get_text() for t in figure.texts]
    assert "No two metrics" in correlation_heatmap(table.iloc[3:4]).axes[0].texts[0].get_text()
