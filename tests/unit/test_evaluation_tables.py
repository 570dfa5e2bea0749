"""Tidy tables and ranks."""

from __future__ import annotations

import math

import pytest
from evaluation_fakes import causal_example

from attriflow.evaluation.results import ExampleValues, MethodResult, StepScores, skipped_example
from attriflow.evaluation.tables import (
    curves_table,
    directions,
    each_value,
    leaderboard,
    scores_table,
    step_scores_table,
)
from attriflow.measuring.cost import Cost

HIGHER = {"up": True, "down": False}


def result(name: str, **values: float | None) -> MethodResult:
    found = {
        metric: [ExampleValues(values=(v,)) if v is not None else skipped_example(1, "why")]
        for metric, v in values.items()
    }
    return MethodResult(name=name, family="f", cost=Cost(seconds=1.0), values=found)


def failed(name: str) -> MethodResult:
    out = MethodResult(name=name)
    out.fail(RuntimeError("broke"))
    return out


def test_ranks_follow_directions_and_failed_methods_come_last() -> None:
    board = leaderboard(
        [failed("a"), result("b", up=0.1, down=0.9), result("c", up=0.5, down=0.1)], ["up", "down"], HIGHER, 4
    )
    assert board["method"].tolist() == ["c", "b", "a"]
    assert board["rank"].tolist()[:2] == [1.0, 2.0] and math.isnan(board["rank"].iloc[2])
    assert board["up_rank"].tolist()[:2] == [1, 2] and board["down_rank"].tolist()[:2] == [1, 2]
    assert board["status"].tolist() == ["ok", "ok", "failed"]
    assert board["reason"].tolist() == ["", "", "RuntimeError: broke"]
    assert board["n_examples"].tolist() == [4, 4, 0]
    assert set(board["directions"]) == {"up: higher, down: lower"}


def test_ties_share_the_mean_of_their_places() -> None:
    board = leaderboard([result(n, up=v) for n, v in (("a", 1.0), ("b", 1.0), ("c", 0.0))], ["up"], HIGHER, 1)
    assert board["up_rank"].tolist() == [1.5, 1.5, 3.0]


def test_missing_does_not_pay() -> None:
    board = leaderboard(
        [result("a", up=0.1, down=0.5), result("b", up=0.9, down=None)], ["up", "down"], HIGHER, 1
    ).set_index("method")
    assert math.isnan(board.loc["b", "down_rank"]) and math.isnan(board.loc["b", "rank"])
    assert board.loc["b", ["up_rank", "status", "reason"]].tolist() == [
        1,
        "partial",
        "values for down: 0 of 1 examples",
    ]
    assert board.loc["a", ["rank", "status"]].tolist() == [1.5, "ok"] and board.index.tolist() == ["a", "b"]


def many(name: str, n: int, value: float = 0.5, of: int = 10, why: str = "why") -> MethodResult:
    out = result(name)
    out.values["up"] = [ExampleValues(values=(value,)) for _ in range(n)] + [skipped_example(1, why)] * (of - n)
    return out


@pytest.mark.parametrize(("n", "floor", "ranked"), [(3, 0.5, False), (5, 0.5, True), (5, 0.6, False), (1, 0.1, True)])
def test_a_method_with_too_few_values_has_no_rank(n: int, floor: float, ranked: bool) -> None:
    board = leaderboard([many("a", 10), many("b", n, 0.9)], ["up"], HIGHER, 10, floor=floor).set_index("method")
    assert board["up_n"].to_dict() == {"a": 10, "b": n}
    assert board.loc["b", "status"] == ("ok" if ranked else "partial")
    assert board.loc["a", "rank"] == (2 if ranked else 1) and math.isnan(board.loc["b", "rank"]) != ranked


def test_what_does_not_apply_is_no_last_place() -> None:
    none = many("b", 0, why="not applicable: b promises nothing")
    none.values["down"] = [ExampleValues(values=(0.1,))] * 10
    others = [many("a", 10, 0.1), many("c", 10, 0.9)]
    for i, other in enumerate(others):
        other.values["down"] = [ExampleValues(values=(0.5 + i / 10,))] * 10
    board = leaderboard([none, *others], ["up", "down"], HIGHER, 10).set_index("method")
    assert board.loc["b", ["rank", "status"]].tolist() == [1.0, "ok"] and math.isnan(board.loc["b", "up_rank"])
    assert board.loc["a", "rank"] == 2 and board.loc["c", "rank"] == 2


def test_overall_ranks_are_means_over_families_and_double_metrics_count_once() -> None:
    names = {"up": "x", "same": "x", "other": "x", "down": "y"}
    higher = dict.fromkeys(names, True)
    values = {"a": (1, 1, 3, 3), "b": (2, 2, 2, 2), "c": (3, 3, 1, 1)}
    found = [result(m, **dict(zip(names, map(float, v), strict=True))) for m, v in values.items()]
    board = leaderboard(found, list(names), higher, 1, families=names).set_index("method")
    # family x: places 3, 2, 1 on `up` and 1, 2, 3 on `other`; `same` has the values of `up`
    assert board["rank (x)"].to_dict() == {"a": 2, "b": 2, "c": 2}
    assert board["rank (y)"].to_dict() == {"a": 1, "b": 2, "c": 3}
    assert board["rank"].to_dict() == {"a": 1.5, "b": 2, "c": 2.5}


