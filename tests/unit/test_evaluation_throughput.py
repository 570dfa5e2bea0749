"""Floors and throughput: counted against the engine's own counts, and with work whose time is known."""

from __future__ import annotations

import itertools
import time

import pytest
import torch
from evaluation_fakes import causal_example, seq2seq_example

import attriflow
from attriflow.errors import InputError
from attriflow.measuring.floors import Problem, Work, floor, total
from attriflow.measuring.throughput import Interleaved, matmul_rate, measure_method, rotate, rounds_for
from attriflow.registry import methods

GPT = Work.of_shape(layers=2, width=8, vocabulary=10)
BART = Work.of_shape(layers=2, width=8, vocabulary=10, encoder_layers=3)


@pytest.fixture(scope="module", params=["recall", "translate"])
def demo(request):
    model = attriflow.load_model(f"demo/{request.param}")
    text = {"recall": "anna has a red hat . what color is the hat ?", "translate": "the house is red"}[request.param]
    return model, model.encode([text] * 2, ["red", "red"] if request.param == "recall" else None, continuation=True)


def test_a_forward_is_every_product_of_matrices():
    """Counted by hand: 3 tokens, the last two of which are read for a step."""
    h, layers, n = 8, 2, 3
    tokens, pairs = layers * 12 * h * h * n, layers * 2 * h * (1 + 2 + 3)
    assert Problem(GPT, 0, 3, 1).forward() == tokens + pairs + 2 * h * 10


def test_an_encoder_counts_once_and_cross_attention_per_source_token():
    h, s, n = 8, 4, 3
    encoder = 3 * (12 * h * h * s + 2 * h * s * s)
    keys = 2 * 2 * h * h * s
    decoder = 2 * (14 * h * h * n + 2 * h * n * s + 2 * h * (1 + 2 + 3))
    assert Problem(BART, s, 3, 0).forward() == encoder + keys + decoder + 3 * h * 10


def test_weights_of_a_model_are_those_of_its_layers(demo):
    model, _ = demo
    work = Work.of_model(model)
    assert work is not None
    inside = [p for n, p in model.model.named_parameters() if ".layers." in n and p.ndim == 2]
    assert work.token + work.source_token + work.cross_token == sum(p.numel() for p in inside)
    assert 0 < work.after_attention < work.token


def test_floors_follow_the_counted_passes(demo):
    """Where every pass is a whole one, the floor is counts times multiply-adds; nothing is below it."""
    model, examples = demo
    work = Work.of_model(model)
    problem = Problem.of_example(work, examples[0])
    found = model.attribute_examples(examples[:1], "lime", n_samples=7)[0].provenance
    assert floor("lime", {"n_samples": 7}, problem) == 8 * problem.forward() == found.forward_rows * problem.forward()
    assert floor("saliency", {}, problem) == problem.forward() + problem.products()
    assert floor("smooth_grad", {"n_samples": 5}, problem) == 5 * (problem.forward() + problem.products())


@pytest.mark.parametrize("name", methods.names())
def test_every_floor_is_positive_or_unknown(name):
    for work, source in ((GPT, 0), (BART, 4)):
        found = floor(name, methods.info(name).options, Problem(work, source, 6, 2))
        assert found is None or found > 0
        assert found is not None or methods.info(name).meta["floor"] is None


def test_methods_whose_cost_depends_on_data_or_draws_have_no_floor():
    for name in ("dummy", "random", "reagent", "information_flow_routes"):
        assert floor(name, {}, Problem(GPT, 0, 6, 2)) is None
    running = [n for n in methods.names() if methods.info(n).meta["runs_model"]]
    assert len([n for n in running if floor(n, {}, Problem(GPT, 0, 6, 2)) is not None]) > 0.8 * len(running)


