"""NaN and infinity of a model, of what is explained or of a method are never scores: one line says where they begin."""

from __future__ import annotations

import warnings

import pandas as pd
import pytest
import torch

import attriflow
from attriflow.engine import Scores
from attriflow.errors import InputError, NotFiniteError
from attriflow.evaluation.config import EvaluationConfig
from attriflow.evaluation.data import EvaluationData
from attriflow.evaluation.runner import Evaluation
from attriflow.registry import methods

TEXT = "anna has a red hat . what color is the hat ?"
OTHER = "ben has a blue cup . what color is the cup ?"
TARGETS = [f"{TEXT} red hat", f"{OTHER} blue cup"]
CONTROLS = ("dummy", "random", "random_unsigned", "position")


@pytest.fixture(scope="module")
def recall():
    return attriflow.load_model("demo/recall")


def broken(how):
    """A model with NaN for one entry of the vocabulary, for all of them, or with infinite logits."""
    model = attriflow.load_model("demo/recall")
    head = model.model.get_output_embeddings()
    with torch.no_grad():
        if how == "one entry":
            head.weight = torch.nn.Parameter(head.weight.clone())
            head.weight[5] = torch.nan
        elif how == "everywhere":
            next(p for p in model.model.parameters() if p.ndim == 2 and len(p) != len(model.tokenizer)).fill_(torch.nan)
        elif how == "infinite":
            head.register_forward_hook(lambda _m, _a, logits: logits.index_fill(-1, torch.tensor([7]), torch.inf))
    return model


