"""What removing a token may mean: other tokens and infilling, against plain calls of the Hugging Face model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from attriflow.engine.bound import Counter
from attriflow.engine.infill import DRAWS, Fills
from attriflow.errors import AttriflowError
from attriflow.types import Variant


@pytest.fixture(scope="module", params=["gpt2", "bart"])
def case(request, golden_model):
    from load_golden import Golden

    model = golden_model(request.param)
    texts = Golden(request.param).cases["batch2"]
    return model, model.encode(texts["input_texts"], texts["generated_texts"])


def changed(example, gone, how, step=None):
    return Variant(keep=tuple(i not in gone for i in range(len(example.inputs()))), step=step, how=how)


def by_hand(model, example, gone, source, target):
    """Log-probabilities of all steps with the ids of `source` and `target` in the places that are gone."""
    given = list(example.source or example.target)
    ids = [
        new if i in gone and not t.special else t.id
        for i, (t, new) in enumerate(zip(given, source if example.source else target, strict=True))
    ]
    with torch.no_grad(), model.wrapped.frozen():
        if example.source:
            decoder = torch.tensor([example.target_ids])
            logits = model.wrapped.hf(input_ids=torch.tensor([ids]), decoder_input_ids=decoder).logits
        else:
            logits = model.wrapped.hf(input_ids=torch.tensor([ids])).logits
    log_p = logits[0].log_softmax(-1)
    return [float(log_p[p - 1, example.target[p].id]) for p in range(example.start, example.stop)]


@pytest.mark.parametrize("how", ["unk", "pad", "eos", "bos", "mask_token", 7])
def test_tokens_are_replaced_by_the_one_that_is_named(case, how):
    model, examples = case
    tokenizer, example = model.tokenizer, examples[1]
    new = {"mask_token": tokenizer.mask_token_id, 7: 7}.get(how, getattr(tokenizer, f"{how}_token_id", None))
    variant = changed(example, {0, 2}, how)
    if new is None:
        with pytest.raises(AttriflowError, match=r"has no \w+ token"):
            model.rescore(examples, [(1, variant)])
        return
    wanted = by_hand(model, example, {0, 2}, [new] * len(example.source), [new] * len(example.target))
    assert model.rescore(examples, [(1, variant)])[0].tolist() == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("how", ["infill", "infill_model"])
def test_infilled_is_the_mean_probability_over_draws(case, how):
    model, examples = case
    example, gone = examples[1], {0, 1, 3}
    variant = changed(example, gone, how)
    if example.source and how == "infill_model":
        with pytest.raises(AttriflowError, match="use 'infill'"):
            model.rescore(examples, [(1, variant)])
        return
    with model.wrapped.frozen():
        fills = Fills(model.wrapped, examples)(1, how)
    assert len(fills) == DRAWS and len(set(fills)) > 1
    lines = [by_hand(model, example, gone, source, target) for source, target in fills]
    wanted = np.log(np.exp(lines).mean(0))
    every, *single, whole, plain = model.rescore(
        examples,
        [
            (1, variant),
            *((1, changed(example, gone, how, step=s)) for s in range(example.n_steps)),
            (1, changed(example, (), how)),
            (1, changed(example, (), "delete")),
        ],
    )
    assert every.tolist() == pytest.approx(wanted.tolist(), abs=1e-9)
    assert torch.cat(single).tolist() == pytest.approx(wanted.tolist(), abs=1e-9)
    torch.testing.assert_close(whole, plain, atol=1e-10, rtol=0)


def test_draws_are_tokens_of_the_data(case):
    model, examples = case
    fills = Fills(model.wrapped, examples)
    block = "source" if examples[0].source else "target"
    known = {t.id for e in examples for t in getattr(e, block) if not t.special}
    drawn = [set(draw[block == "target"]) for index in range(2) for draw in fills(index, "infill")]
    assert all(ids <= known for ids in drawn) and len(set().union(*drawn)) > 3
    # the order of the rows does not matter, and neither does what comes later
    assert Fills(model.wrapped, examples[::-1])(1, "infill") == fills(0, "infill")


def test_draws_from_the_model_are_what_it_expects_after_the_tokens_before(golden_model):
    model = golden_model("gpt2")
    examples = model.encode(["the house is red and", "so it is"], [" the house", " now"], continuation=True)
    with model.wrapped.frozen():
        fills = Fills(model.wrapped, examples)(0, "infill_model")
        logits = model.wrapped.hf(input_ids=torch.tensor([examples[0].target_ids])).logits[0].double()
    special = list(model.tokenizer.all_special_ids)
    for place in range(1, examples[0].stop):
        p = logits[place - 1].clone()
        p[special] = -math.inf
        p = p.softmax(-1)
        assert all(p[draw[1][place]] > 0 for draw in fills)
    assert not any(i in special for draw in fills for i in draw[1][1:])
    # a distribution with all its weight on one token draws that token
    model.wrapped.run, run = (lambda rows: run(rows) * 1e6), model.wrapped.run
    try:
        sure = Fills(model.wrapped, examples)(0, "infill_model")
    finally:
        del model.wrapped.run
    best = logits.clone()
    best[:, special] = -math.inf
    assert all(list(draw[1][1:]) == best.argmax(-1)[: examples[0].stop - 1].tolist() for draw in sure)


def test_planned_rows_are_those_that_run(case):
    model, examples = case
    asked = [(1, changed(examples[1], gone, "infill")) for gone in ({1}, {1, 2}, ())]
    counter = Counter()
    model.rescore(examples, asked, counter=counter)
    assert DRAWS < counter.forward_rows == model.count_rows(examples, asked) <= 2 * DRAWS + 1


def test_what_is_no_perturbation(case):
    model, examples = case
    for how, message in (("mask_tokn", "did you mean 'mask_token'"), (10**9, "outside the vocabulary")):
        with pytest.raises(AttriflowError, match=message):
            model.rescore(examples, [(0, changed(examples[0], {0}, how))])


def test_metrics_take_it_everywhere():
    import attriflow
    from attriflow.evaluation.config import EvaluationConfig
    from attriflow.evaluation.data import EvaluationData
    from attriflow.evaluation.runner import Evaluation

    model = attriflow.load_model("demo/recall")
    values = {}
    for how in ("infill", 5):
        names = ["logprob_compr", "lds"]
        settings = {
            "methods": ["occlusion"], "metrics": names, "step_functions": [], "throughput": False, "fail_fast": True,
            "metric_options": {name: {"perturbation": how} for name in names},
        }  # fmt: skip
        data = EvaluationData(inputs=("anna has a red hat . what color is the hat ?",), targets=("red",))
        evaluation = Evaluation(model, data, EvaluationConfig.from_dict(settings))
        for _ in evaluation.run():
            pass
        values[how] = tuple(evaluation.results[0].metrics[name] for name in names)
    assert len(set(values.values())) == 2 and all(v[0] > 1 for v in values.values())