def test_a_method_that_is_not_known_is_counted_as_it_states():
    methods.register("stated", cost="n forwards + T x n products")(lambda engine: None)
    methods.register("silent")(lambda engine: None)
    try:
        p = Problem(GPT, 0, 6, 2)
        assert floor("stated", {"n_samples": 3}, p) == 3 * (p.forward() + p.products())
        assert floor("silent", {}, p) is None
        assert total("silent", {}, [p, p]) is None and total("stated", {}, [p, p]) == 2 * floor("stated", {}, p)
    finally:
        methods.unregister("stated")
        methods.unregister("silent")


def test_a_product_needs_one_row_of_the_last_layer_and_its_keys_and_values():
    """Two layers 4 wide, prefix of 3 tokens: 12 h^2 per token and layer, 2 h^2 of them for keys and values."""
    p = Problem(Work.of_shape(layers=2, width=4, vocabulary=10), 0, 4, 2)
    h, pair = 16, 2 * 4
    first = 3 * 12 * h + 2 * pair * (1 + 2 + 3)
    last = 12 * h + 2 * pair * 3 + 3 * 2 * h
    assert p.product(2) == first + last
    assert p.products() == p.head() + p.product(2) + p.product(3)


def test_occlusion_recomputes_less_than_whole_passes():
    p = Problem(GPT, 0, 12, 6)
    assert p.forward() < floor("occlusion", {}, p) < 13 * p.forward()


def test_work_is_compared_with_the_forwards_around_it():
    """The machine slows down by a factor of ten while measuring; the ratio stays."""
    slow = itertools.chain([0.002] * 4, itertools.repeat(0.02))
    pace = [0.002]

    def forward(_examples: object) -> None:
        time.sleep(pace[0])

    def work(_examples: object) -> str:
        time.sleep(3 * pace[0])
        return "done"

    measured = Interleaved(
        work=work, forward=forward, batches=rotate([causal_example("a b", "c d")] * 3, 2), places=[torch.device("cpu")]
    )
    result, seconds = measured.warm_up()
    assert result == "done" and seconds >= 0.006
    for _ in range(6):
        measured.round()
        pace[0] = next(slow)
    found = measured.throughput()
    assert found.tokens == (4,) * 6 and found.examples == (2,) * 6
    assert found.numbers()["forward_equivalents"] == pytest.approx(3, rel=0.35)
    assert max(found.seconds) > 5 * min(found.seconds)


def test_methods_are_measured_with_their_floor(demo):
    model, examples = demo
    found = measure_method(
        model,
        "integrated_gradients",
        {"n_steps": 3},
        rotate(examples, 1),
        work=Work.of_model(model),
        budget=1,
        rounds=(3, 3),
    )
    numbers = found.numbers()
    assert len(found.seconds) == 3
    assert numbers["fraction_of_floor"] == pytest.approx(
        numbers["floor_forward_equivalents"] / numbers["forward_equivalents"]
    )
    assert 0 < numbers["model_flops_utilisation"] < 1
    assert numbers["target_tokens_per_second"] == pytest.approx(
        numbers["attributions_per_second"] * examples[0].n_steps
    )
    assert numbers["products"] >= 3


def test_rounds_and_slices():
    assert (
        rounds_for(0.1, 1.0, 3, 9) == 9
        and rounds_for(10, 1.0, 3, 9) == 1
        and rounds_for(0.9, 1.0, 3, 9) == 3
        and rounds_for(0.2, 1.0, 3, 9) == 5
    )
    examples = [causal_example("a", letter) for letter in "abcde"]
    slices = rotate(examples, 2)
    assert ["".join(e.target[1].text for e in next(slices)) for _ in range(4)] == ["ab", "cd", "ea", "bc"]
    assert len(next(rotate([seq2seq_example("a", "b")], 9))) == 1
    with pytest.raises(InputError, match="no examples"):
        next(rotate([]))


def test_the_rate_of_a_product_is_plausible():
    assert 1e8 < matmul_rate(torch.device("cpu"), torch.float32) < 1e14
