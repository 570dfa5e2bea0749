"""An evaluation from encoding to scores, with a fake model: order of events, failures, sharing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest
import torch
from evaluation_fakes import FakeModel

from attriflow.errors import InputError, MissingExtraError, OutOfMemoryError
from attriflow.evaluation.config import EvaluationConfig
from attriflow.evaluation.data import EvaluationData, text_columns
from attriflow.evaluation.results import Attributed, Finished, StepScored
from attriflow.evaluation.runner import Evaluation
from attriflow.evaluation.tables import leaderboard, scores_table
from attriflow.registry import methods, metrics
from attriflow.types import MetricValues, Variant

DATA = EvaluationData(inputs=("a b c", "d e"), targets=("f g", "h"))


def explode(example: Any) -> torch.Tensor:
    raise OutOfMemoryError("out of memory at batch one")


EXPLAIN = {
    "first": lambda e: torch.arange(len(e.target), 0, -1),
    "last": lambda e: torch.arange(len(e.target)),
    "broken": explode,
}


class Base:
    """Removes each step's highest-scored input."""

    def plan(self, attribution: Any) -> list[Variant]:
        out = []
        for step, row in enumerate(attribution.token_scores().nan_to_num(-1)):
            keep = [True] * len(attribution.inputs)
            keep[int(row.argmax())] = False
            out.append(Variant(keep=tuple(keep), step=step))
        return out


@pytest.fixture(autouse=True)
def parts() -> Iterator[None]:
    """Methods and metrics that exist for these tests only."""
    for name in EXPLAIN:
        methods.register(name, family="test")(lambda engine: None)

    @metrics.register("drop", higher_is_better=True, needs=("rescore",))
    @dataclasses.dataclass(frozen=True)
    class Drop(Base):
        def __call__(self, attribution: Any, rescore: Any, rationale: Any) -> MetricValues:
            plan = self.plan(attribution)
            scores = rescore(torch.tensor([v.keep for v in plan]), [v.step for v in plan])
            return MetricValues(values=tuple(scores.tolist()))

    @metrics.register("agree", higher_is_better=True, needs=("rationale",))
    def agree(attribution: Any, rescore: Any, rationale: Any) -> list[float]:
        best = attribution.token_scores().nan_to_num(-1).argmax(-1)
        return [float(row[i]) for row, i in zip(rationale, best.tolist(), strict=True)]

    @metrics.register("whole", higher_is_better=False, needs=())
    def whole(attribution: Any, rescore: Any, rationale: Any) -> float:
        return 0.5

    @metrics.register("broken_metric", higher_is_better=True, needs=())
    def broken_metric(attribution: Any, rescore: Any, rationale: Any) -> float:
        raise ZeroDivisionError("no")

    yield
    for name in EXPLAIN:
        methods.unregister(name)
    for name in ("drop", "agree", "whole", "broken_metric"):
        metrics.unregister(name)


def run(config: dict[str, Any], data: EvaluationData = DATA) -> tuple[Evaluation, list[Any], FakeModel]:
    model = FakeModel(EXPLAIN)
    settings = {"step_functions": "entropy", "throughput": False, **config}
    rationale = {"rationale": "r"} if data.rationales is not None else {}
    evaluation = Evaluation(model, data, EvaluationConfig.from_dict({**settings, **rationale}))
    return evaluation, list(evaluation.run()), model


def test_events_come_as_soon_as_results_exist() -> None:
    evaluation, events, _ = run({"methods": ["first", "last"], "metrics": ["drop", "whole"]})
    kinds = [type(e) for e in events]
    assert kinds == [StepScored, Attributed, Finished, Attributed, Finished]
    assert [r.name for r in evaluation.results] == ["first", "last"]
    first = evaluation.results[0]
    # the first input goes: one token missing before every step of both examples
    assert first.metrics == {"drop": -1.0, "whole": 0.5}
    assert first.family == "test"
    assert evaluation.n_tokens == 3


def test_a_result_can_be_used_before_the_next_method_runs() -> None:
    model = FakeModel(EXPLAIN)
    config = EvaluationConfig.from_dict(
        {"methods": ["first", "last"], "metrics": ["drop"], "step_functions": [], "throughput": False}
    )
    for event in Evaluation(model, DATA, config).run():
        if isinstance(event, Finished):
            assert event.result.metrics
            break
    assert "attribute last 2" not in model.calls


