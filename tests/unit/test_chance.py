"""Curves of as many random tokens, against expectations worked out by hand; the plot that has them."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch
from evaluation_fakes import FakeModel, causal_example

from attriflow.evaluation import chance as module
from attriflow.evaluation.chance import RANDOM_TOKENS, chance
from attriflow.evaluation.rescoring import VariantScorer
from attriflow.evaluation.results import ExampleValues, MethodResult
from attriflow.evaluation.scoring import MetricRunner
from attriflow.evaluation.tables import curves_table, each_value
from attriflow.registry import metrics
from attriflow.views.evaluations.curves import GRID, best_methods, mean_curves, removal_curves

EXAMPLES = [causal_example("a b c d", "x"), causal_example("e f g", "y z")]
WEIGHTS = (0.1, 0.5, 1.0, 2.0)


class Weighted(FakeModel):
    """Log-probability of a step = -(sum of the weights of the tokens that are gone)."""

    def rescore(self, examples, variants, **options):
        out = []
        for _, variant in variants:
            gone = [w for w, k in zip((*WEIGHTS, 3.0, 3.0), variant.keep, strict=False) if not k]
            out.append(torch.tensor([-math.fsum(gone)], dtype=torch.float64))
        return out


def curves(model, names, examples=EXAMPLES):
    scorer = VariantScorer(model, examples)
    runner = MetricRunner([metrics.info(n) for n in names], {}, scorer, [None] * len(examples))
    found = chance(runner, examples)
    assert found is not None and list(found.values) == list(names)
    return found.values


def test_every_order_of_alike_tokens_is_the_curve_of_their_number():
    found = curves(FakeModel(), ["deletion_auc", "insertion_auc"])
    deleted, inserted = found["deletion_auc"][0].curves[0], found["insertion_auc"][0].curves[0]
    assert [x for x, _ in deleted] == [0, 0.25, 0.5, 0.75, 1]
    assert [y for _, y in deleted] == pytest.approx([math.exp(-k) for k in range(5)])
    assert [y for _, y in inserted] == pytest.approx([math.exp(k - 4) for k in range(5)])
    assert set(found["deletion_auc"][1].curves) == {0, 1}  # a curve for each step


def test_it_is_the_mean_over_random_orders(monkeypatch):
    monkeypatch.setattr(module, "ORDERS", 300)
    curve = dict(curves(Weighted(), ["deletion_auc"], EXAMPLES[:1])["deletion_auc"][0].curves[0])
    one = [math.exp(-w) for w in WEIGHTS]
    assert curve[0.25] == pytest.approx(sum(one) / 4, abs=0.05)
    assert curve[0.75] == pytest.approx(sum(math.exp(w - sum(WEIGHTS)) for w in WEIGHTS) / 4, abs=0.03)
    assert curve[1] == pytest.approx(math.exp(-sum(WEIGHTS)))


def test_orders_belong_to_the_example_and_not_to_its_place():
    there = curves(Weighted(), ["deletion_auc"])["deletion_auc"][0].curves
    assert curves(Weighted(), ["deletion_auc"], EXAMPLES[::-1])["deletion_auc"][1].curves == there


def test_metrics_without_curves_have_none():
    runner = MetricRunner([metrics.info("logprob_compr")], {}, VariantScorer(FakeModel(), EXAMPLES), [None] * 2)
    assert chance(runner, EXAMPLES) is None


def line(*points):
    return ExampleValues(values=(0.0,), curves={0: points})


def test_the_plot_has_means_over_examples_and_random_tokens_dashed():
    ends = {
        "good": ([line((0, 1), (0.5, 0), (1, 0))], [line((0, 1), (1, 0))]),
        "bad": ([line((0, 1), (1, 1))], [line((0, 1), (1, 1))]),
        RANDOM_TOKENS: ([line((0, 1), (1, 0.5))], [line((0, 1), (1, 0.5))]),
    }
    results = [MethodResult(name=n, values={"deletion_auc": [*a, *b]}) for n, (a, b) in ends.items()]
    table = curves_table(each_value(results), [EXAMPLES[0]] * 2)
    found = mean_curves(table)["deletion_auc"]
    assert found["good"][GRID == 0.5] == pytest.approx(0.25) and found["good"][GRID == 0.25] == pytest.approx(0.625)
    assert best_methods({"deletion_auc": found}, {"deletion_auc": False}) == ["good", "bad"]
    assert best_methods({"deletion_auc": found}, {"deletion_auc": True}) == ["bad", "good"]
    figure = removal_curves(table, {"deletion_auc": False})
    lines = {drawn.get_label(): drawn for drawn in figure.axes[0].get_lines()}
    assert set(lines) == {"good", "bad", RANDOM_TOKENS} and lines[RANDOM_TOKENS].get_linestyle() == "--"
    assert list(lines[RANDOM_TOKENS].get_ydata())[-1] == 0.5
    assert removal_curves(pd.DataFrame(columns=table.columns), {}).axes[0].get_lines() == []
