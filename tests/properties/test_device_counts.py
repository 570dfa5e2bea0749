"""Operations started, waits of the host and uploads of every method on a device in ordinary memory do not grow.

Run by `test_second_device.py`. After a change that is meant to start more (or fewer: the baseline should say so),
record them anew: python benchmarks/device_counts.py --answers 16 --out benchmarks/baselines/counts.json
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import second_device

from attriflow.regression.benchmarks import read_benchmarks
from attriflow.regression.rules import Rules
from attriflow.regression.verdicts import judge_costs

pytestmark = pytest.mark.skipif(
    os.environ.get("SECOND_DEVICE") != "1", reason="run by test_second_device.py in a process of its own"
)
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
DEARER = {
    "reagent",  # a pass whenever its chains are looked at
    "sequential_integrated_gradients",  # a path for every token
    "discretized_integrated_gradients",  # a search for the next word at every point of its path
    "information_flow_routes",  # takes every sum and norm of the pass apart
    "value_zeroing",  # runs every layer again: to see that it can, and with values zeroed
}
AT_MOST = {"sequential_integrated_gradients": 16, "discretized_integrated_gradients": 100, "reagent": 64}
"""Waits of what goes in iterations; 8 for the others."""


@pytest.fixture(scope="module")
def device_counts():
    import device_counts

    try:
        second_device.registered()
    except second_device.UnavailableError as error:
        pytest.skip(str(error))
    return device_counts


@pytest.fixture(scope="module")
def found(device_counts):
    return device_counts.measured(answers=(16,))


def test_counts_do_not_grow(device_counts, found, tmp_path):
    baseline, path = read_benchmarks(BENCHMARKS / "baselines" / "counts.json"), tmp_path / "now.json"
    path.write_text(json.dumps(device_counts.recorded(found)))
    now = read_benchmarks(path)
    if now.machine != baseline.machine:
        pytest.skip(f"counts are those of {baseline.machine}, not of {now.machine}")
    verdicts = judge_costs(baseline.costs, now.costs, Rules.read(BENCHMARKS / "counts.yaml"), baseline.unit)
    assert len(verdicts) == 3 * len(device_counts.names())
    assert not [v.message for v in verdicts if v.failed or v.outcome == "new"]


def test_what_a_call_may_start(device_counts, found):
    forward, _, _ = device_counts.plain_forward()
    for (method, _), (operations, waits, uploads) in found.items():
        assert waits <= AT_MOST.get(method, 8), method
        assert uploads <= (64 if method == "reagent" else 8), method
        # products of all steps go through a graph together: their number does not count, that of points hardly
        if method not in DEARER:
            assert operations <= 10 * forward, method
    assert found["reagent", 16][0] < 1500


@pytest.mark.parametrize("method", ["integrated_gradients", "kernel_shap", "deeplift", "attention_rollout"])
def test_neither_waits_nor_uploads_grow_with_the_answer_or_the_samples(device_counts, method):
    (few,), (many,) = (device_counts.measured([method], [n]).values() for n in (3, 30))
    assert few[1:] == many[1:]