def test_a_failing_method_is_reported_and_the_others_go_on() -> None:
    evaluation, events, _ = run({"methods": ["broken", "first"], "metrics": ["drop"]})
    broken, first = evaluation.results
    assert not broken.ok and broken.reason == "out of memory at batch one"
    assert first.ok and first.metrics == {"drop": -1.0}
    assert [type(e) for e in events] == [StepScored, Finished, Attributed, Finished]


def test_fail_fast_raises() -> None:
    with pytest.raises(OutOfMemoryError):
        run({"methods": ["broken", "first"], "metrics": [], "fail_fast": True})
    with pytest.raises(ZeroDivisionError):
        run({"methods": ["first"], "metrics": ["broken_metric"], "fail_fast": True})


def test_a_failing_metric_costs_nothing_else_and_is_never_silent(caplog: pytest.LogCaptureFixture) -> None:
    evaluation, _, _ = run({"methods": ["first"], "metrics": ["broken_metric", "drop"]})
    (first,) = evaluation.results
    assert first.ok and first.metrics == {"drop": -1.0}
    assert first.problems == {"broken_metric": "ZeroDivisionError: no"}
    assert first.skipped == {"broken_metric": 3, "drop": 0}
    assert scores_table([first], evaluation.examples)["skipped"].dropna().unique().tolist() == ["ZeroDivisionError: no"]
    assert "metric 'broken_metric' failed on 'first': ZeroDivisionError: no" in caplog.text


def test_a_metric_that_fails_for_one_example_keeps_the_others(caplog: pytest.LogCaptureFixture) -> None:
    @metrics.register("drop", overwrite=True, higher_is_better=True, needs=())
    def drop(attribution: Any) -> float:
        return 1.0 / (len(attribution.targets) - 1)  # the second example has one token

    with caplog.at_level("DEBUG"):
        evaluation, _, _ = run({"methods": ["first"], "metrics": ["drop", "whole"]})
    (first,) = evaluation.results
    assert first.metrics == {"drop": 1.0, "whole": 0.5} and first.problems == {}
    assert first.values["drop"][1].skipped == {0: "ZeroDivisionError: float division by zero"}
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert warning == "metric 'drop' failed on 'first': ZeroDivisionError: float division by zero (in 1 of 2 examples)"
    assert any(r.exc_info for r in caplog.records if r.levelname == "DEBUG" and "'drop'" in r.getMessage())
    which = "failed on example 1: ZeroDivisionError: float division by zero"
    assert first.failures == {"drop": which}
    board = leaderboard([first], ["drop", "whole"], {"drop": True, "whole": True}, 2)
    assert board.loc[0, ["status", "reason", "drop_n"]].tolist() == ["ok", f"drop: {which}", 1]


