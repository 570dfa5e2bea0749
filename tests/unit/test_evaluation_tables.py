"""Tidy tables and ranks."""

from __future__ import annotations

import math

import pytest
from evaluation_fakes import causal_example

from attriflow.evaluation.results import ExampleValues, MethodResult, StepScores, skipped_example
from attriflow.evaluation.tables import curves_table, directions, leaderboard, scores_table, step_scores_table
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
    assert board.loc["b", "down_rank"] == 2
    assert math.isnan(board.loc["b", "down"])


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
    assert curves_table([result("m", up=0.1)], examples[1:]).empty
    table = curves_table([MethodResult(name="m", values={"auc": stepwise, "answer": whole})], examples)
    assert table["metric"].tolist() == ["auc"] * 3 + ["answer"] * 2
    assert table["y"].tolist() == [1.0, 0.25, 0.0, 1.0, 0.25] and table["x"].tolist() == [0.0, 0.5, 1.0, 0.0, 0.5]
    assert table["step"].isna().tolist() == [False] * 3 + [True] * 2
    assert set(table["token"][:3]) == {"c"} and set(table["example"]) == {0}
