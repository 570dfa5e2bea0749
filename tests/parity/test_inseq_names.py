"""Inseq's documented examples and its users' habits on `attriflow.inseq`, against what they leave on Inseq itself."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

import attriflow
import attriflow.inseq as inseq
from attriflow.errors import AttriflowError
from attriflow.inseq.data import FeatureAttributionOutput, FeatureAttributionSequenceOutput, TokenWithId
from attriflow.registry import step_functions

TESTS = Path(__file__).resolve().parents[1]
DATA, MODELS = TESTS / "data" / "inseq", TESTS / "data" / "golden" / "models"
_SPEC = importlib.util.spec_from_file_location("inseq_scripts", DATA / "scripts.py")
scripts = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(scripts)
SCRIPTS = {**scripts.DOCUMENTED, **scripts.WRITTEN}
LEFT = json.loads((DATA / "scripts.json").read_text(encoding="utf-8"))


def ours(code):
    """A script with the import changed, which is all that its user does."""
    lines = [line.replace("from inseq", "from attriflow.inseq", line.startswith("from")) for line in code.split("\n")]
    return "\n".join("import attriflow.inseq as inseq" if line == "import inseq" else line for line in lines)


ALWAYS = (*scripts.DOCUMENTED, *list(scripts.WRITTEN)[::5])


@pytest.mark.parametrize(
    "name", [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.sweep) for name in SCRIPTS]
)
def test_script(name, tmp_path, capsys):
    given = {"GPT2": str(MODELS / "gpt2"), "BART": str(MODELS / "bart"), "FOLDER": str(tmp_path)}
    known = set(step_functions.names())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(ours(SCRIPTS[name]), name, "exec"), given)
    for added in set(step_functions.names()) - known:
        step_functions.unregister(added)
    if "error" in LEFT[name]:
        return  # it does not run on Inseq without a download
    expected, found = LEFT[name]["result"], given["result"]
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        same(found[key], value, f"{name}: {key}")


def same(found, expected, where):
    """Numbers within rounding, texts exactly."""
    if isinstance(found, torch.Tensor) or (isinstance(expected, list) and _numbers(expected)):
        mine = torch.as_tensor(_nan(found) if isinstance(found, (list, tuple)) else found, dtype=torch.float64)
        other = torch.tensor(_nan(expected), dtype=torch.float64)
        torch.testing.assert_close(mine, other, rtol=2e-4, atol=5e-6, equal_nan=True, msg=lambda m: f"{where}: {m}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for one, two in zip(found, expected, strict=True):
            same(one, two, where)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=2e-4, abs=5e-6), where
    else:
        assert found == expected, where


def _numbers(values):
    return all(_numbers(v) if isinstance(v, list) else v is None or isinstance(v, float) for v in values) and values


def _nan(values):
    return [_nan(v) if isinstance(v, (list, tuple)) else float("nan") if v is None else v for v in values]


def test_names_are_found_late():
    """The package and its rooms load neither torch nor a model before something of them is used."""
    code = "import sys, attriflow.inseq as inseq; assert 'torch' not in sys.modules; inseq.data; inseq.load_model"
    subprocess.run([sys.executable, "-c", code], check=True)
    for room in (inseq, inseq.data, inseq.attr, inseq.commands.attribute_context):
        assert all(getattr(room, name) is not None for name in room.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        inseq.nothing  # noqa: B018


@pytest.fixture(scope="module")
def model():
    return inseq.load_model(str(MODELS / "bart"), "saliency")


@pytest.mark.parametrize("file", ["two.json", "attention.json", "contrast.json", "steps.json", "eighth.json.gz"])
def test_inseq_files_in_its_layout(file, tmp_path):
    """Fields as Inseq has them, also once they are saved again, and as attributions of ours."""
    out = FeatureAttributionOutput.load(DATA / file)
    facts = json.loads((DATA / "expected.json").read_text(encoding="utf-8"))["files"][file]
    for sequence, fact in zip(out, facts, strict=True):
        for side in ("source", "target"):
            assert [[t.token, t.id] for t in getattr(sequence, side)] == fact[side]
        assert [sequence.attr_pos_start, sequence.attr_pos_end] == [fact["attr_pos_start"], fact["attr_pos_end"]]
    out.save(tmp_path / "again.json", compress=file.endswith("gz"))
    again = FeatureAttributionOutput.load(tmp_path / "again.json")
    assert again == out and again.info["model_class"] == out.info["model_class"]
    for mine, native in zip(out.to_output(), attriflow.load(DATA / file), strict=True):
        assert mine == native
    assert out.step_attributions is None or out.step_attributions[0].target[0][0].id == facts[0]["target"][4][1]
    with pytest.raises(ValueError, match="overwrite=True"):
        out.save(tmp_path / "again.json")


def test_files_of_ours_are_theirs(model, tmp_path):
    """What `save` writes has Inseq's form, field by field."""
    out = model.attribute("ki nakol temo", "pari mitemi", attribute_target=True, step_scores=["probability"])
    out.save(tmp_path / "out.json")
    mine, other = (json.loads(p.read_text()) for p in (tmp_path / "out.json", DATA / "both.json"))

    def form(value):
        if isinstance(value, dict):
            return {k: form(v) for k, v in value.items() if k != "tokenizer_name"}
        return [form(v) for v in value] if isinstance(value, list) else type(value).__name__

    assert form(mine) == form(other)


