"""What the app does behind its widgets: requests checked and answered, models kept, texts renewed, ports."""

from __future__ import annotations

import importlib.util
import json
import logging
import socket
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import attriflow
from attriflow.app.examples import FIELDS, example, renewed
from attriflow.app.explaining import (
    ContextRequest,
    Request,
    explain,
    explain_context,
    message_of,
    read_options,
)
from attriflow.app.models import DEMO, Models, describe
from attriflow.app.server import free_port, serve
from attriflow.context import attribute_context
from attriflow.errors import AttriflowError, InputError, MissingExtraError

RECALL = example("demo/recall")
ASKED = Request(model="demo/recall", text=RECALL["text"], methods=["occlusion", "saliency"], step_scores=["entropy"])
CONTEXT = ContextRequest(
    model="demo/recall",
    input_context_text=RECALL["input_context_text"],
    input_current_text=RECALL["input_current_text"],
    attribution_method="occlusion",
)


@pytest.fixture(scope="module")
def models() -> Models:
    return Models("cpu")


class NoModels(Models):
    """What is wrong must be found before a model is loaded."""

    def get(self, name):
        raise AssertionError(f"{name} was loaded")


# -- texts explained --------------------------------------------------------------------------------------------------


def test_every_method_explains_as_the_model_does(models: Models) -> None:
    done = []
    found = explain(models, ASKED, lambda names: (done.append(n) or n for n in names))
    assert done == ["occlusion", "saliency"]
    assert found.problems == {}
    model = attriflow.load_model("demo/recall", device="cpu")
    for item, method in zip(found.attributions, ASKED.methods, strict=True):
        (expected,) = model.attribute(ASKED.text, method=method, step_scores=["entropy"], show_progress=False)
        assert item.provenance.method == method
        torch.testing.assert_close(item.scores, expected.scores, equal_nan=True)
        torch.testing.assert_close(item.step_scores["entropy"], expected.step_scores["entropy"])


def test_forced_targets_contrasts_and_options_reach_the_methods(models: Models) -> None:
    found = explain(
        models,
        replace(
            ASKED, generated_text="blue", contrast_target="green", attributed_fn="contrast_prob_diff",
            methods=["integrated_gradients", "lime"],
            options='{"n_steps": 3, "logprob": true, "lime": {"n_samples": 7}}',
        ),
    )  # fmt: skip
    assert found.problems == {}
    gradients, lime = found.attributions
    assert [t.text for t in gradients.targets] == ["blue"]
    assert gradients.provenance.foil == ("green",)
    assert gradients.provenance.options["n_steps"] == 3
    assert lime.provenance.options["n_samples"] == 7
    assert "n_steps" not in lime.provenance.options
    model = attriflow.load_model("demo/recall", device="cpu")
    (expected,) = model.attribute(
        ASKED.text, f"{ASKED.text} blue", method="integrated_gradients", attributed_fn="contrast_prob_diff",
        contrast_targets=f"{ASKED.text} green", n_steps=3, logprob=True, show_progress=False,
    )  # fmt: skip
    torch.testing.assert_close(gradients.scores, expected.scores, equal_nan=True)


@pytest.mark.parametrize("target", ["blue", " blue", f"{ASKED.text} blue"])
def test_a_target_of_a_decoder_may_be_what_follows_the_text(models: Models, target: str) -> None:
    (item,) = explain(models, replace(ASKED, methods=["dummy"], generated_text=target)).attributions
    assert [t.text for t in item.targets] == ["blue"]
    asked = replace(ASKED, model="demo/translate", text="the red house", methods=["dummy"], generated_text="la casa")
    assert [t.text for t in explain(models, asked).attributions[0].targets] == ["la", "casa", "</s>"]


def test_the_longest_output_is_what_was_asked(models: Models) -> None:
    (item,) = explain(models, replace(ASKED, methods=["dummy"], max_new_tokens=1)).attributions
    assert len(item.targets) == 1


def test_the_target_prefix_counts_for_encoder_decoders_only(models: Models) -> None:
    for model, text in (("demo/translate", "the red house"), ("demo/recall", ASKED.text)):
        asked = replace(ASKED, model=model, text=text, methods=["dummy"])
        (plain,) = explain(models, asked).attributions
        (prefixed,) = explain(models, replace(asked, attribute_target=True)).attributions
        assert (len(prefixed.inputs) > len(plain.inputs)) == (model == "demo/translate")


