"""The plan counts what will be run, before it is."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch

import attriflow
from attriflow.engine import Counter
from attriflow.evaluation.config import EvaluationConfig
from attriflow.evaluation.data import EvaluationData
from attriflow.evaluation.planning import Plan, stand_in
from attriflow.evaluation.runner import Evaluation

PLAN = Plan(
    n_examples=100, n_steps=250, n_methods=20, n_metrics=36, explaining=12000.4, n_again=2240, again=30000, shared=2500,
    changed=90000, seconds_per_pass=0.001,
)  # fmt: skip
METRICS = ["aopc_compr", "taucorr_loo", "deletion_auc", "soft_nc", "noise_stability", "answer_suff"]


@pytest.fixture(scope="module", params=["gpt2", "bart"])
def model(request, golden_model):
    return golden_model(request.param)


def evaluation(model, names=("attention",), n=3, **settings):
    data = EvaluationData(inputs=("the cat sat", "a dog", "where is it now")[:n], targets=("and", "barked", "here")[:n])
    given = {"methods": list(names), "metrics": METRICS, "step_functions": [], "throughput": True, **settings}
    return Evaluation(model, data, EvaluationConfig.from_dict(given))


def test_says_passes_and_time():
    assert str(PLAN) == (
        "plan: 20 methods x 100 examples (250 steps), 36 metrics\n"
        "      134 500 forward passes (12 000 to explain, 30 000 to explain again, 92 500 for changed inputs), "
        "about 2 min in the model"
    )
    # 1,000 examples are 16 blocks: 3 workers do 6 of them at most; 30,000 passes are one's in any case
    long = dataclasses.replace(PLAN, n_examples=1000, seconds_per_pass=0.1)
    assert long.seconds_with(3) == pytest.approx(0.1 * (30_000 + 104_500.4 * 6 / 16))
    assert str(long).splitlines()[2] == (
        "      3.74 device hours; 2 workers: 2 h 17 min; 4 workers: 1 h 34 min; 8 workers: 72 min"
    )
    unmeasured = dataclasses.replace(PLAN, seconds_per_pass=None, n_again=0, again=0, untried=("odd",))
    assert unmeasured.seconds is None
    assert str(unmeasured).endswith("(12 000 to explain, 92 500 for changed inputs); not counted: odd")
    few = dataclasses.replace(PLAN, n_methods=1, explaining=0, again=0, untried=("odd",), shared=30, changed=70)
    assert str(few).endswith(
        " 100 forward passes (100 for changed inputs), about 1 s in the model; not counted: explaining"
    )


def test_a_plan_is_printed_and_holds(model, monkeypatch, capsys):
    """What runs is what was planned; the share of the model is told."""
    counter, original = Counter(), model.rescore
    monkeypatch.setattr(model, "rescore", lambda *args, **more: original(*args, **more, counter=counter), raising=True)
    evaluated = evaluation(model)
    for _ in evaluated.run():
        pass
    plan, said = evaluated.plan, capsys.readouterr().err
    assert plan is not None and str(plan) in said
    assert plan.explaining == 3  # one pass for each example
    assert (plan.n_again, plan.again) == (9, 9)
    assert counter.forward_rows == pytest.approx(plan.scored, rel=0.15) and plan.chance > 0
    assert plan.passes == plan.explaining + plan.again + plan.shared + plan.changed + plan.chance
    assert plan.seconds > 0
    assert plan.hungriest in evaluated.config.methods and 0 < plan.memory < plan.free
    assert f"\n      memory: up to 1 MiB beyond the weights ({plan.hungriest}), " in said
    kinds = ["explaining", "explaining again", "scoring changed inputs", "in metrics (ferret, numpy)"]
    assert list(evaluated.seconds) == kinds and all(s > 0 for s in evaluated.seconds.values())
    assert "s explaining, " in said.splitlines()[-1]


def test_the_costliest_method_and_metric_are_named_with_what_would_halve_them(model):
    """And that it does."""

    def plan(**more):
        made = evaluation(model, ("attention", "smooth_grad"), metrics=["aopc_compr", "noise_stability"], **more)
        next(iter(made.run()))  # step functions, before which nothing is planned
        made._make_plan(made._metric_runner())
        return made.plan

    whole = plan()
    method, metric = whole.costliest
    assert re.fullmatch(r"method smooth_grad \(\d+% of the passes; n_samples=12 would at least halve it\)", method)
    assert re.fullmatch(r"metric noise_stability \(\d+% of the passes; n_samples=1 would at least halve it\)", metric)
    assert str(whole).endswith(f"\n      costliest: {method}; {metric}")
    fewer = plan(method_options={"smooth_grad": {"n_samples": 12}})
    assert fewer.explaining - 3 == pytest.approx((whole.explaining - 3) * 12 / 25)
    assert plan(metric_options={"noise_stability": {"n_samples": 1}}).again == whole.again / 3
    assert plan(reexplain_examples=1).again == whole.again / 3
    share = (whole.explaining - 3) / whole.passes
    assert f"({share:.0%} of the passes" in method
    assert f"({whole.again / whole.passes:.0%} of the passes" in metric


def test_shared_changes_count_once(model):
    one, two = (evaluation(model, names) for names in (("attention",), ("attention", "saliency")))
    for each in (one, two):
        for _ in each.run():
            pass
    assert one.plan.shared == two.plan.shared > 0
    assert two.plan.changed == 2 * one.plan.changed > 0


def test_a_method_that_fails_is_not_counted_and_reported_in_its_turn(model):
    evaluated = evaluation(model, ("saliency",), metrics=[])
    original = evaluated._explain

    def failing(name, examples, **settings):
        if name == "saliency":
            raise RuntimeError("out of luck")
        return original(name, examples, **settings)

    evaluated._explain = failing
    for _ in evaluated.run():
        pass
    assert evaluated.plan.untried == ("saliency",) and evaluated.plan.explaining == 0
    assert evaluated.results[0].reason == "RuntimeError: out of luck"


def test_a_stand_in_sees_what_a_step_sees(model):
    for example in model.encode(["the cat sat"], ["and slept"], continuation=True):
        real = model.attribute_examples([example], "random")[0]
        made = stand_in(example)
        assert made.inputs == real.inputs and made.targets == real.targets
        assert bool((made.visible == real.visible).all())


def test_a_metric_without_a_plan_is_not_counted_and_the_plan_says_so(model):
    @attriflow.register_metric(higher_is_better=True)
    def asks_late(attribution, rescore):
        return float(rescore(torch.ones(1, len(attribution.inputs), dtype=torch.bool))[0, 0])

    @attriflow.register_metric(higher_is_better=True)
    def asks_nothing(attribution):
        return 1.0

    evaluated = evaluation(model, metrics=["asks_late", "asks_nothing", "deletion_auc"])
    for _ in evaluated.run():
        pass
    assert evaluated.plan.unplanned == ("asks_late",)
    assert str(evaluated.plan).splitlines()[1].endswith("; not counted: asks_late (no plan)")