def test_what_nothing_takes_is_said(model):
    """Inseq passes over it in silence or with a warning; here it is always a warning, never an error."""
    given = {"method": "saliency", "show_progress": False}
    with pytest.warns(UserWarning, match="n_stepz: ignored"):
        model.attribute("ki nakol", "pari", n_stepz=3, **given)
    with pytest.warns(UserWarning, match="generation_args are ignored"):
        out = model.attribute("ki nakol", "pari", generation_args={"max_new_tokens": 3}, **given)
    with pytest.warns(UserWarning, match="no aggregator"):
        out.aggregate("subwords", weights=3)
    with pytest.warns(UserWarning, match="does not take n_steps"):
        inseq.load_model(str(MODELS / "gpt2"), "saliency", n_steps=3)
    with pytest.warns(UserWarning, match="span_aggregate"):
        inseq.register_step_function(lambda args: args.target_ids, "shortest", {"span_aggregate": "mean"})
    step_functions.unregister("shortest")
    with pytest.raises(AttriflowError, match="framework"):
        inseq.load_model(str(MODELS / "gpt2"), "saliency", framework="jax")
    with pytest.raises(ValueError, match="attribution_method"):
        inseq.merge_attributions([out, model.attribute("ki", "pari", method="occlusion", show_progress=False)])


def test_readable_tokens_and_options_by_other_names(model):
    """Raw tokens unless clean ones are asked for; captum's `method` is the rule of integration."""
    given = {"show_progress": False, "n_steps": 4}
    raw = model.attribute("ki nakol temo", "pari", method="integrated_gradients", **given)[0]
    clean = model.attribute(
        "ki nakol temo",
        "pari",
        method="integrated_gradients",
        clean_special_chars=True,
        attribution_args={"method": "riemann_left"},
        **given,
    )[0]
    assert [t.token for t in raw.source] == ["<s>", "ki", "Ġnakol", "Ġt", "emo", "</s>"]
    assert [t.token for t in clean.source] == ["<s>", "ki", " nakol", " t", "emo", "</s>"]
    split = raw.aggregate("vnorm").aggregate("split", split_pattern="Ġt")
    assert [t.token for t in split.source] == ["<s>", "ki nakol", "Ġt", "emo", "</s>"]
    assert not torch.allclose(raw.source_attributions, clean.source_attributions)
    native = attriflow.load_model(str(MODELS / "bart")).attribute("ki nakol temo", "pari", method="saliency")
    for tokenizer, token in ((None, "nakol"), (model.tokenizer, "Ġnakol")):
        assert FeatureAttributionOutput.of(native, tokenizer=tokenizer)[0].source[2].token == token
    assert raw.source[1] == "ki" and raw.source[1] == 31 and raw.source[1] == TokenWithId("ki", 31)


def test_context_in_its_layout():
    """Inseq's JSON, back and forth, and its page."""
    from attriflow.inseq.commands.attribute_context import AttributeContextOutput, visualize_attribute_context

    recorded = json.loads((DATA / "context.json").read_text(encoding="utf-8"))
    found = AttributeContextOutput.from_dict(recorded)
    assert found.to_dict() == recorded and found.info.has_input_context
    assert "nakol" in visualize_attribute_context(found, show_viz=False, return_html=True)