def test_a_method_that_fails_does_not_take_the_others_with_it(models: Models) -> None:
    found = explain(models, replace(ASKED, attributed_fn="rank", methods=["saliency", "occlusion"]))
    assert [item.provenance.method for item in found.attributions] == ["occlusion"]
    assert list(found.problems) == ["saliency"]
    assert "rank" in found.problems["saliency"]
    with pytest.raises(InputError, match="rank"):
        explain(models, replace(ASKED, attributed_fn="rank", methods=["saliency", "deeplift"]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": " \n"}, "no text"),
        ({"methods": []}, "at least one method"),
        ({"methods": ["occlusoin"]}, "did you mean 'occlusion'"),
        ({"attributed_fn": "probabilty"}, "did you mean 'probability'"),
        ({"attributed_fn": "contrast_prob_diff"}, "contrast"),
        ({"attributed_fn": "rank", "methods": ["saliency"]}, "rank"),
        ({"options": "{n: 1}"}, "not JSON"),
        ({"spans": "[[1, 2"}, "spans: .* is not JSON"),
        ({"spans": "("}, "is no pattern"),
        ({"reasoning": "[3]"}, "a range of two positions"),
        ({"reasoning": "thinking"}, "unknown reasoning"),
        ({"reasoning": "think", "spans": "all"}, "choose spans or reasoning"),
        ({"options": "[1]"}, "not an object"),
        ({"options": '{"n_step": 1}', "methods": ["integrated_gradients"]}, "n_step"),
        ({"options": '{"occlusion": 3}'}, "options of occlusion"),
        ({"options": '{"occlusion": {"n_steps": 3}}'}, "n_steps"),
    ],
)
def test_mistakes_are_found_before_the_model_is_loaded(changes: dict[str, object], message: str) -> None:
    with pytest.raises(AttriflowError, match=message):
        explain(NoModels(), replace(ASKED, **changes))


def test_spans_chats_and_reasoning_are_what_the_functions_give(models: Models) -> None:
    text, answer = "tom has a blue car . what color is the car ?", "the car is blue . the car is blue ."
    asked = replace(ASKED, text=text, generated_text=answer, methods=["occlusion"], step_scores=[])
    model = attriflow.load_model("demo/recall", device="cpu")
    whole, options = f"{text} {answer}", {"method": "occlusion", "show_progress": False}
    for field, spans in (("sentence", "sentence"), ("blue", {"pattern": "blue"}), ("[[14, 16]]", [[14, 16]])):
        (item,) = explain(models, replace(asked, spans=field, span_value="mean")).attributions
        (wanted,) = model.attribute(text, whole, target_spans=spans, span_value="mean", **options)
        assert item.spans == wanted.spans and len(item.spans) == len(item.targets)
        torch.testing.assert_close(item.scores, wanted.scores, equal_nan=True)
    (item,) = explain(models, replace(asked, reasoning="sentence", hops=2, options='{"logprob": true}')).attributions
    arguments = {"attributed_fn_args": {"logprob": True}}
    (wanted,) = attriflow.attribute_reasoning(
        model, text, whole, method="occlusion", reasoning="sentence", hops=2, **arguments
    )
    assert [t.text for t in item.targets] == [t.text for t in wanted.targets] and len(item.targets) == 4
    torch.testing.assert_close(item.scores, wanted.scores, equal_nan=True)
    loaded = models.get("demo/recall")
    loaded.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    try:
        chat = json.dumps([{"role": "user", "content": text}])
        (item,) = explain(models, replace(asked, text=chat, spans="turn", generated_text="blue")).attributions
    finally:
        loaded.tokenizer.chat_template = None
    assert item.input_text == f"{text} " and item.turns == ((0, len(text) + 1),)
    assert [t.text for t in item.targets] == ["blue"]


def test_options_and_messages(caplog: pytest.LogCaptureFixture) -> None:
    assert read_options("  ") == {}
    assert read_options('{"a": [1]}') == {"a": [1]}
    assert message_of(InputError("one\n  two")) == "one two"
    assert caplog.records == []
    with caplog.at_level(logging.ERROR, "attriflow"):
        assert message_of(RuntimeError("broken")) == "RuntimeError: broken"
    assert [r.getMessage() for r in caplog.records] == ["broken"]


# -- context ----------------------------------------------------------------------------------------------------------


def test_context_reliance_is_that_of_the_function(models: Models) -> None:
    found = explain_context(models, CONTEXT)
    expected = attribute_context(
        attriflow.load_model("demo/recall", device="cpu"),
        input_current_text=CONTEXT.input_current_text,
        input_context_text=CONTEXT.input_context_text,
        attribution_method="occlusion",
        attributed_fn="contrast_prob_diff",
        show_progress=False,
    )
    assert [item.cti_scores for item in found] == [item.cti_scores for item in expected]
    assert [item.pairs() for item in found] == [item.pairs() for item in expected]
    assert {found[0].input_context_tokens[place] for _, _, place in found[0].pairs()} == {"red", "hat"}


