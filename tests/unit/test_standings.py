"""Leaderboards over many evaluations, against what one can work out by hand or with the plain statistics."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from attriflow.errors import UnknownNameError
from attriflow.statistics import bootstrap_interval, holm, paired_permutation
from attriflow.statistics.standings import COSTS, Evaluated, standings
from attriflow.views.evaluations.console_leaderboard import leaderboard_table
from attriflow.views.evaluations.standings import as_json, flat, markdown, plotted, standings_html

HIGHER = {"good": True, "bad": False}
FAMILIES = {"good": "faithfulness", "bad": "plausibility"}
N = 20


def evaluated(values, *, failed=(), costs=None, problems=None, families=None):
    """`values`: (model, inputs, method, metric) -> one value per example."""
    places = list(dict.fromkeys((m, i, x) for m, i, x, _ in values))
    cells = []
    for model, inputs, method in [*places, *failed]:
        bad = (model, inputs, method) in failed
        row = {"model": model, "inputs": inputs, "data": f"{inputs} data", "method": method}
        row |= {"family": (families or {}).get(method, "x"), "status": "failed" if bad else "ok"}
        row |= {"reason": "it broke" if bad else "", **dict.fromkeys(COSTS, np.nan)}
        cells.append(row | {"forward_equivalents": np.nan if bad else (costs or {}).get(method, 1.0)})
    keyed = {**values, **{(*place, metric): [np.nan] for place in failed for metric in HIGHER}}
    examples = [
        {"model": a, "inputs": b, "method": c, "metric": d, "example": i if len(v) > 1 else -1, "value": x}
        for (a, b, c, d), v in keyed.items()
        for i, x in enumerate(v)
    ]
    return Evaluated(
        cells=pd.DataFrame(cells),
        examples=pd.DataFrame(examples),
        problems=problems or {},
        higher_is_better=HIGHER,
        families=FAMILIES,
    )


def noisy(mean, seed, spread=0.1):
    return mean + spread * np.random.default_rng(seed).standard_normal(N)


@pytest.fixture(scope="module")
def three():
    """A method that is clearly best, two that are alike, one that failed; one model."""
    base = noisy(0, 0)
    values = {("m", "d", "best", "good"): 0.9 + base, ("m", "d", "best", "bad"): 0.1 + base}
    values |= {("m", "d", "one", "good"): 0.5 + noisy(0, 1), ("m", "d", "one", "bad"): 0.5 + noisy(0, 2)}
    values |= {("m", "d", "two", "good"): 0.5 + noisy(0, 3), ("m", "d", "two", "bad"): 0.5 + noisy(0, 4)}
    costs = {"best": 10.0, "one": 1.0, "two": 2.0}
    return values, evaluated(values, failed=[("m", "d", "broken")], costs=costs)


def test_means_and_intervals_are_the_plain_ones(three):
    values, found = three
    rows = standings(found).rows.set_index("row")
    for (_, _, method, metric), numbers in values.items():
        mean, low, high, n = bootstrap_interval(numbers)
        assert rows.loc[method, metric] == pytest.approx(mean)
        assert tuple(rows.loc[method, [f"{metric}_low", f"{metric}_high", f"{metric}_n"]]) == pytest.approx(
            (low, high, n)
        )


def test_ranks_wins_and_the_pareto_front(three):
    _, found = three
    board = standings(found)
    rows = board.rows.set_index("row")
    assert rows.index[0] == "best" and rows.index[-1] == "broken"
    assert rows.loc["best", "rank"] == 1 and np.isnan(rows.loc["broken", "rank"])
    assert rows.loc["best", ["wins", "ties", "losses"]].tolist() == [4, 0, 0]
    assert rows.loc["one", ["wins", "ties", "losses"]].tolist() == [0, 2, 2]
    assert rows.loc["best", "rank (faithfulness)"] == 1
    cheap = min(("one", "two"), key=lambda m: rows.loc[m, "rank"])
    expected = {"best", "one"} | ({"two"} if cheap == "two" else set())
    assert set(rows.index[rows["pareto"]]) == expected
    assert board.failures.to_dict("records") == [
        {"row": "broken", "model": "m", "method": "broken", "metric": "", "reason": "it broke"}
    ]


def test_p_values_are_those_of_the_paired_test_corrected_within_a_metric(three):
    values, found = three
    pairs = standings(found).pairs
    for metric, part in pairs.groupby("metric"):
        alone = [
            paired_permutation(values["m", "d", a, metric], values["m", "d", b, metric], n=2000)
            for a, b in zip(part["a"], part["b"], strict=True)
        ]
        assert part["p"].tolist() == pytest.approx(alone)
        assert part["p_holm"].tolist() == pytest.approx(holm(alone))
        assert len(part) == 3 and "broken" not in set(part["a"]) | set(part["b"])


def test_who_has_no_value_has_no_rank_and_a_reason():
    values = {("m", "d", "a", "good"): noisy(0.1, 0), ("m", "d", "b", "good"): noisy(0.9, 1)}
    values |= {("m", "d", "a", "bad"): noisy(0.9, 2), ("m", "d", "b", "bad"): [np.nan]}
    board = standings(evaluated(values, problems={("m", "d", "b", "bad"): "constant scores"}))
    rows = board.rows.set_index("row")
    assert rows.loc["a", ["rank", "rank (faithfulness)", "rank (plausibility)"]].tolist() == [1.5, 2, 1]
    assert rows.loc["b", ["status", "reason"]].tolist() == ["partial", "values for bad: 0 of 20 examples"]
    assert np.isnan(rows.loc["b", "rank"]) and rows.loc["b", "rank (faithfulness)"] == 1
    assert np.isnan(rows.loc["b", "bad"])
    assert board.failures["reason"].tolist() == ["constant scores"]


def test_who_fails_a_gate_is_ranked_where_it_passes():
    values = {
        (m, "d", x, "good"): noisy(v, i) for i, m in enumerate("pq") for x, v in (("a", 0.9), ("b", 0.5), ("c", 0.1))
    }
    found = evaluated(values)
    shut = replace(found, gated={("p", "d", "a"): "control (0.01)"})
    rows = standings(shut).rows.set_index("row")
    # first on q; on p it has no place, and b and c are the first two
    assert rows["rank"].to_dict() == {"a": 1, "b": 1.5, "c": 2.5} and rows["status"].eq("ok").all()
    nowhere = replace(found, gated={(m, "d", "a"): "control (0.01)" for m in "pq"})
    board = standings(nowhere)
    rows = board.rows.set_index("row")
    assert rows.loc["a", ["status", "gates_failed"]].tolist() == ["gated", "control (0.01)"]
    assert rows["rank"].fillna(0).to_dict() == {"a": 0, "b": 1, "c": 2} and rows.index[-1] == "a"
    assert "| – (gate not passed: control (0.01)) |" in markdown(board)
    assert rows.loc["a", "good"] == pytest.approx(np.mean([values[m, "d", "a", "good"].mean() for m in "pq"]))


def test_several_seeds_widen_the_interval_and_have_their_spread():
    values = {("m", "d", "a", "good"): noisy(0.5, 0, 0.01), ("m", "d", "b", "good"): noisy(0.1, 1, 0.01)}
    shifts = {"0": -0.1, "1": 0.0, "2": 0.1}
    rows = [
        ("m", "d", "a", "good", i, x + shift, name)
        for name, shift in shifts.items()
        for i, x in enumerate(values["m", "d", "a", "good"])
    ]
    seeded = pd.DataFrame(rows, columns=["model", "inputs", "method", "metric", "example", "value", "seed"])
    found = evaluated(values)
    board = standings(replace(found, seeded=seeded)).rows.set_index("row")
    assert board.loc["a", "good_seed_sd"] == pytest.approx(0.1) and np.isnan(board.loc["b", "good_seed_sd"])
    mean = values["m", "d", "a", "good"].mean()
    assert board.loc["a", "good"] == pytest.approx(mean)
    # three seeds drawn with replacement: all alike at the lowest in 1 of 27, so that 2.5% below is that one
    assert board.loc["a", "good_low"] == pytest.approx(mean - 0.1, abs=0.01)
    assert board.loc["a", "good_high"] == pytest.approx(mean + 0.1, abs=0.01)
    plain = standings(found).rows.set_index("row")
    assert plain.loc["a", "good_high"] - plain.loc["a", "good_low"] < 0.02 and "good_seed_sd" not in plain


def test_what_does_not_apply_costs_nothing():
    values = {("m", "d", "a", "good"): noisy(0.1, 0), ("m", "d", "b", "good"): noisy(0.9, 1)}
    values |= {("m", "d", "a", "bad"): noisy(0.9, 2), ("m", "d", "b", "bad"): [np.nan]}
    problems = {("m", "d", "b", "bad"): "no value for any step: not applicable: b promises nothing"}
    rows = standings(evaluated(values, problems=problems)).rows.set_index("row")
    assert rows.loc["b", ["rank", "status"]].tolist() == [1, "ok"] and rows.loc["a", "rank"] == 1.5


def test_a_row_is_ranked_with_values_for_enough_examples():
    few = np.where(np.arange(N) < 3, 0.9, np.nan)
    values = {("m", "d", "a", "good"): noisy(0.1, 0), ("m", "d", "b", "good"): few}
    found = evaluated(values)
    rows = standings(found).rows.set_index("row")
    assert rows.loc["b", "status"] == "partial" and rows.loc["b", "reason"] == "values for good: 3 of 20 examples"
    assert rows.loc["a", "rank"] == 1 and np.isnan(rows.loc["b", "rank"]) and rows.index.tolist() == ["a", "b"]
    assert standings(found, floor=0.15).rows.set_index("row").loc["b", "rank"] == 1


@pytest.mark.parametrize(("n", "wins"), [(13, 0), (14, 300)])
def test_where_no_pair_could_be_told_apart_the_board_says_so(n, wins):
    """25 methods are 300 pairs: 2 / 2^13 * 300 = 0.073, 2 / 2^14 * 300 = 0.037."""
    values = {("m", "d", f"x{i}", "good"): i + 1e-4 * np.arange(n) for i in range(25)}
    board = standings(evaluated(values))
    assert board.rows["wins"].sum() == wins and board.rows["ties"].sum() == 0
    said = [note for note in board.notes if "good: 13 examples cannot tell any of 300 pairs apart" in note]
    assert bool(said) == (wins == 0) and all("14 could" in note for note in said)


def test_methods_are_compared_within_a_model():
    """Between models the numbers differ a lot, between methods a little: only pairs see it."""
    values = {}
    for i, model in enumerate("abc"):
        level = noisy(i, i, 0.5)
        values[model, "d", "x", "good"], values[model, "d", "y", "good"] = level + 0.05, level
    board = standings(evaluated(values))
    assert board.pairs["winner"].tolist() == ["x"]
    assert board.pairs["n"].tolist() == [N]  # the same inputs for three models are no more examples
    assert board.pairs["difference"].item() == pytest.approx(0.05)
    both = standings(evaluated(values), "both")
    assert both.rows["group"].nunique() == 3 and len(both.pairs) == 3
    assert [label.partition(" · ")[0] for label in both.rows["label"]] == ["x", "y"] * 3


def test_models_are_compared_on_the_same_inputs_only():
    values = {("a", "d", "x", "good"): noisy(0.9, 0), ("b", "d", "x", "good"): noisy(0.1, 1)}
    board = standings(evaluated(values), "model")
    assert board.pairs["winner"].tolist() == ["a"]
    assert board.rows["rank"].tolist() == [1, 2]
    apart = {("a", "d", "x", "good"): noisy(0.9, 0), ("b", "e", "x", "good"): noisy(0.1, 1)}
    board = standings(evaluated(apart), "model")
    assert board.pairs.empty and board.rows["rank"].isna().all() and board.rows["good_place"].isna().all()
    assert "listed, not compared" in " ".join(board.notes)


def test_a_method_that_one_model_lacks_is_ranked_where_it_is():
    values = {(m, "d", x, "good"): noisy(0.9 if x == "x" else 0.1, i) for i, m in enumerate("ab") for x in "xyz"}
    del values["b", "d", "x", "good"]
    board = standings(evaluated(values))
    rows = board.rows.set_index("row")
    assert rows.loc["x", "rank"] == 1 and (rows.loc["x", "blocks"], rows.loc["x", "of_blocks"]) == (1, 2)
    assert "1 of 3 rows lack results" in " ".join(board.notes)


def test_many_rows_are_not_tested_in_pairs():
    values = {("m", "d", f"x{i}", "good"): noisy(0, i) for i in range(41)}
    board = standings(evaluated(values))
    assert board.pairs.empty and "at most 40 rows" in " ".join(board.notes)
    assert board.rows["rank"].min() == 1


def test_an_unknown_grouping_is_named():
    with pytest.raises(UnknownNameError, match="did you mean 'method'"):
        standings(evaluated({("m", "d", "x", "good"): noisy(0, 0)}), "metod")


def test_families_of_methods(three):
    _, found = three
    families = standings(found).by_family()
    assert families["best"].tolist() == ["best"] and families["methods"].tolist() == [3]


def test_exports_have_the_numbers(three):
    _, found = three
    board = standings(found)
    content = json.loads(as_json(board))
    assert content["rows"][0]["label"] == "best"
    assert len(content["pairs"]) == 6 and content["metrics"]["bad"]["higher_is_better"] is False
    assert flat(board)["good"].tolist()[:3] == board.rows["good"].tolist()[:3]
    text = markdown(board)
    assert "| best | 1 | 4–0–0 |" in text and "| broken | failed: it broke |" in text
    table = leaderboard_table(plotted(board), board.higher_is_better)
    assert table.row_count == 4


def test_the_page_escapes_and_has_every_part(three):
    values = {("<b>m</b>", "d", x, "good"): noisy(0.9, i) for i, x in enumerate(("<i>x</i>", "y"))}
    page = standings_html(standings(evaluated(values), "both"), title="<script>", figures={}, runs=[{"run": "<u>"}])
    assert "<i>x</i>" not in page and "<b>m</b>" not in page and "<u>" not in page
    assert "&lt;i&gt;x" in page
    _, found = three
    page = standings_html(standings(found), title="t", figures={})
    assert "it broke" in page and "4–0–0" in page


def test_methods_that_explain_alike_share_a_row(three):
    """`twin` would take a place from all others."""
    values, _ = three
    twin = {(m, d, "twin", metric): x for (m, d, name, metric), x in values.items() if name == "best"}
    both = evaluated({**values, **twin})
    assert standings(both).rows.set_index("row").loc["best", "rank"] == 1.5
    alike = standings(replace(both, alike={("m", "d", "twin"): "best"}))
    rows, alone = alike.rows.set_index("row"), standings(evaluated(values)).rows.set_index("row")
    for name in alone.index:
        pd.testing.assert_series_equal(rows.loc[name, alone.columns], alone.loc[name], check_names=False)
    same = ["rank", "rank (faithfulness)", "wins", "ties", "losses", "good"]
    assert rows.loc["twin", same].tolist() == rows.loc["best", same].tolist()
    assert rows["same_as"].to_dict() == {"best": "", "twin": "best", "one": "", "two": ""}
    assert "twin" not in {*alike.pairs["a"], *alike.pairs["b"]}
    assert "| best = twin | 1 | 4–0–0 |" in markdown(alike) and "best = twin" in standings_html(
        alike, title="x", figures={}
    )
    assert set(flat(alike)["label"]) == {"best", "twin", "one", "two"}
    console = leaderboard_table(plotted(alike), HIGHER)
    assert "best = twin" in [str(cell) for cell in console.columns[1].cells]
    # alike on one model only: two rows, as they are not the same on the other
    other = {("n", *key[1:]): x + 0.01 for key, x in {**values, **twin}.items()}
    apart = replace(evaluated({**values, **twin, **other}), alike={("m", "d", "twin"): "best"})
    assert not standings(apart).rows["same_as"].any()


def test_models_are_compared_once_by_methods_that_explain_alike():
    """By model a method is a block: a twin on every model would count twice what its first says."""
    values = {("m", "d", "best", "good"): noisy(0.9, 0), ("n", "d", "best", "good"): noisy(0.5, 1)}
    values |= {("m", "d", "other", "good"): noisy(0.3, 2), ("n", "d", "other", "good"): noisy(0.6, 3)}
    twin = {(m, d, "twin", metric): x for (m, d, name, metric), x in values.items() if name == "best"}
    both, alone = evaluated({**values, **twin}), standings(evaluated(values), "model")
    # best and twin for m, other for n: 4/3; as one method, each wins once
    assert standings(both, "model").rows.set_index("row").loc["m", "rank"] == pytest.approx(4 / 3)
    once = standings(replace(both, alike={(m, "d", "twin"): "best" for m in ("m", "n")}), "model")
    assert once.rows["rank"].tolist() == [1.5, 1.5]
    pd.testing.assert_frame_equal(once.rows, alone.rows)
    pd.testing.assert_frame_equal(once.pairs, alone.pairs)
    assert "twin on d: explains as best on d does on every model, and counts with it." in once.notes
    # a twin on one model only, or of a method that lacks a model, is a method of its own
    apart = [replace(both, alike={("m", "d", "twin"): "best"})]
    lacking = {k: v for k, v in {**values, **twin}.items() if k[:3] != ("n", "d", "best")}
    apart += [replace(evaluated(lacking), alike={("m", "d", "twin"): "best", ("n", "d", "twin"): "best"})]
    assert all(board.blocks.max() == 3 for board in (standings(a, "model").rows for a in apart))


def test_metrics_with_the_same_values_count_once():
    """`a` wins on three metrics that are one, and loses on the fourth of the family: 1.5 each, not 1.25 and 1.75."""
    base, names = np.arange(4.0), ("x", "x2", "x3", "y")
    values = {("m", "d", "a", n): base + (1 if n != "y" else 0) for n in names}
    values |= {("m", "d", "b", n): base + (0 if n != "y" else 1) for n in names}
    found = replace(evaluated(values), higher_is_better=dict.fromkeys(names, True), families=dict.fromkeys(names, "f"))
    board = standings(found)
    assert board.rows["rank"].tolist() == [1.5, 1.5]
    assert "x2, x3: the values of x, with which they count once." in board.notes
    apart = replace(found, families={"x": "f", "x2": "g", "x3": "f", "y": "f"})
    assert standings(apart).rows.set_index("row").loc["a", "rank"] == pytest.approx((1.5 + 1) / 2)
    # where another model tells them apart, they count there
    other = {("n", *k[1:]): x.copy() for k, x in values.items()}
    other["n", "d", "a", "x2"][0] -= 9
    two = standings(replace(found, cells=pd.concat([found.cells, evaluated(other).cells]), examples=pd.concat(
        [found.examples, evaluated(other).examples], ignore_index=True)))  # fmt: skip
    # a: 1, 2 on m; 1, 2, 2 on n (x2 is lost there, x3 is x)
    assert two.rows.set_index("row").loc["a", "rank"] == pytest.approx((1 + 2 + 1 + 2 + 2) / 5)


def test_places_gained_by_ones_own_perturbation():
    """On one evaluation the number of its own board; over two, of the mean places."""
    values = {("m", "d", x, "good"): np.full(4, v) for x, v in (("a", 3.0), ("b", 2.0), ("c", 1.0))}
    values |= {("m", "d", x, "bad"): np.full(4, v) for x, v in (("a", 3.0), ("b", 2.0), ("c", 1.0))}
    own = {("m", "d", "a"): ["good"], ("m", "d", "c"): ["bad"]}
    board = standings(replace(evaluated(values), own=own, faithful=["good", "bad"]))
    rows = board.rows.set_index("row")
    # a is first on `good`, its own, and last on `bad`; c the other way round: 3 - 1 each
    assert rows["places_gained"].dropna().to_dict() == {"a": 2, "c": 2}
    assert rows["scored_by_own"].to_dict() == {"a": "good", "b": "", "c": "bad"}
    assert "places gained by its own perturbation" in standings_html(board, title="x", figures={})
    assert standings(replace(evaluated(values), own=own, faithful=["good"])).rows["places_gained"].isna().all()


def test_groups_without_a_difference_in_the_diagram(three):
    from attriflow.views.evaluations.standings_plots import cliques, critical_differences, mean_places

    values, found = three
    board = standings(found)
    places = mean_places(board, "good", "")
    order = np.argsort(np.argsort(-np.array([values["m", "d", x, "good"] for x in places]), axis=0), axis=0) + 1
    assert list(places.values()) == pytest.approx(order.mean(1).tolist())
    assert next(iter(places)) == "best"
    assert cliques(board, "good", "", list(places)) == [(1, 2)]
    figure = critical_differences(board, ["good", "bad"])
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["good ↑", "bad ↓"]
    names = {text.get_text().split()[0] for axes in figure.axes for text in axes.texts}
    names |= {text.get_text().split()[-1] for axes in figure.axes for text in axes.texts}
    assert {"best", "one", "two"} <= names and "broken" not in names
