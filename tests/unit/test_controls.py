"""The controls: what they score, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import attriflow

TEXT = "anna has a red hat . what color is the hat ?"


@pytest.fixture(scope="module")
def scores():
    model = attriflow.load_model("demo/recall")

    def of(method, **options):
        out = model.attribute(TEXT, f"{TEXT} red", method=method, show_progress=False, **options)[0]
        return out.token_scores()[0, : out.start].double().numpy()

    return of


def test_the_signed_control_is_the_unsigned_one_moved(scores):
    signed, unsigned = scores("random", seed=3), scores("random_unsigned", seed=3)
    assert ((unsigned >= 0) & (unsigned < 1)).all() and signed == pytest.approx(2 * unsigned - 1)
    drawn = np.concatenate([scores("random", seed=s) for s in range(40)])
    assert abs((drawn > 0).mean() - 0.5) < 0.06 and drawn.min() < -0.9


def test_the_position_control_knows_nothing_but_the_distance(scores):
    found = scores("position")
    assert found == pytest.approx([1 / (len(found) - i) for i in range(len(found))])


def test_the_position_control_over_two_blocks():
    model = attriflow.load_model("demo/translate")
    out = model.attribute("the red cat sees a dog", method="position", attribute_target=True, show_progress=False)[0]
    n = sum(t.segment == "source" for t in out.inputs)
    scores = out.token_scores().double()
    for step in range(len(out.targets)):
        seen = int((~torch.isnan(scores[step, n:])).sum())
        assert scores[step, :n].tolist() == pytest.approx([1 / (n - i) for i in range(n)])
        assert scores[step, n : n + seen].tolist() == pytest.approx([1 / (seen - i) for i in range(seen)])