def test_the_traceback_of_a_failing_method_can_be_seen(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        run({"methods": ["broken"], "metrics": []})
    assert "raise OutOfMemoryError" in caplog.text


def test_a_missing_package_is_not_a_failing_metric() -> None:
    @metrics.register("drop", overwrite=True, higher_is_better=True, needs=())
    def drop(attribution: Any, rescore: Any, rationale: Any) -> float:
        raise MissingExtraError("drop", "ferret-xai", "ferret")

    with pytest.raises(MissingExtraError, match="ferret-xai"):
        run({"methods": ["first"], "metrics": ["drop"]})


def test_methods_share_what_does_not_depend_on_them() -> None:
    _, _, model = run({"methods": ["first", "last"], "metrics": ["drop"]})
    # first: steps (0, 1) and (0); last: the same number, all of them with one token removed and none in common
    assert len(model.rescored) == 6
    _, _, again = run({"methods": ["first", "first"], "metrics": ["drop"]})
    assert len(again.rescored) == 3


def test_rationales_reach_the_metrics_that_need_them() -> None:
    frame = pd.DataFrame({"input": ["a b c", "d e"], "r": [[[0, 1]], [[2, 3]]]})
    config = EvaluationConfig.from_dict({"rationale": "r"}, columns=["input", "r"])
    data = EvaluationData.from_frame(frame, config, ["f g", "h"])
    evaluation, _, _ = run({"methods": ["first", "last"], "metrics": ["agree"]}, data)
    assert evaluation.results[0].metrics == {"agree": 0.5}  # right in the first example, wrong in the second
    # step 0 of the first example ends in c, step 1 in f; the second example's last input is e
    assert evaluation.results[1].metrics == {"agree": 0.5}


def test_rows_without_rationale_are_skipped_and_counted() -> None:
    data = dataclasses.replace(DATA, rationales=(None, None))
    evaluation, _, _ = run({"methods": ["first"], "metrics": ["agree"]}, data)
    (first,) = evaluation.results
    assert first.metrics == {}
    assert first.skipped == {"agree": 3}
    assert first.problems == {"agree": "no value for any step: no rationale in this row"}


def test_a_rationale_that_does_not_fit_its_target_is_an_error_before_any_method_runs() -> None:
    frame = pd.DataFrame({"input": ["a b c"], "r": [[[[0, 1]], [[0, 1]], [[0, 1]]]]})
    config = EvaluationConfig.from_dict({"rationale": "r"}, columns=["input", "r"])
    data = EvaluationData.from_frame(frame, config, ["f g"])
    with pytest.raises(InputError, match="row 0: the rationale has 3 lists of spans, the target has 2 words"):
        run({"methods": ["first"], "metrics": ["agree"]}, data)
    generated = dataclasses.replace(data, targets=None)
    evaluation, _, _ = run({"methods": ["first"], "metrics": ["agree"]}, generated)
    assert evaluation.results[0].skipped == {"agree": 1}


def test_step_scores_are_recorded_and_attached() -> None:
    evaluation, events, _ = run({"methods": ["first"], "metrics": []})
    assert events[0].step_scores[0].mean == 0.25  # (0 + 1) / 2 and 0
    assert evaluation.results[0].attributions[0].step_scores["entropy"].tolist() == [0.0, 1.0]


def test_a_failing_step_function_costs_nothing_else() -> None:
    from attriflow.registry import step_functions

    step_functions.register("broken", unit="x")(lambda forward: forward)
    try:
        evaluation, _, _ = run({"methods": ["first"], "metrics": [], "step_functions": ["broken", "entropy"]})
    finally:
        step_functions.unregister("broken")
    broken, entropy = evaluation.step_scores
    assert broken.reason == "RuntimeError: no such luck" and broken.mean is None
    assert entropy.mean == 0.25
    assert evaluation.results[0].attributions[0].step_scores.keys() == {"entropy"}


def test_costs_are_measured_around_the_method() -> None:
    evaluation, _, model = run({"methods": ["first"], "metrics": [], "throughput": True})
    cost = evaluation.results[0].cost
    assert cost is not None and set(cost.metrics()) == {
        "seconds", "target_tokens_per_second", "forward_equivalents", "peak_memory_mb",
    }  # fmt: skip
    calls = model.calls[model.calls.index("attribute first 1") :]  # from the warm-up on one example
    whole = [i for i, c in enumerate(calls) if c == "attribute first 2"]
    assert calls[1] == "forward" and calls[-1] == "forward" and 1 < whole[0] < len(calls) - 1


def test_data_is_checked() -> None:
    config = EvaluationConfig.from_dict({"max_examples": 1}, columns=["input"])
    frame = pd.DataFrame({"input": ["a", None]})
    assert EvaluationData.from_frame(frame, config).inputs == ("a",)
    everything = dataclasses.replace(config, max_examples=None)
    found = EvaluationData.from_frame(frame, everything)
    assert (found.inputs, found.numbers) == (("a",), (0,))
    assert list(found.failed) == [1] and "the input must be a text that is not empty" in found.failed[1]
    with pytest.raises(InputError, match="row 0: the target must be a text that is not empty, not ' '"):
        EvaluationData.from_frame(frame[:1], everything, [" "])
    with pytest.raises(InputError, match="there are no rows"):
        EvaluationData.from_frame(frame[:0], everything)
    with pytest.raises(InputError, match="1 targets for 2 inputs"):
        EvaluationData(inputs=("a", "b"), targets=("c",))


def test_text_columns() -> None:
    frame = pd.DataFrame({"a": ["x", "y"], "b": [1, 2], "c": ["x", None], "d": [["x"], ["y"]]})
    assert text_columns(frame) == ["a"]
    assert text_columns(frame[["b", "c", "d"]]) == ["c"]  # no column is without a hole
    assert text_columns(pd.DataFrame({"a": ["7", "1e5"], "b": ["7", "x"]})) == ["b"]
    assert text_columns(frame[:0]) == []
