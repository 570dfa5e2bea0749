"""Whatever a metric returns becomes finite values or counted reasons."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from attriflow.errors import InputError, OutOfMemoryError, reason_of
from attriflow.evaluation.results import (
    ExampleValues,
    MethodResult,
    StepScores,
    mean_over_examples,
    normalise,
    skipped_example,
)
from attriflow.types import MetricValues


@pytest.mark.parametrize(
    ("result", "values"),
    [
        (MetricValues(values=(1.0, None), skipped={1: "empty"}), (1.0, None)),
        ([1, 2.5], (1.0, 2.5)),
        ((1.0, None), (1.0, None)),
        (np.array([0.5, 0.25], dtype=np.float32), (0.5, 0.25)),
        (torch.tensor([1.0, float("nan")]), (1.0, None)),
        ([float("inf"), 1.0], (None, 1.0)),
    ],
)
def test_per_step(result: Any, values: tuple[float | None, ...]) -> None:
    out = normalise(result, 2)
    assert out.values == values and out.per_step
    assert set(out.skipped) == {i for i, v in enumerate(values) if v is None}
    assert all(type(v) is float for v in out.values if v is not None)


@pytest.mark.parametrize("result", [0.5, np.float32(0.5), torch.tensor(0.5)])
def test_one_number_for_the_whole_explanation(result: Any) -> None:
    out = normalise(result, 3)
    assert out.values == (0.5,) and not out.per_step


def test_a_metric_may_have_one_value_for_all_steps_and_a_curve() -> None:
    curve = ((0.0, 1.0), (1.0, 0.5))
    out = normalise(MetricValues(values=(0.5,), curves={0: curve}, per_step=False), 3)
    assert out.values == (0.5,) and not out.per_step and out.curves == {0: curve}


def test_a_single_nan_is_no_value() -> None:
    out = normalise(float("nan"), 3)
    assert out.values == (None,) and out.mean is None
    assert out.skipped == {0: "not finite (nan)"}


@pytest.mark.parametrize("result", [[1.0], "high", [1.0, "x"], None, object()])
def test_what_is_no_number_is_an_error(result: Any) -> None:
    if result is None:
        assert normalise(result, 2).mean is None
    else:
        with pytest.raises(InputError, match="metric"):
            normalise(result, 2)


def test_means_are_of_examples_not_of_steps() -> None:
    long = ExampleValues(values=(1.0, 1.0, 1.0, 1.0))
    short = ExampleValues(values=(0.0, None), skipped={1: "x"})
    assert mean_over_examples([long, short, skipped_example(3, "none")]) == 0.5
    assert mean_over_examples([skipped_example(3, "none")]) is None
    assert mean_over_examples([]) is None


def test_metrics_without_a_value_are_left_out_and_counted() -> None:
    result = MethodResult(name="m")
    result.values = {"good": [ExampleValues(values=(0.25,))], "none": [skipped_example(2, "why")]}
    assert result.metrics == {"good": 0.25}
    assert result.skipped == {"good": 0, "none": 2}


def test_step_scores_with_a_gap() -> None:
    assert StepScores(name="x", values=((1.0, None), (3.0,))).mean == 2.0
    assert StepScores(name="x", reason="failed").mean is None


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (InputError("too long"), "too long"),
        (OutOfMemoryError("out of memory\nat batch one"), "out of memory"),
        (ValueError("bad"), "ValueError: bad"),
        (ValueError(), "ValueError"),
        (RuntimeError("\n\n  second line"), "RuntimeError: second line"),
        (KeyError("k"), "KeyError: 'k'"),
    ],
)
def test_reasons_are_one_line(error: Exception, text: str) -> None:
    assert reason_of(error) == text


def test_long_reasons_are_cut() -> None:
    assert len(reason_of(ValueError("x" * 999))) == 300


def test_a_failed_method_keeps_nothing_of_its_results() -> None:
    result = MethodResult(name="m", values={"a": []})
    result.fail(MemoryError("gone"))
    assert not result.ok and result.reason == "MemoryError: gone"
    assert result.values == {} and result.attributions == []
