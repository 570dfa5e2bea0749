"""What a data set will take: arithmetic by hand, and a sample of a real one."""

from __future__ import annotations

import pytest
import torch

from attriflow.cli import main
from attriflow.datasets.rows import ListRows
from attriflow.datasets.splits import Split
from attriflow.errors import InputError
from attriflow.output import AttributionOutput
from attriflow.streaming import Estimate, Fields, estimate, seconds_of
from attriflow.streaming.evaluations import estimate_evaluation
from attriflow.types import Attribution, Provenance, Token

HOUR = 3600.0


def test_arithmetic():
    found = Estimate(
        rows=1_000_000,
        window=100,
        sampled=32,
        failed=1,
        load_seconds=600,
        row_seconds=0.36,
        row_passes=50,
        row_bytes=2000,
    )
    assert found.device_hours == pytest.approx(100)  # 360,000 s
    assert found.seconds(1) == pytest.approx(360_600)
    assert found.seconds(8) == pytest.approx(600 + 1250 * 100 * 0.36)  # 10,000 windows
    assert found.seconds(64) == pytest.approx(600 + 157 * 36)  # 156.25 windows each
    # 8 h are 28,800 s, 28,200 after loading: 783 windows of 36 s each
    assert found.workers(8 * HOUR) == 13 and found.seconds(13) <= 8 * HOUR < found.seconds(12)
    assert found.workers(600 + 36) == 10_000
    assert found.workers(630) is None and found.workers(100) is None
    assert found.workers(1000 * HOUR) == 1
    told = found.lines(8 * HOUR)
    assert told[0].startswith("plan: 1,000,000 rows, from 32 of them, 1 failed: 0.36 s and 50.0 forward passes a row")
    assert told[1].strip() == "50,000,000 forward passes, 100 device hours, 2,000 MB as JSON lines"
    assert told[3].strip() == "within 8 h 0 min: 13 workers"
    assert "no number of workers" in found.lines(100)[3] and len(found.lines()) == 3


def test_what_one_process_does_for_an_evaluation():
    found = Estimate(
        rows=6400, window=64, sampled=32, failed=0, load_seconds=10, row_seconds=1, row_passes=9, row_bytes=0,
        alone_seconds=590,
    )  # fmt: skip
    assert found.device_hours == pytest.approx((6400 + 590) / 3600)
    assert found.seconds(4) == pytest.approx(10 + 590 + 25 * 64)  # 100 blocks
    assert found.workers(2200) == 4 and found.workers(663) is None
    assert found.lines()[1].strip() == (
        "57,600 forward passes, 1.94 device hours; 10 min of metrics that explain again, in one process"
    )


def test_a_data_set_smaller_than_a_window():
    small = Estimate(
        rows=10, window=128, sampled=10, failed=0, load_seconds=1, row_seconds=1, row_passes=1, row_bytes=1
    )
    assert small.seconds(1) == small.seconds(9) == 11
    assert small.workers(11) == 1 and small.workers(10.5) is None


def test_times():
    assert [seconds_of(t) for t in ("90s", "45min", "1.5 h", "2d", "3m")] == [90, 2700, 5400, 172_800, 180]
    for wrong in ("8", "h", "8x", "-1h", "0h", ""):
        with pytest.raises(InputError, match="is no time: give 90s, 45min, 8h or 2d"):
            seconds_of(wrong)


def test_a_sample_is_from_the_whole_data_set():
    seen = []

    def explain(input_texts):
        seen.append(list(input_texts))
        if any(text == "text 50" for text in input_texts):
            raise InputError("bad text")
        token = (Token(text="x", id=1, start=0, end=1),)
        how = Provenance(method="stub", forward_rows=3.0, backward_rows=2.0)
        return AttributionOutput(
            [Attribution(scores=torch.ones(1, 1), inputs=token, targets=token, provenance=how) for _ in input_texts]
        )

    rows = ListRows([{"text": f"text {i}"} for i in range(100)], Split.of_file("train"), "texts")
    found = estimate(rows, lambda: explain, window=16, sample=10)
    assert seen[0] == ["text 0"]  # not measured
    assert seen[1] == [f"text {i}" for i in (0, 1, 2, 25, 26, 27, 50, 51, 75, 76)]
    assert (found.rows, found.window, found.sampled, found.failed) == (100, 16, 10, 1)
    assert found.row_passes == pytest.approx((3 + 2 * 2) * 9 / 10)
    assert found.row_bytes > 100 and found.row_seconds > 0
    assert estimate(rows, lambda: explain, sample=200, total=7_000).sampled == 100
    with pytest.raises(InputError, match="no rows to plan for"):
        estimate(ListRows(rows.rows, Split.of_file("train[:0]"), "none"), lambda: explain)
    with pytest.raises(InputError, match="none of 1 rows can be explained; one of them: bad text"):
        estimate(ListRows([{"text": "text 50"}], Split.of_file("train"), "one"), lambda: explain)


def test_an_evaluation_is_planned_from_a_sample(golden_model, capsys):
    rows = [{"text": f"the cat sat {'on ' * i}"} for i in range(12)]
    rows[3] = {"text": ""}
    listed, model = ListRows(rows, Split.of_file("train"), "texts"), golden_model("gpt2")
    settings = {"methods": "attention", "metrics": "seed_variance", "generation_args": {"max_new_tokens": 2}}
    settings |= {"step_functions": [], "reexplain_examples": 4}
    capsys.readouterr()
    found = estimate_evaluation(listed, lambda: model, settings, fields=Fields(inputs="text"), sample=12, total=50_000)
    assert (found.rows, found.window, found.sampled, found.failed) == (50_000, 64, 12, 1)
    assert found.row_passes == 1  # one pass for each example, and none for metrics
    assert found.row_seconds > 0 and found.row_bytes == 0
    assert capsys.readouterr().err == ""
    few = estimate_evaluation(listed, lambda: model, settings, fields=Fields(), sample=2)
    assert few.rows == 12 and few.sampled == 2
    with pytest.raises(InputError, match="there are no rows to plan for"):
        estimate_evaluation(ListRows(rows, Split.of_file("train[:0]"), "none"), lambda: model, {}, fields=Fields())


def test_options_of_methods_and_metrics_reach_the_evaluation_that_is_planned(capsys):
    of = "plan -m demo/recall -d demo/recall -in input -gen target --device cpu --sample 1 --methods occlusion".split()
    for kind, part in (("method", "occlusion"), ("metric", "aopc_compr")):
        wrong = [f"--{kind}-options", f'{{"{part}": {{"nonsense": 1}}}}']
        with pytest.raises(SystemExit):
            main([*of, "--metrics", "aopc_compr", *wrong])
        assert f"'{part}' 'nonsense'. Allowed: " in capsys.readouterr().err
