"""Benchmarks of methods over data, and the search for the largest batch."""

from __future__ import annotations

import pytest
import torch

import attriflow
from attriflow.errors import InputError
from attriflow.kernels.devices import free_memory
from attriflow.measuring.batch_search import largest_batch
from attriflow.measuring.benchmark import BenchmarkSettings, benchmark, document, surroundings, table
from attriflow.measuring.cost import MEGABYTE
from attriflow.registry import methods


@pytest.fixture(scope="module")
def model():
    return attriflow.load_model("demo/translate")


@pytest.fixture(scope="module")
def examples(model):
    return model.encode(["the house is red", "the old man sleeps"], ["la casa è rossa", "il vecchio dorme"])


@pytest.fixture
def too_large():
    """A method that runs out of memory with more than five examples."""

    @methods.register("too_large", family="control", cost="1 forward")
    def too_large(engine):
        if len(engine.examples) > 5:
            raise torch.OutOfMemoryError("too many")
        return methods.build("dummy")(engine)

    yield "too_large"
    methods.unregister("too_large")


def test_every_method_is_a_row_and_failures_have_reasons(model, examples):
    @methods.register("broken", family="control")
    def broken(engine):
        raise RuntimeError("no such luck")

    try:
        settings = BenchmarkSettings(
            methods=("saliency", "broken", "occlusion"), seconds=2, rounds=(2, 2), find_batch=False
        )
        found = list(benchmark(model, examples, settings))
    finally:
        methods.unregister("broken")
    frame = table(found)
    assert frame["method"].tolist()[-1] == "broken" and frame["reason"].tolist()[-1] == "RuntimeError: no such luck"
    ok = frame[frame["status"] == "ok"].set_index("method")
    assert (ok["forward_equivalents"] > 0.5).all() and (ok["rounds"] == 2).all()
    assert (ok["target_tokens_per_second"] / ok["attributions_per_second"] > 1).all()
    written = document(found, surroundings(model.device, model.dtype), model="demo")
    assert [b["name"] for b in written["benchmarks"]] == ["saliency", "occlusion"]
    extra = written["benchmarks"][0]["extra_info"]
    assert len(extra["forward_pass_equivalents_rounds"]) == 2 and extra["forward_passes"] == 1
    assert extra["forward_pass_equivalents"] == pytest.approx(ok["forward_equivalents"]["saliency"])
    assert written["benchmarks"][1]["extra_info"]["options"] == dict(methods.info("occlusion").options)
    assert written["machine_info"]["dtype"] == "float32" and written["machine_info"]["threads"] >= 1


def test_a_batch_that_had_to_be_split_does_not_fit(model, examples, too_large):
    found = largest_batch(model, too_large, {}, examples, seconds=60)
    assert found.size == 5 and found.stopped == "memory" and str(found) == "5"
    assert [b.size for b in found.tried] == [1, 2, 4, 5]


def test_no_example_fits(model, examples):
    @methods.register("hungry", family="control")
    def hungry(engine):
        raise torch.OutOfMemoryError("too many")

    try:
        found = largest_batch(model, "hungry", {}, examples)
    finally:
        methods.unregister("hungry")
    assert (found.size, found.stopped, found.tried) == (0, "memory", ())


def test_a_batch_that_would_not_fit_is_not_tried(model, examples):
    """On a CPU running out of memory ends the process: the growth so far has to tell."""

    @methods.register("greedy", family="control")
    def greedy(engine):
        torch.ones(len(engine.examples) * MEGABYTE).sum()  # 4 MiB per example
        return methods.build("dummy")(engine)

    try:
        found = largest_batch(model, "greedy", {}, examples, free=lambda device: 100 * MEGABYTE, seconds=60)
    finally:
        methods.unregister("greedy")
    assert found.stopped == "memory" and 12 <= found.size <= 24
    assert all(b.peak_memory_mb < 100 for b in found.tried)


def test_time_and_bounds_end_the_search(model, examples):
    assert largest_batch(model, "dummy", {}, examples, seconds=0).stopped == "time"
    found = largest_batch(model, "dummy", {}, examples, most=6)
    assert (found.size, found.stopped, str(found)) == (6, "most", "6+")
    assert largest_batch(model, "dummy", {}, examples, most=1).size == 1


def test_free_memory_is_what_there_is():
    assert 2**20 < free_memory(torch.device("cpu")) < 2**45


@pytest.mark.parametrize(
    "wrong", [{"rounds": (0, 3)}, {"rounds": (4, 3)}, {"seconds": 0}, {"most": 0}, {"batch_seconds": -1}]
)
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        BenchmarkSettings(methods=("saliency",), **wrong)
