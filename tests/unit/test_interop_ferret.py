"""ferret both ways: its explainers as methods against attriflow's own, attributions in its tables."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from view_data import ANSWER, PROMPT, causal

import attriflow
from attriflow.errors import AttriflowError
from attriflow.interop import ferret
from attriflow.registry import methods
from attriflow_metrics.ferret import ferret_available

pytestmark = pytest.mark.skipif(not ferret_available(), reason="ferret is not installed")
TEXT = "anna has a red hat . tom has a blue car . what color is the car ?"
QUICK = {"explainer": "lime", "call_args": {"num_samples": 40}}


@pytest.fixture(autouse=True)
def _forget():
    yield
    for name in ferret.EXPLAINERS:
        methods.unregister(f"ferret_{name}")
    methods.unregister("FerretExplainer")


@pytest.fixture(scope="module")
def model():
    loaded = {name: attriflow.load_model(f"demo/{name}") for name in ("recall", "translate")}
    return loaded.__getitem__


def attribute(model, texts, method="attriflow.interop.ferret:FerretExplainer", **options):
    return model.attribute(texts, method=method, show_progress=False, **options)


def same(one, other, atol=1e-5):
    torch.testing.assert_close(one.token_scores(), other.token_scores(), atol=atol, rtol=1e-4, equal_nan=True)


@pytest.mark.parametrize(("name", "text"), [("recall", TEXT), ("translate", "the red house")])
@pytest.mark.parametrize("attributed_fn", ["logits", "probability"])
def test_gradient_explainers_agree_with_attriflows_methods(model, name, text, attributed_fn):
    m, fn = model(name), {"attributed_fn": attributed_fn}
    ours = attribute(m, text, "input_x_gradient", **fn)[0]
    theirs = attribute(m, text, explainer="gradient_x_input", **fn)[0]
    same(ours, theirs)
    assert theirs.provenance.options["explainer"] == "gradient_x_input"
    assert theirs.provenance.forward_rows == theirs.provenance.backward_rows == len(theirs.targets)
    whole = m.attribute(text, method="saliency", granular=True, show_progress=False, **fn)[0]
    absolute = whole.replace(scores=whole.scores.abs().sum(-1), axes=("step", "input"), norms=None)
    same(absolute, attribute(m, text, explainer="gradient", **fn)[0], atol=1e-4)


def test_integrated_gradients_agree(model):
    """At the first step, where no EOS is in the prefix, which attriflow does not replace."""
    options = {"n_steps": 30, "attributed_fn": "probability"}
    ours = attribute(model("recall"), TEXT, "integrated_gradients", **options)[0]
    theirs = attribute(
        model("recall"), TEXT, explainer="integrated_gradient_x_input", call_args={"n_steps": 30},
        attributed_fn="probability",
    )[0]  # fmt: skip
    torch.testing.assert_close(ours.scores[0], theirs.scores[0], atol=1e-4, rtol=1e-3, equal_nan=True)


def test_lime_finds_the_evidence_and_is_seeded(model):
    m = model("recall")
    both = attribute(m, [TEXT, "tom has a red car . who has a car ?"], **QUICK)
    alone = attribute(m, TEXT, **QUICK)[0]
    same(both[0], alone)
    assert not torch.equal(attribute(m, TEXT, seed=1, **QUICK)[0].scores.nan_to_num(), alone.scores.nan_to_num())
    many = attribute(m, TEXT, explainer="lime", call_args={"num_samples": 300})[0]
    assert many.inputs[int(many.scores[0].nan_to_num().argmax())].text == "blue"


@pytest.mark.slow
def test_shap_values_add_up(model):
    """They share out the probability between the text and one without any of its tokens."""
    m = model("translate")
    found = attribute(m, "the red house", explainer="shap", attributed_fn="probability", step_scores=["probability"])[0]
    from attriflow.engine import Engine, Objective
    from attriflow.step_functions.likelihood import probability

    (example,) = m.encode(["the red house"], [found.target_text])
    engine = Engine(m.wrapped, [example], Objective(probability), ("source",), include_eos_baseline=True)
    empty = engine.values_at({"source": engine.baseline_embeddings("source")})[0]
    wanted = found.step_scores["probability"] - empty[: len(found.targets)]
    torch.testing.assert_close(found.scores.sum(1), wanted, atol=1e-4, rtol=1e-3)


def test_registered_explainers_are_methods_like_others(model):
    names = ferret.register()
    assert names == ferret.register() and set(names) <= set(methods.names())
    found = attribute(model("translate"), "the red house", "ferret_gradient_x_input", attributed_fn="logits")[0]
    same(found, attribute(model("translate"), "the red house", "input_x_gradient", attributed_fn="logits")[0])
    assert methods.info("ferret_lime").meta["family"] == "perturbation"
    assert methods.info("ferret_lime").summary.startswith("ferret's explainer LIMEExplainer")
    with pytest.raises(AttriflowError, match="has one explainer"):
        methods.build("ferret_lime", explainer="shap")


def test_an_explainer_of_ones_own(model):
    from ferret.explainers import BaseExplainer
    from ferret.explainers.explanation import Explanation

    class Length(BaseExplainer):
        NAME = "length"

        def compute_feature_importance(self, text, target=1, **_):
            _, logits = self.helper._forward(text, output_hidden_states=False)
            tokens = self.get_tokens(text)
            return Explanation(text, tokens, np.full(len(tokens), logits.softmax(-1)[0, target]), self.NAME, target)

    found = attribute(model("recall"), TEXT, explainer=Length, step_scores=["probability"])[0]
    for step, probability in enumerate(found.step_scores["probability"]):
        seen = found.scores[step][~found.scores[step].isnan()]
        torch.testing.assert_close(seen, probability.float().expand(len(seen)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"explainer": "lme"}, "did you mean 'lime'"),
        ({"explainer": 3}, "must be a name or a class"),
        ({"explainer": "lime", "reads": "text"}, "reads"),
        ({}, "needs the option 'explainer'"),
        ({"explainer": "lime", "attributed_fn": "logits"}, "explains the probability of the token"),
        ({"explainer": "gradient", "attributed_fn": "mc_dropout_prob_avg"}, "run the model again"),
        ({"explainer": "lime", "attribute_target": True}, "without attribute_target"),
    ],
)
def test_what_does_not_apply_is_an_error(model, options, message):
    with pytest.raises(AttriflowError, match=message):
        attribute(model("translate"), "the red house", **options)


def test_attributions_in_ferrets_tables():
    items = {name: causal(PROMPT, ANSWER, name, seed=i) for i, name in enumerate(("saliency", "lime"))}
    found = ferret.explanations(items, step=0)
    assert [type(e).__name__ for e in found] == ["Explanation"] * 2
    one = found[0]
    assert one.explainer == "saliency" and one.target == items["saliency"].targets[0].id
    scores = items["saliency"].scores[0, : len(PROMPT)].double().numpy()
    np.testing.assert_allclose(one.scores, scores / np.abs(scores).sum())
    assert len(set(one.tokens)) == len(PROMPT) and one.tokens.count("car.1") == 1
    frame = ferret.to_frame(found)
    assert list(frame.index) == ["saliency", "lime"] and list(frame.columns) == one.tokens
    np.testing.assert_allclose(frame.loc["lime"].to_numpy(float), found[1].scores)
    page = ferret.show_table(found).to_html()
    assert "car.1" in page and f"{one.scores[4]:.2f}" in page
    raw = ferret.explanations(items["saliency"], step=-1, normalise=False)[0]
    last = items["saliency"].scores[-1].double().numpy()
    np.testing.assert_allclose(raw.scores, last[~np.isnan(last)])
    with pytest.raises(AttriflowError, match="there is no step 3: there are 3"):
        ferret.explanations(items, step=3)
    with pytest.raises(AttriflowError, match="different tokens"):
        ferret.explanations({"a": causal(PROMPT, ANSWER), "b": causal(PROMPT[:4], ANSWER)})


def test_ferrets_evaluators_take_them(model):
    """An explanation of a step, judged by ferret's own evaluator against the step as ferret's explainers see it."""
    from ferret.evaluators.plausibility_measures import AUPRC_PlausibilityEvaluation
    from ferret.explainers.explanation import ExplanationWithRationale

    found = attribute(model("recall"), TEXT, "occlusion")[0]
    (e,) = ferret.explanations(found, step=0)
    evidence = [int(t in ("blue", "car", "car.1", "color")) for t in e.tokens]
    judged = ExplanationWithRationale(e.text, e.tokens, e.scores, e.explainer, e.target, evidence)
    out = AUPRC_PlausibilityEvaluation(None, None).compute_evaluation(judged, e.target, remove_first_last=False)
    assert out.score > 0.9
