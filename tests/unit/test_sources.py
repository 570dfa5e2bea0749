"""Metrics that ablate sources of a whole response: what a source is, and where the answers are known by hand."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from explained import causal

from attriflow.errors import AttriflowError
from attriflow.registry import metrics
from attriflow.types import Token

TEXT = "old red hat. new hat. so"
SPANS = ((0, 3), (4, 7), (8, 11), (11, 12), (13, 16), (17, 20), (20, 21), (22, 24))
UNITS = {
    "token": [{i} for i in range(8)],
    "word": [{0}, {1}, {2, 3}, {4}, {5, 6}, {7}],
    "sentence": [{0, 1, 2, 3}, {4, 5, 6}, {7}],
    "segment": [{0, 1}, {2}, {3}, {4, 5, 6}, {7}],
}
EFFECTS = [0.5, -0.25, 3.0, 0.0, 0.125, -1.0, 2.0, 0.75]


def attribution(scores, unit="token"):
    """Two steps with the same scores of eight prompt tokens, of a method that scored such units."""
    found = causal([[*scores], [*scores, 9.0]], 8)
    given = [
        dataclasses.replace(t, text=TEXT[a:b], start=a, end=b) for t, (a, b) in zip(found.inputs, SPANS, strict=False)
    ]
    said = [Token(text="x", id=8 + i, start=24 + i, end=25 + i, segment="generated") for i in range(2)]
    provenance = dataclasses.replace(found.provenance, options={"unit": unit})
    return found.replace(
        inputs=(*given, *said),
        input_text=TEXT,
        target_text=f"{TEXT}xx",
        segments=((0, 7), (13, 21)),
        provenance=provenance,
    )


class Additive:
    """Every token that stays adds its effect to the log-probability of the response, half at each of two steps."""

    def __init__(self, effects):
        self.effects, self.gone = torch.tensor(effects, dtype=torch.float64), []

    def __call__(self, keep, steps=None, *, how="delete", draw=0):
        assert steps is None and how == "delete" and bool(keep[:, 8:].all())
        self.gone += [{i for i in range(8) if not row[i]} for row in keep.tolist()]
        whole = keep[:, :8].double() @ self.effects - 20
        return torch.stack([whole / 2, whole / 2], 1)


def measured(name, scores, effects=EFFECTS, *, scored="token", **options):
    """The value, or the reason why there is none."""
    found = metrics.build(name, **options)(attribution(scores, scored), Additive(effects))
    assert not found.per_step and len(found.values) == 1
    return found.skipped.get(0, found.values[0])


@pytest.mark.parametrize("unit", UNITS)
def test_sources_are_the_units_of_methods(unit):
    model = Additive(EFFECTS)
    metrics.build("loo_outlier_map", unit=unit)(attribution(EFFECTS), model)
    assert model.gone == [set(), *UNITS[unit]]


@pytest.mark.parametrize("unit", UNITS)
def test_scores_that_are_the_effects_predict_every_ablation(unit):
    assert measured("lds", EFFECTS, unit=unit) == pytest.approx(1)
    assert measured("lds", [-e for e in EFFECTS], unit=unit) == pytest.approx(-1)


def test_a_method_that_scored_units_has_their_scores_once():
    """By sums, the four tokens of the first sentence would outweigh the one of the last."""
    of_units = [1.0] * 4 + [0.5] * 3 + [2.0]
    assert measured("top_k_drop", of_units, scored="sentence", unit="sentence", top_k=(1,)) == pytest.approx(0.75)
    assert measured("top_k_drop", of_units, unit="sentence", top_k=(1,)) == pytest.approx(0.5 - 0.25 + 3)


def test_drops_are_nats_of_the_whole_response():
    best_first = [5.0, 0.0, 9.0, 0.0, 0.0, 7.0, 8.0, 6.0]  # 2, 6, 5, 7, 0
    drops = [3.0, 3.0 + 2.0 - 1.0, 3.0 + 2.0 - 1.0 + 0.75 + 0.5]
    found = metrics.build("top_k_drop")(attribution(best_first), Additive(EFFECTS))
    assert found.values[0] == pytest.approx(sum(drops) / 3)
    assert found.curves[0] == tuple(zip((1 / 8, 3 / 8, 5 / 8), map(pytest.approx, drops), strict=True))
    # more than there are: all of them, and once
    assert measured("top_k_drop", best_first, top_k=[9, 8, 100]) == pytest.approx(sum(EFFECTS))


def test_average_precision_of_outliers():
    effects = [0.0, 0.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0]  # a mean of 0.375 and a deviation of 0.99
    assert measured("loo_outlier_map", [8, 7, 6, 5, 4, 3, 2, 1.0], effects) == pytest.approx(1 / 3)
    assert measured("loo_outlier_map", [0, 0, 1, 0, 0, 0, 0, 0.0], effects) == 1
    assert measured("loo_outlier_map", [0.0] * 8, effects) == pytest.approx(1 / 8)
    two = [0.0, 0.0, 3.0, 0.0, 0.0, 0.0, 2.5, 0.0]
    assert measured("loo_outlier_map", [8, 7, 6, 5, 4, 3, 2, 1.0], two, deviations=1.4) == pytest.approx(
        (1 / 3 + 2 / 7) / 2
    )
    none = "no outlier among the leave-one-out effects"
    assert measured("loo_outlier_map", EFFECTS, [e / 1e6 for e in effects]) == none  # an outlier, but of rounding
    assert measured("loo_outlier_map", EFFECTS, [0.0, 1, 2, 3, 4, 5, 6, 7]) == none


def test_what_cannot_be_measured_says_why():
    assert measured("lds", [1.0] * 8) == "constant scores"
    assert measured("lds", EFFECTS, [0.0] * 8) == "constant log-probabilities"
    assert measured("lds", [math.nan, *EFFECTS[1:]]) == "scores are not finite"
    assert measured("lds", [1.0, -1.0, *[0.0] * 6], unit="segment") == "constant scores"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lds", {"n_samples": 1}),
        ("lds", {"unit": "letter"}),
        ("top_k_drop", {"top_k": (0, 3)}),
        ("top_k_drop", {"top_k": ()}),
        ("loo_outlier_map", {"deviations": -1.0}),
        ("loo_outlier_map", {"at_least": math.nan}),
    ],
)
def test_options_are_checked(name, options):
    with pytest.raises(AttriflowError):
        metrics.build(name, **options)


def test_position_bias_shows_the_score_by_position():
    rising = causal([[1.0, -2.0, 3.0, 4.0], [4.0, 3.0, 2.0, -1.0, 0.0]], 4)
    found = metrics.build("position_bias")(rising)
    assert found.values == (pytest.approx(1), pytest.approx(-1))
    assert found.curves[0] == tuple(zip((0, 1 / 3, 2 / 3, 1), (0.1, 0.2, 0.3, 0.4), strict=True))
    short = metrics.build("position_bias")(causal([[1.0, 2.0], [3.0, 3.0, 3.0]], 2))
    assert short.skipped == {0: "fewer than 3 inputs have no trend", 1: "constant scores"}