def test_empty_thresholds_and_counts(models: Models) -> None:
    texts = {name: text for name, text in example("demo/translate").items() if name != "text"}
    usual = replace(CONTEXT, model="demo/translate", **texts)
    everything = replace(usual, context_sensitivity_std_threshold=None, context_sensitivity_topk=0)

    def sensitive(request: ContextRequest) -> int:
        return len(explain_context(models, request)[0].sensitive)

    assert sensitive(everything) > sensitive(usual) > 0
    assert sensitive(replace(everything, context_sensitivity_topk=1)) == 1
    with pytest.raises(InputError, match=r"attribution_topk must be a positive whole number, not 1\.5"):
        explain_context(NoModels(), replace(CONTEXT, attribution_topk=1.5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_current_text": ""}, "input"),
        ({"input_context_text": ""}, "context"),
        ({"attribution_method": "occlusoin"}, "did you mean 'occlusion'"),
        ({"input_template": "{context}"}, "current"),
        ({"options": '{"n_step": 1}'}, "n_step"),
    ],
)
def test_mistakes_about_context_are_found_before_the_model_is_loaded(changes: dict[str, object], message: str) -> None:
    with pytest.raises(AttriflowError, match=message):
        explain_context(NoModels(), replace(CONTEXT, **changes))


# -- models and texts -------------------------------------------------------------------------------------------------


def test_the_last_models_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    monkeypatch.setattr("attriflow.model.load_model", lambda name, **_: loaded.append(name) or object())
    models = Models("cpu")
    first = models.get("a")
    models.get("b")
    assert models.get(" a ") is first
    models.get("c")  # b goes: a was used after it
    assert models.get("a") is first
    models.get("b")
    assert loaded == ["a", "b", "c", "b"]


def test_models_that_are_not_there(models: Models) -> None:
    with pytest.raises(InputError, match="choose a model"):
        models.get(" ")
    with pytest.raises(AttriflowError, match="demo/recall, demo/translate"):
        models.get("demo/none")


def test_a_model_is_described(models: Models) -> None:
    line = describe(models.get("demo/translate"))
    assert "encoder-decoder" in line
    assert line.endswith("million parameters, float32 on cpu")


def test_examples_fill_the_fields_of_both_demo_models() -> None:
    for name in DEMO:
        assert set(example(name)) == set(FIELDS)
        assert example(name)["text"]
    assert set(example("some/model").values()) == {""}


def test_another_model_renews_examples_but_not_what_somebody_wrote() -> None:
    fields = ["text", "input_context_text", "output_context_text"]
    given = [RECALL["text"], "my own context", ""]
    translate = example("demo/translate")
    assert renewed("demo/translate", fields, given) == [translate["text"], "my own context", "la casa"]
    assert renewed("some/model", fields, given) == ["", "my own context", ""]


# -- server -----------------------------------------------------------------------------------------------------------


def test_ports() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"cannot listen at 127.0.0.1, port {port}: "):
            free_port("127.0.0.1", port)
        assert free_port("127.0.0.1", 0) not in (0, port)
    assert free_port("127.0.0.1", port) == port
    assert free_port("127.0.0.1", None) >= 7860


def test_without_gradio_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gradio" else find(name))
    with pytest.raises(MissingExtraError, match=r"pip install 'attriflow\[app\]'"):
        serve()


@pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="gradio is not installed: the extra app")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "demo/none"}, "Unknown demo model"),
        ({"tracking_uri": "sqlite:////nowhere/mlflow.db"}, "no MLflow store at"),
        ({"host": "203.0.113.7"}, r"cannot listen at 203\.0\.113\.7"),
        ({"device": "tpu"}, "there is no device 'tpu'"),
    ],
)
def test_mistakes_are_found_before_anything_listens(
    settings: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else ""
    monkeypatch.setattr("attriflow.app.server._stay_at_home", lambda host: None)
    try:
        with pytest.raises(AttriflowError, match=message):
            serve(**settings, say=lambda line: None)
    finally:
        mlflow.set_tracking_uri(before)
    assert Path(tempfile.gettempdir()).is_dir()


def test_the_leaderboard_names_methods_that_explain_alike_and_why_a_row_has_no_rank():
    pytest.importorskip("gradio")
    from view_data import board

    from attriflow.app import runs_tab

    table = board().assign(
        same_as=["", "", "occlusion", ""], status=["failed", "ok", "ok", "gated"], gates_failed="control"
    )
    shown = runs_tab._table(table)["value"]
    names = [row[shown["headers"].index("method")] for row in shown["data"]]
    assert names == ["occlusion = saliency", "random", "deeplift"]
    assert [row[-1] for row in shown["data"]][1] == "gate not passed: control"