def test_made_by_hand():
    """A sequence needs no model: scores and tokens that somebody else made are aggregated and shown."""
    tokens = [TokenWithId(t, i) for i, t in enumerate(["Ġa", "Ġb", "Ġc"])]
    scores = torch.tensor([[1.0, 3.0], [torch.nan, 1.0], [torch.nan, torch.nan]])
    made = FeatureAttributionSequenceOutput(tokens[:1], tokens, None, scores, attr_pos_start=1)
    assert made.attr_pos_end == 3 and made.get_scores_dicts()["target_attributions"][(2, "Ġc")][(0, "Ġa")] == 3.0
    normal = made.aggregate("scores", normalize=True).target_attributions
    torch.testing.assert_close(normal[:2, 1], torch.tensor([0.75, 0.25]))
    assert "b" in made.show(display=False, return_html=True)


def test_habits_around_a_model(tmp_path):
    """What scripts do beside the documented: classes, chained calls, raw pairs, our own files, functions of theirs."""
    from attriflow.inseq.data.aggregation_functions import AggregationFunction
    from attriflow.inseq.models import HuggingfaceDecoderOnlyModel as Decoder
    from attriflow.inseq.models import HuggingfaceEncoderDecoderModel, HuggingfaceModel
    from attriflow.inseq.utils.typing import TokenWithId as Token
    from attriflow.registry import aggregation_functions

    gpt = HuggingfaceModel.load(str(MODELS / "gpt2"), "saliency")
    assert isinstance(gpt, Decoder) and not isinstance(gpt, HuggingfaceEncoderDecoderModel)
    assert gpt.attribution_method == gpt.attribution_method.method_name == "saliency" and Token is TokenWithId
    assert gpt.eval().to("cpu") is gpt and not gpt.model.training
    assert sum(p.numel() for p in gpt.parameters()) == sum(p.numel() for p in gpt.model.parameters())
    gpt.tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>"]})
    assert gpt.special_tokens[-1] == "<|user|>" and len(gpt.special_tokens) == len(gpt.special_tokens_ids)
    full = ["ki nakol temo pari", "ki nakol temo nakol"]
    out = gpt.attribute([text[:13] for text in full], full, show_progress=False)
    assert [t.token for t in (out[0] - out[1]).target][-2:] == ["emo", "Ġpari → Ġnakol"]

    class Middle(AggregationFunction):
        """The median."""

        aggregation_function_name = "middle"

        def __call__(self, scores, dim):
            return scores.median(dim).values

    found = out[0].aggregate("middle", normalize=False).target_attributions
    aggregation_functions.unregister("middle")
    torch.testing.assert_close(found, out[0].target_attributions.median(-1).values, equal_nan=True)
    copied = out[0].clone()
    copied.target[0].token = "X"
    assert copied.source[0] == out[0].target[0] == "ki" and copied != out[0]
    assert out[0].numpy().target_attributions.shape == tuple(out[0].target_attributions.shape)
    out.to_output().save(tmp_path / "own.json")
    torch.testing.assert_close(
        FeatureAttributionOutput.load(tmp_path / "own.json")[0].target_attributions,
        out[0].target_attributions,
        equal_nan=True,
    )


def test_self_scores_as_inseq_names_them(model):
    """Both sides' own maps, of attention and of values put to zero; the decoder's is the target's where it is asked."""
    for method, name in (("attention", "attentions"), ("value_zeroing", "scores")):
        alone, both = (
            model.attribute("ki nakol", "pari", method=method, attribute_target=asked, show_progress=False)[0]
            for asked in (False, True)
        )
        assert set(alone.sequence_scores) == {f"encoder_self_{name}", f"decoder_self_{name}"}
        assert set(both.sequence_scores) == {f"encoder_self_{name}"}


def test_context_by_one_function_of_heads(model):
    """One function leaves an axis of attention over; the rest is reduced as always."""
    from attriflow.inseq.commands.attribute_context.attribute_context import AttributeContextArgs
    from attriflow.inseq.commands.attribute_context.attribute_context import attribute_context_with_model as run

    given = {"input_current_text": "pari", "input_context_text": "ki nakol", "output_current_text": "nakol temo"}
    args = {"attribution_method": "attention", "context_sensitivity_std_threshold": 0, "show_viz": False, **given}
    one, two = (run(AttributeContextArgs(attribution_aggregators=names, **args), model) for names in (["mean"], None))
    for left, right in zip(one.cci_scores, two.cci_scores, strict=True):
        assert left.input_context_scores == pytest.approx(right.input_context_scores, rel=1e-5)
