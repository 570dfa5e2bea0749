"""Metrics that score through ferret: values by hand, the plan, edge cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from attriflow.errors import InputError
from attriflow.registry import metrics
from attriflow.types import Attribution, Provenance, Token, Variant
from attriflow_metrics import ferret

FAITHFULNESS = ("aopc_compr", "aopc_suff", "taucorr_loo")
PLAUSIBILITY = ("auprc_plau", "token_f1_plau", "token_iou_plau")
METRICS = {name: metrics.get(name) for name in FAITHFULNESS + PLAUSIBILITY}
NAN = float("nan")


def causal(rows, n_prompt, *, special=(), **fields):
    """A decoder-only attribution: row j scores the `n_prompt + j` tokens before step j; the rest is not visible."""
    n_steps, n_inputs = len(rows), n_prompt + len(rows)
    scores = torch.full((n_steps, n_inputs), NAN, dtype=torch.float64)
    for j, row in enumerate(rows):
        scores[j, : len(row)] = torch.tensor(row, dtype=torch.float64)
    inputs = tuple(
        Token(text=f"t{i}", id=i, segment="prompt" if i < n_prompt else "generated", special=i in special)
        for i in range(n_inputs)
    )
    fields = {"scores": scores, "inputs": inputs, "targets": inputs[n_prompt:], "start": n_prompt, **fields}
    return Attribution(provenance=Provenance(method="test"), **fields)


class Linear:
    """A model with a known answer: log p = -1 + the weights of the tokens that stay; records what it is asked."""

    def __init__(self, weights, fill=0.0):
        self.weights, self.fill = weights, fill
        self.calls, self.asked = 0, []

    def __call__(self, keep, steps=None, *, how="delete"):
        assert keep.dtype == torch.bool
        assert len(steps) == len(keep)
        self.calls += 1
        self.asked += [
            Variant(keep=tuple(row), step=step, how=how) for row, step in zip(keep.tolist(), steps, strict=True)
        ]
        weights = torch.tensor(self.weights, dtype=torch.float64)
        return -1.0 + (keep[:, : len(weights)].double() * weights).sum(-1)


def random_case(seed=0, n_prompt=6, n_steps=4, special=(0,)):
    g = torch.Generator().manual_seed(seed)
    rows = [torch.randn(n_prompt + j, generator=g).tolist() for j in range(n_steps)]
    return causal(rows, n_prompt, special=special), Linear((-torch.rand(10, generator=g)).tolist())


# Values by hand -------------------------------------------------------------------------------------------------------


def test_comprehensiveness_and_sufficiency_by_hand():
    attribution = causal([[3.0, 2.0, 1.0]], 3)
    model = Linear([-0.5, 0.25, 0.125])

    def p(*weights):
        return math.exp(-1 + sum(weights))

    full = p(-0.5, 0.25, 0.125)
    options = {"based_on": "k", "thresholds": (1, 2)}
    compr = METRICS["aopc_compr"](**options)(attribution, model).values[0]
    assert compr == pytest.approx(full - (p(0.25, 0.125) + p(0.125)) / 2, rel=1e-14)
    suff = METRICS["aopc_suff"](**options)(attribution, model).values[0]
    assert suff == pytest.approx(full - (p(-0.5) + p(-0.5, 0.25)) / 2, rel=1e-14)


def test_leave_one_out_correlation_is_one_for_the_true_effects():
    weights = [-0.3, 0.7, 0.1, -0.9, 0.5]
    assert METRICS["taucorr_loo"]()(causal([weights], 5), Linear(weights)).values[0] == pytest.approx(1)
    assert METRICS["taucorr_loo"]()(causal([[-w for w in weights]], 5), Linear(weights)).values[0] == pytest.approx(-1)


def test_plausibility_by_hand():
    attribution = causal([[0.9, 0.1, 0.8, -0.5]], 4)
    rationale = torch.tensor([[True, True, False, False, True]])  # the last one is not visible: not read
    assert METRICS["token_f1_plau"](top_k=2)(attribution, None, rationale).values[0] == pytest.approx(0.5)
    assert METRICS["token_iou_plau"](top_k=2)(attribution, None, rationale).values[0] == pytest.approx(1 / 3)
    perfect = causal([[0.9, 0.8, 0.1, -0.5]], 4)
    for name in PLAUSIBILITY:
        options = {} if name == "auprc_plau" else {"top_k": 2}
        assert METRICS[name](**options)(perfect, None, rationale).values[0] == pytest.approx(1.0)


def test_values_are_python_floats_and_extra_axes_are_reduced():
    attribution, model = random_case()
    wide = attribution.replace(
        scores=torch.stack([attribution.scores - 1, torch.ones_like(attribution.scores)], -1),
        axes=("step", "input", "embedding"),
        norms=attribution.scores.abs(),
    )
    rationale = torch.ones(attribution.scores.shape, dtype=torch.bool)
    for name, metric in METRICS.items():
        values = metric()(wide, model, rationale).values
        assert values == metric()(attribution, model, rationale).values, name
        assert all(type(v) is float for v in values), name


# What is asked of the model -------------------------------------------------------------------------------------------

OPTIONS = [
    {},
    {"only_pos": False},
    {"perturbation": "mask"},
    {"based_on": "k", "thresholds": (1, 3, 100)},
    {"based_on": "th", "thresholds": (-0.5, 0.0, 9.0)},
    {"thresholds": [0.01, 0.5], "only_pos": False},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", FAITHFULNESS)
def test_the_plan_is_what_is_asked_in_one_call(name, options, monkeypatch):
    if name == "taucorr_loo":
        options = {k: v for k, v in options.items() if k == "perturbation"}
    attribution, model = random_case()
    metric = METRICS[name](**options)
    plan = metric.plan(attribution)
    assert len(plan) == len(set(plan))

    looked_up = set()
    score = ferret.TableModel.__call__

    def spy(self, input_ids, attention_mask, **kwargs):
        for row, n in zip(input_ids.tolist(), attention_mask.sum(-1).tolist(), strict=True):
            looked_up.add(tuple(row[:n]))
        return score(self, input_ids=input_ids, attention_mask=attention_mask, **kwargs)

    monkeypatch.setattr(ferret.TableModel, "__call__", spy)
    metric(attribution, model)
    assert model.calls == 1
    assert model.asked == plan
    # and nothing is planned that ferret does not look at
    removable = [set(range(1, 6 + step)) for step in range(4)]
    assert {tuple(i for i, k in enumerate(v.keep) if k and i in removable[v.step]) for v in plan} == looked_up


@pytest.mark.parametrize("name", FAITHFULNESS)
def test_ferret_decides_also_when_the_plan_is_incomplete(name):
    attribution, model = random_case()
    expected = METRICS[name]()(attribution, model).values
    unplanned = type("Unplanned", (METRICS[name],), {"kept_inputs": lambda self, step: []})
    again = Linear(model.weights)
    assert unplanned()(attribution, again).values == expected
    assert again.calls > 1


@pytest.mark.parametrize("name", FAITHFULNESS)
def test_the_planned_masks_are_canonical(name):
    attribution, _ = random_case(special=(0, 3))
    for variant in METRICS[name]().plan(attribution):
        keep = np.array(variant.keep)
        assert keep[[0, 3]].all(), "special tokens stay"
        assert keep[attribution.start + variant.step :].all(), "the future is not touched"


def test_leave_one_out_asks_the_same_for_every_method():
    a, b = random_case(1)[0], random_case(2)[0]
    assert METRICS["taucorr_loo"]().plan(a) == METRICS["taucorr_loo"]().plan(b)


# Edge cases -----------------------------------------------------------------------------------------------------------


def test_no_positive_score():
    attribution, model = causal([[-1.0, -2.0, 0.0]], 3), Linear([-0.1, -0.2, -0.3])
    assert METRICS["aopc_compr"]()(attribution, model).values == (0.0,)
    assert METRICS["aopc_suff"]()(attribution, model).values == (1.0,)
    rationale = torch.tensor([[True, False, False, False]])
    assert METRICS["auprc_plau"]()(attribution, None, rationale).values[0] == pytest.approx((1 + 1 / 3) / 2)
    for name in ("token_f1_plau", "token_iou_plau"):
        assert METRICS[name]()(attribution, None, rationale).values == (0.0,)
        assert METRICS[name](only_pos=False, top_k=1)(attribution, None, rationale).values == (0.0,)
        assert METRICS[name](only_pos=False, top_k=1)(attribution, None, ~rationale).values[0] > 0
    for name in ("aopc_compr", "aopc_suff"):
        assert METRICS[name](only_pos=False)(attribution, model).values[0] not in (0.0, 1.0)


def test_no_score_above_a_threshold_removes_nothing_and_keeps_nothing():
    attribution, model = causal([[1.0, 2.0]], 2), Linear([-0.1, -0.2])
    options = {"based_on": "th", "thresholds": (9.0,)}
    assert METRICS["aopc_compr"](**options)(attribution, model).values == (0.0,)
    assert METRICS["aopc_suff"](**options)(attribution, model).values[0] == pytest.approx(math.exp(-1.3) - math.exp(-1))


@pytest.mark.parametrize("factor", [1e-30, 1.0, 1e30])
def test_all_signs_depend_on_the_order_only(factor):
    row = [-3.0, 1.0, -1.0, 2.0, -2.0]
    model = Linear([-0.1, -0.2, -0.3, -0.4, -0.5])
    metric = METRICS["aopc_compr"](only_pos=False)
    expected = METRICS["aopc_compr"]()(causal([[x - min(row) + 1 for x in row]], 5), model).values
    assert metric(causal([[x * factor for x in row]], 5), model).values == expected


def test_constant_scores_and_constant_effects():
    constant = causal([[0.2, 0.2, 0.2]], 3)
    model = Linear([-0.1, -0.2, -0.3])
    assert METRICS["taucorr_loo"]()(constant, model).skipped == {0: "constant scores"}
    for name in ("aopc_compr", "aopc_suff"):
        assert None not in METRICS[name]()(constant, model).values
    varied = causal([[0.1, 0.2, 0.3]], 3)
    assert METRICS["taucorr_loo"]()(varied, Linear([-0.1] * 3)).skipped == {0: "constant leave-one-out effects"}
    assert METRICS["taucorr_loo"]()(varied, Linear([0.0] * 3)).skipped == {0: "constant leave-one-out effects"}


def test_one_input_and_none():
    attribution = causal([[0.7], [0.7, 0.1]], 1)
    model = Linear([-0.5])
    assert METRICS["aopc_compr"]()(attribution, model).values[0] == pytest.approx(math.exp(-1.5) - math.exp(-1))
    assert METRICS["aopc_suff"]()(attribution, model).values[0] == 0.0
    metric = METRICS["taucorr_loo"]()
    assert {variant.step for variant in metric.plan(attribution)} == {1}
    tau = metric(attribution, model)
    assert tau.skipped == {0: "a single input has no order"}
    assert tau.values[1] == pytest.approx(-1)

    only_special = causal([[0.7]], 1, special=(0,))
    for name in FAITHFULNESS:
        model = Linear([-0.5])
        assert METRICS[name]()(only_special, model).skipped == {0: "no input to remove"}
        assert METRICS[name]().plan(only_special) == []
        assert model.calls == 0


def test_rationales():
    attribution = causal([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3, 9.0]], 3)
    empty = torch.tensor([[False] * 5, [False, False, False, True, True]])  # only generated and future tokens marked
    for name in PLAUSIBILITY:
        metric = METRICS[name]()
        assert metric(attribution, None).skipped == {0: "no rationale", 1: "no rationale"}
        assert metric(attribution, None, empty).skipped == {0: "empty rationale", 1: "empty rationale"}
        assert metric(attribution, None, torch.ones(2, 5, dtype=torch.bool)).values == pytest.approx((1.0, 1.0))
        with pytest.raises(InputError, match=r"\[step, input\] = \(2, 5\)"):
            metric(attribution, None, empty[:1])
    special = causal([[0.1, 0.2]], 2, special=(0,))
    only_special = torch.tensor([[True, False, False]])
    assert METRICS["auprc_plau"]()(special, None, only_special).skipped == {0: "empty rationale"}


def test_the_generated_prefix_is_not_annotated():
    rows = [[0.1, 0.3, 0.2, 9.0]]
    attribution = causal([[0.1, 0.3, 0.2], *rows], 3)
    rationale = torch.zeros(2, 5, dtype=torch.bool)
    rationale[:, 1] = True
    for name in PLAUSIBILITY:
        options = {} if name == "auprc_plau" else {"top_k": 1}
        assert METRICS[name](**options)(attribution, None, rationale).values == (1.0, 1.0)


@pytest.mark.parametrize("bad", [NAN, math.inf])
def test_scores_that_are_not_finite(bad):
    attribution, model = random_case()
    scores = attribution.scores.clone()
    scores[1, 2] = bad
    scores[2, 0] = bad  # a special token: not looked at
    broken = attribution.replace(scores=scores)
    rationale = torch.ones(scores.shape, dtype=torch.bool)
    for name, metric in METRICS.items():
        result = metric()(broken, model, rationale)
        assert result.skipped == {1: "scores are not finite"}, name


def test_a_model_without_a_number():
    def broken(keep, steps, *, how):
        return torch.tensor([NAN if step == 0 else -1.0 - 0.1 * i for i, step in enumerate(steps)])

    attribution, _ = random_case(n_steps=2)
    for name in FAITHFULNESS:
        assert METRICS[name]()(attribution, broken).skipped == {0: "the model's score is NaN"}


@pytest.mark.parametrize("log_p", [0.0, -math.inf])
def test_certain_and_impossible_targets(log_p):
    attribution, _ = random_case()
    result = METRICS["aopc_compr"]()(attribution, lambda keep, steps, *, how: torch.full((len(keep),), log_p))
    assert result.values == (0.0,) * 4


def test_faithfulness_needs_rescore():
    with pytest.raises(InputError, match="rescore"):
        METRICS["aopc_compr"]()(random_case()[0], None)
