"""`n_steps="auto"`: as many points on a path as its scores need to add up, step by step."""

from __future__ import annotations

import pytest
import torch

import attriflow
from attriflow.demo import load_demo_dataset
from attriflow.errors import AttriflowError
from attriflow.methods import _enough

METHODS = ("integrated_gradients", "layer_integrated_gradients")


@pytest.fixture(scope="module")
def case():
    rows = load_demo_dataset("recall").head(3)
    model = attriflow.load_model("demo/recall")
    return model, list(rows["input"]), [f"{i} {t}" for i, t in zip(rows["input"], rows["target"], strict=True)]


@pytest.mark.parametrize("method", METHODS)
def test_each_step_has_the_first_number_of_points_that_is_enough(case, method):
    model, texts, targets = case
    found = model.attribute(texts, targets, method=method, n_steps="auto", return_convergence_delta=True)
    numbers = {}
    for n in (20, 40, 80, 160, 320, 640):
        if numbers and all(n > int(a.step_scores["n_steps"].max()) for a in found):
            break
        numbers[n] = model.attribute(texts, targets, method=method, n_steps=n, return_convergence_delta=True)
    used = set()
    for row, attribution in enumerate(found):
        for step in range(len(attribution.targets)):
            enough = None
            for n, others in numbers.items():
                other = others[row]
                delta = float(other.step_scores["deltas"][step])
                difference = float(other.scores[step].nansum()) - delta
                residual = abs(delta) / max(abs(difference), 1e-3)
                if residual < 0.05:
                    enough = n
                    break
            assert enough is not None and int(attribution.step_scores["n_steps"][step]) == enough
            assert float(attribution.step_scores["residual"][step]) == pytest.approx(residual, abs=1e-3)
            assert float(attribution.step_scores["deltas"][step]) == pytest.approx(delta, abs=1e-5)
            for one, two in ((attribution.scores, other.scores), (attribution.norms, other.norms)):
                torch.testing.assert_close(one[step], two[step], atol=1e-5, rtol=1e-4, equal_nan=True)
            used.add(enough)
    assert len(used) > 1  # else nothing has been tried


def test_alone_and_in_a_batch_and_granular(case):
    model, texts, targets = case
    batch = model.attribute(texts, targets, method="integrated_gradients", n_steps="auto", granular=True)
    alone = model.attribute(texts[1], targets[1], method="integrated_gradients", n_steps="auto", granular=True)
    torch.testing.assert_close(batch[1].scores, alone[0].scores, atol=1e-5, rtol=1e-4, equal_nan=True)
    assert torch.equal(batch[1].step_scores["n_steps"], alone[0].step_scores["n_steps"])
    assert batch[0].provenance.options["n_steps"] == "auto" and "deltas" not in batch[0].step_scores


def test_what_never_adds_up_is_said(case, monkeypatch):
    model, texts, targets = case
    monkeypatch.setattr(_enough, "RESIDUAL", 0.0)
    monkeypatch.setattr(_enough, "MOST", 40)
    with pytest.warns(UserWarning, match="with 40 points, the scores of 1 of 1 steps still miss their sum"):
        (found,) = model.attribute(texts[0], targets[0], method="integrated_gradients", n_steps="auto")
    assert found.step_scores["n_steps"].tolist() == [40]


def test_other_words_are_no_number_of_points():
    for method in METHODS:
        with pytest.raises(AttriflowError, match="'auto'"):
            attriflow.registry.methods.build(method, n_steps="many")