@pytest.mark.parametrize("how", ["one entry", "everywhere", "infinite"])
def test_no_method_explains_logits_that_are_not_finite(how):
    model, kept = broken(how), []
    what = "infinite" if how == "infinite" else "NaN"
    for name in sorted(set(methods.names()) - set(CONTROLS)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                found = model.attribute(TEXT, TARGETS[0], method=name, show_progress=False)[0]
            except NotFiniteError as error:
                said = str(error)
            else:
                kept.append(name)
                assert found.scores[found.visible].isfinite().all() and found.visible.any(), name
                said = next(str(w.message) for w in caught if issubclass(w.category, UserWarning))
        wanted = f"the model's logits are {what} at step 0 ('red') of {TEXT!r}, so there is nothing to explain: "
        assert said.startswith(wanted), (name, said)
    internals = {"attention", "attention_rollout", "value_norm", "value_zeroing"}  # they do without logits
    assert set(kept) <= internals
    assert (set(kept) == internals) is (how != "everywhere")


def test_half_precision_that_overflows_is_told_what_to_try(recall):
    model = attriflow.load_model("demo/recall")
    with torch.no_grad():
        model.model.get_output_embeddings().weight.mul_(3e4)
    half = attriflow.load_model(model.model.half(), tokenizer=model.tokenizer)
    with pytest.raises(
        NotFiniteError, match=r"logits are (NaN|infinite) at step 0 .*: float16 may overflow, try dtype='f"
    ):
        half.attribute(TEXT, TARGETS[0], method="saliency", show_progress=False)


def only_for(text, value):
    """A method that gives a value for the third token of one text, and ones elsewhere."""

    def method(engine):
        scores = torch.ones(engine.visible("target").shape)
        for row, example in enumerate(engine.examples):
            if example.input_text == text:
                scores[row, 1, 3] = value
        return Scores({"target": scores})

    return attriflow.register_method(method, "mine", overwrite=True)


@pytest.mark.parametrize(("value", "said"), [(torch.nan, "NaN"), (-torch.inf, "infinite")])
def test_a_method_whose_scores_are_not_finite(recall, value, said):
    only_for(TEXT, value)
    message = rf"method 'mine' gave a score that is {said}, for the token 'red' at step 1 \('hat'\) of 'anna has"
    with pytest.raises(NotFiniteError, match=message):
        recall.attribute(TEXT, TARGETS[0], method="mine", show_progress=False)
    # the other text of the batch is explained
    with pytest.warns(UserWarning, match=f"no steps for 1 of 2 texts, the others are explained: text 0: {message}"):
        out = recall.attribute([TEXT, OTHER], TARGETS, method="mine", show_progress=False)
    assert [len(a.targets) for a in out] == [0, 2] and out[1].scores[1].tolist()[:13] == [1] * 13
    # but of examples all are asked for
    examples = recall.encode([OTHER, TEXT], TARGETS[::-1])
    with pytest.raises(NotFiniteError, match=f"text 1: {message}"):
        recall.attribute_examples(examples, "mine")


def test_padding_and_later_tokens_may_be_anything(recall):
    def method(engine):
        return Scores({"target": torch.where(engine.visible("target"), 1.0, torch.inf)})

    attriflow.register_method(method, "mine", overwrite=True)
    out = recall.attribute(["a", TEXT], ["a b", TARGETS[0]], method="mine", show_progress=False)
    assert [int((a.scores == 1).sum()) for a in out] == [1, 12 + 13]


def test_a_text_that_the_model_has_no_numbers_for_leaves_the_others_as_they_are(recall):
    """NaN embeddings of a token that only one text has."""
    model = attriflow.load_model("demo/recall")
    cup = model.tokenizer("cup")["input_ids"][0]
    weight = model.model.get_input_embeddings().weight
    model.model.get_output_embeddings().weight = torch.nn.Parameter(weight.detach().clone())
    alone = {
        n: recall.attribute(TEXT, TARGETS[0], method=n, show_progress=False)[0]
        for n in ("saliency", "deeplift", "lime")
    }
    with torch.no_grad():
        weight[cup] = torch.nan
    for name, wanted in alone.items():
        with pytest.warns(
            UserWarning, match=r"no steps for 1 of 2 texts.*text 1: the model's logits are NaN at step 0"
        ):
            out = model.attribute([TEXT, OTHER], TARGETS, method=name, show_progress=False)
        assert not out[1].targets
        torch.testing.assert_close(out[0].scores, wanted.scores, equal_nan=True, rtol=1e-4, atol=1e-6)


def test_an_attributed_function_that_is_infinite(recall):
    def ruled_out(forward):
        return forward.of_target(forward.logits) * torch.inf

    with pytest.raises(NotFiniteError, match=r"the attributed function is infinite at step 0 \('red'\)"):
        recall.attribute(TEXT, TARGETS[0], method="occlusion", attributed_fn=ruled_out, show_progress=False)


def test_tokens_that_are_ruled_out_are_no_fault():
    """-inf is the logit of a token that cannot come."""
    model = attriflow.load_model("demo/recall")
    head = model.model.get_output_embeddings()
    head.register_forward_hook(lambda _m, _a, logits: logits.index_fill(-1, torch.tensor([7]), -torch.inf))
    for name in ("saliency", "occlusion", "attention"):
        found = model.attribute(TEXT, TARGETS[0], method=name, show_progress=False)[0]
        assert found.scores[found.visible].isfinite().all()


def evaluated(model, names, **settings):
    data = pd.DataFrame({"input": [TEXT, OTHER], "target": TARGETS})
    given = {"methods": names, "metrics": ["aopc_compr"], "throughput": False, **settings}
    config = EvaluationConfig.from_dict(given, columns=["input", "target"], targets="target")
    evaluation = Evaluation(model, EvaluationData.from_frame(data, config, data["target"].tolist()), config)
    list(evaluation.run())
    return {r.name: r for r in evaluation.results}, evaluation.step_scores


def test_an_evaluation_ranks_no_scores_that_are_not_finite(recall):
    only_for(OTHER, torch.inf)
    found, _ = evaluated(recall, ["mine", "saliency"])
    assert found["saliency"].ok and found["saliency"].metrics
    assert not found["mine"].ok and not found["mine"].metrics
    assert found["mine"].reason.startswith("text 1: method 'mine' gave a score that is infinite")


@pytest.mark.parametrize("functions", [[], "all"])
def test_an_evaluation_of_a_model_of_nans(functions):
    found, step_scores = evaluated(broken("one entry"), ["random", "attention", "saliency"], step_functions=functions)
    assert all(r.reason.startswith("text 0: the model's logits are NaN at step 0") for r in found.values())
    assert not any(r.ok or r.metrics for r in found.values())
    assert all(s.reason and not s.values for s in step_scores)


def test_views_of_scores_that_somebody_made(recall):
    """A NaN where a token is visible has its row; what cannot be normalised says so."""
    a = recall.attribute(TEXT, TARGETS[0], method="saliency", show_progress=False)[0]
    scores = a.scores.clone()
    scores[0, 2] = torch.nan
    frame = attriflow.AttributionOutput([a.replace(scores=scores)]).to_dataframe()
    assert len(frame) == 12 + 13 and frame["score"].isna().sum() == 1
    merged = a.aggregate("spans", source_spans=(2, 5)).aggregate("slices", source_spans=(1, 3))
    assert len(attriflow.AttributionOutput([merged]).to_dataframe()) == int(merged.visible.sum())
    scores[0, 3] = torch.inf
    infinite = a.replace(scores=scores, norms=None)
    for option in ("normalize", "rescale"):
        with pytest.raises(InputError, match="infinite"):
            infinite.aggregate("scores", **{option: True})