def test_methods_that_explain_alike_share_a_place_and_gated_ones_have_none() -> None:
    found = [result(n, up=v) for n, v in (("a", 0.9), ("b", 0.8), ("twin", 0.9), ("c", 0.1), ("bad", 1.0))]
    found[2].same_as = "a"
    board = leaderboard(found, ["up"], HIGHER, 1, gates={"bad": "randomisation (1.00)"})
    assert board["method"].tolist() == ["a", "twin", "b", "c", "bad"]
    assert board["rank"].tolist()[:4] == [1, 1, 2, 3] and math.isnan(board["rank"].iloc[4])
    assert board["status"].iloc[4] == "gated" and board["gates_failed"].iloc[4] == "randomisation (1.00)"


def test_a_metric_without_any_value_has_its_column_and_no_rank() -> None:
    board = leaderboard([result("a", up=0.1, down=None)], ["up", "down"], HIGHER, 1)
    assert board["down"].isna().all() and "down_rank" not in board
    assert board["rank"].tolist() == [1.0]
    assert set(board["directions"]) == {"up: higher"}


def test_a_metric_without_direction_is_shown_and_not_ranked() -> None:
    board = leaderboard([result("a", up=0.1, odd=5.0), result("b", up=0.2, odd=9.0)], ["up", "odd"], {"up": True}, 1)
    assert "odd" in board and "odd_rank" not in board
    assert board["rank"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("results", [[failed("b"), failed("a")], [result("b"), failed("a")]])
def test_without_metrics_failed_methods_still_come_last(results: list[MethodResult]) -> None:
    board = leaderboard(results, [], {}, 1)
    assert board["status"].tolist() == sorted(board["status"], reverse=True)
    assert board["rank"].isna().all()


def test_problems_of_metrics_are_in_the_reason() -> None:
    found = result("a", up=0.1)
    found.problems["down"] = "ValueError: x"
    assert leaderboard([found], ["up", "down"], HIGHER, 1)["reason"].tolist() == ["down: ValueError: x"]


def test_directions_come_from_the_registry() -> None:
    assert directions(["aopc_compr", "aopc_suff"]) == {"aopc_compr": True, "aopc_suff": False}


def test_scores_are_tidy() -> None:
    example = causal_example("a b", "c d")
    found = MethodResult(name="m")
    found.values = {
        "steps": [ExampleValues(values=(0.5, None), skipped={1: "empty"})],
        "whole": [ExampleValues(values=(2.0,), per_step=False)],
    }
    table = scores_table([found], [example])
    assert list(table.columns) == ["example", "step", "token", "method", "metric", "value", "skipped"]
    assert table["metric"].tolist() == ["steps", "steps", "whole"]
    assert table["token"].tolist()[:2] == ["c", "d"]
    assert table["step"].isna().tolist() == [False, False, True]
    assert table["value"].isna().tolist() == [False, True, False]
    assert table["skipped"].tolist()[1] == "empty"
    assert str(table["value"].dtype) == "float64"


def test_empty_tables_have_their_columns() -> None:
    assert len(scores_table([], [])) == 0 and "skipped" in scores_table([], [])
    assert len(step_scores_table([], [])) == 0 and "unit" in step_scores_table([], [])


def test_step_scores_are_tidy() -> None:
    scores = StepScores(name="entropy", unit="nats", values=((0.5, None),))
    table = step_scores_table([scores], [causal_example("a b", "c d")])
    assert table["token"].tolist() == ["c", "d"]
    assert table["unit"].tolist() == ["nats", "nats"]
    assert table["value"].isna().tolist() == [False, True]


def test_curves_are_a_row_per_point() -> None:
    examples = [causal_example("a b", "c d"), causal_example("a", "b")]
    curve = ((0.0, 1.0), (0.5, 0.25), (1.0, 0.0))
    stepwise = [ExampleValues(values=(0.4, None), skipped={1: "why"}, curves={0: curve}), skipped_example(1, "why")]
    whole = [ExampleValues(values=(0.4,), curves={0: curve[:2]}, per_step=False), skipped_example(1, "why")]
    assert curves_table(each_value([result("m", up=0.1)]), examples[1:]).empty
    table = curves_table(each_value([MethodResult(name="m", values={"auc": stepwise, "answer": whole})]), examples)
    assert table["metric"].tolist() == ["auc"] * 3 + ["answer"] * 2
    assert table["y"].tolist() == [1.0, 0.25, 0.0, 1.0, 0.25] and table["x"].tolist() == [0.0, 0.5, 1.0, 0.0, 0.5]
    assert table["step"].isna().tolist() == [False] * 3 + [True] * 2
    assert set(table["token"][:3]) == {"c"} and set(table["example"]) == {0}
