"""Method cards: their numbers against the model, the tokenizer and the explanations themselves."""

from __future__ import annotations

import json
import statistics

import pytest

import attriflow
from attriflow.evaluation.config import EvaluationConfig
from attriflow.evaluation.data import EvaluationData
from attriflow.evaluation.runner import Evaluation
from attriflow.registry import methods
from attriflow.tracking.pages import Tables
from attriflow.views.evaluations.cards import card

TEXTS = ("anna has the red hat . what is red ?", "the lamp of tom is blue . what is blue ?")


@pytest.fixture(scope="module")
def made():
    """An evaluation, its explanations by method, and its cards."""
    options = {"integrated_gradients": {"n_steps": "auto", "baseline": ["unk", "eos"]}, "lime.few": {"n_samples": 8}}
    settings = {
        "methods": ["occlusion", "integrated_gradients", "attention", "lime.few", "deeplift", "random"],
        "method_options": options,
        "metrics": ["aopc_compr", "completeness_error"],
        "step_functions": [],
    }
    model = attriflow.load_model("demo/recall", device="cpu")
    data = EvaluationData(inputs=TEXTS, targets=("hat", "lamp"))
    evaluation = Evaluation(model, data, EvaluationConfig.from_dict(settings))
    for _ in evaluation.run():
        pass
    explained = {r.name: r.attributions for r in evaluation.results}
    return evaluation, explained, {c["method"]: c for c in Tables.of(evaluation, {}).cards}


def test_cards_say_what_was_run(made):
    evaluation, explained, cards = made
    assert list(cards) == list(Tables.of(evaluation, {}).leaderboard["method"]) and len(cards) == 6
    assert json.loads(json.dumps(cards, allow_nan=False)) == cards

    occlusion, paths = cards["occlusion"], cards["integrated_gradients"]
    assert occlusion["definition"] == methods.info("occlusion").summary
    assert occlusion["objective"] == {"step_function": "probability", "options": {}}
    assert cards["lime.few"]["part"] == "lime" and cards["lime.few"]["samples"] == {"n_samples": 8}
    assert (occlusion["reduction"], paths["reduction"], cards["attention"]["reduction"]) == (
        "one number per token",
        "sum over dimensions",
        "mean over layer and head",
    )
    # a pass per token that can be seen, and the unchanged text
    passes = [a.provenance.forward_rows for a in explained["occlusion"]]
    assert occlusion["cost"]["forward_passes"] == pytest.approx(statistics.mean(passes)) and min(passes) > 5
    used = [float(n) for a in explained["integrated_gradients"] for n in a.step_scores["n_steps"]]
    assert paths["samples"] == {"n_steps_used": statistics.median(used)} | {"n_steps": "auto"}
    missed = [float(n) for a in explained["integrated_gradients"] for n in a.step_scores["residual"]]
    assert paths["residual"]["own"] == pytest.approx(statistics.median(missed))
    deeplift = next(r for r in evaluation.results if r.name == "deeplift")
    errors = [v.mean for v in deeplift.values["completeness_error"]]
    assert cards["deeplift"]["residual"] == {
        "completeness_error": pytest.approx(statistics.median(errors)),
        "own": None,
    }
    assert occlusion["residual"] == {"completeness_error": None, "own": None}
    gate = {g["gate"]: g for g in cards["deeplift"]["gates"]}
    assert gate["completeness"]["value"] == pytest.approx(statistics.median(errors))
    assert gate["control"]["passed"] is None and "2 examples could not tell" in gate["control"]["why"]
    assert "completeness" not in [name for _, _, name in card(occlusion)["gates"]]


def test_baselines_are_tokens_with_the_length_of_their_embedding(made):
    evaluation, _, cards = made
    tokenizer = evaluation.model.tokenizer
    norms = evaluation.model.model.get_input_embeddings().weight.detach().norm(dim=1)
    wanted = sorted((tokenizer.unk_token_id, tokenizer.eos_token_id))
    found = cards["integrated_gradients"]["baselines"]
    assert [b["id"] for b in found] == wanted and [b["text"] for b in found] == tokenizer.convert_ids_to_tokens(wanted)
    for one in found:
        shorter = sum(float(n) < float(norms[one["id"]]) for n in norms)
        assert one["norm_percentile"] == round(100 * shorter / len(norms), 1)
    assert cards["attention"]["baselines"] == [] and cards["attention"]["baseline_name"] is None


def test_cards_in_words(made):
    *_, cards = made
    shown = card(cards["integrated_gradients"])
    facts = dict(shown["facts"])
    assert facts["explains"] == "probability" and facts["baseline"].count("norm above") == 2
    assert "n steps: auto, n steps used" in facts["samples"] and "by its own count" in facts["residual"]
    assert shown["blind"] == methods.info("integrated_gradients").meta["blind"]
    assert "no passes" in dict(card(cards["random"])["facts"])["cost"]
    assert dict(card(cards["occlusion"])["facts"])["residual"] == "scores are not promised to add up"


def test_every_method_declares_its_blind_spots():
    assert [part.name for part in methods if part.meta["blind"] == "not stated" or len(part.meta["blind"]) < 20] == []
