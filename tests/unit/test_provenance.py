"""What an attribution says about how it was made: all that changes a score."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from models import build

import attriflow
from attriflow.errors import InputError
from attriflow.io.records import from_record, to_record
from attriflow.types import Provenance

PROMPT, FULL = "ki nakol temo dibema te", "ki nakol temo dibema te pari mitemi kana"


@pytest.fixture(scope="module")
def model(tokenizers):
    return attriflow.load_model(build("gpt2"), tokenizer=tokenizers["bart"])


def run(model, method="occlusion", **options):
    return model.attribute(PROMPT, FULL, method=method, show_progress=False, **options)


def test_what_changes_scores_is_recorded(model):
    how = run(model)[0].provenance
    unk = model.tokenizer.unk_token_id
    assert how.options["baseline"] == "unk"
    assert (how.baseline_ids, how.baseline_tokens) == ((unk,), (model.tokenizer.unk_token,))
    assert not how.include_eos_baseline
    assert not how.contrast_force_inputs
    assert run(model, include_eos_baseline=True)[0].provenance.include_eos_baseline
    several = run(model, "gradient_shap", n_samples=8, baseline=["unk", "pad", "zero", 7])[0].provenance
    assert set(several.baseline_ids) == {unk, model.tokenizer.pad_token_id, 7}
    assert run(model, "saliency")[0].provenance.baseline_ids == ()
    assert run(model, baseline="zero")[0].provenance.baseline_ids == ()
    assert run(model)[0].provenance.attribute_target is False
    assert run(model).info["baseline_tokens"] == (model.tokenizer.unk_token,)


@pytest.mark.parametrize("fn", ["contrast_prob_diff", "kl_divergence"])
@pytest.mark.parametrize("force", [False, True])
def test_contrasts_are_recorded(model, fn, force):
    foil = "ki nakol temo dibema te la gape pari"
    how = run(model, attributed_fn=fn, contrast_targets=foil, contrast_force_inputs=force)[0].provenance
    # functions that compare two inputs read the contrastive one's own prediction in any case
    assert how.contrast_force_inputs == (force or fn == "kl_divergence")
    assert how.foil_text == foil


def test_sides_are_recorded(tokenizers):
    bart = attriflow.load_model(build("bart"), tokenizer=tokenizers["bart"])
    for target in (False, True):
        out = bart.attribute("ki nakol", "um nomal", method="occlusion", attribute_target=target, show_progress=False)
        assert out[0].provenance.attribute_target is target


@pytest.mark.parametrize("suffix", ["json", "jsonl", "parquet", "safetensors"])
def test_files_keep_it(model, tmp_path, suffix):
    out = run(model, include_eos_baseline=True, baseline="pad")
    loaded = attriflow.load(out.save(tmp_path / f"out.{suffix}"))
    kept = ("include_eos_baseline", "contrast_force_inputs", "attribute_target", "baseline_ids", "baseline_tokens")
    for name in kept:
        assert getattr(loaded[0].provenance, name) == getattr(out[0].provenance, name)
    assert len(out.merge(loaded)) == 2


def test_aggregators_are_recorded(model, tmp_path):
    spans = run(model, "attention", target_spans=[(7, 9), (9, 10)])
    for out, names in [
        (spans, ()),
        (spans.aggregate(), ("scores",)),
        (spans.aggregate("hops", hops=2, sign="signed"), ("hops(hops=2, sign='signed')",)),
        (spans.aggregate(["sum", "subwords"]).aggregate("spans", source_spans=(1, 3)),
         ("scores(aggregate_fn='sum')", "subwords", "spans(source_spans=(1, 3))")),
        (spans.aggregate("scores", torch.sum), ("scores(aggregate_fn=sum)",)),
        (spans.aggregate(lambda a: a), ()),
    ]:  # fmt: skip
        assert out[0].provenance.aggregations == out.info["aggregations"] == names
        loaded = attriflow.load(out.save(tmp_path / "out.json", overwrite=True))
        assert loaded[0].provenance.aggregations == names
    assert spans[0][1:3].provenance.aggregations == ("slices(source_spans=(1, 3))",)
    assert spans[0].aggregate()[1:3].provenance.aggregations[:1] == ("scores",)
    page = spans.aggregate("hops", hops=2)[0].to_html()
    assert "aggregated by hops(hops=2)" in page
    assert "Explained spans" in page
    assert "Generated tokens" not in page


def test_files_of_earlier_versions_can_be_read_and_merged(model):
    out = run(model)
    record = to_record(out[0])
    new = ("foil_text", "attribute_target", "include_eos_baseline", "contrast_force_inputs", "baseline_ids")
    for name in (*new, "baseline_tokens"):
        del record["provenance"][name]
    old = from_record(record)
    assert old.provenance == Provenance(**record["provenance"])
    assert old.provenance.baseline_ids == ()
    assert len(out.merge(attriflow.AttributionOutput([old]))) == 2


def without(tokenizer, *names):
    """A tokenizer that lacks some special tokens."""
    out = copy.deepcopy(tokenizer)
    for name in names:
        setattr(out, f"{name}_token", None)
    return out


@pytest.mark.parametrize(("lacking", "used"), [(("unk",), "pad"), (("unk", "pad"), "eos")])
def test_a_baseline_that_the_tokenizer_lacks_is_said_once(tokenizers, lacking, used):
    m = attriflow.load_model(build("gpt2"), tokenizer=without(tokenizers["bart"], *lacking))
    token = getattr(m.tokenizer, f"{used}_token")
    with pytest.warns(UserWarning, match=rf"has no unk token: baseline 'unk' is its {used} token '{token}' \(id \d+\)"):
        first = run(m)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(m, "integrated_gradients", n_steps=2)
        named = run(m, baseline=used)
    how = first[0].provenance
    assert how.options["baseline"] == used
    assert how.baseline_ids == (getattr(m.tokenizer, f"{used}_token_id"),)
    assert how.baseline_tokens == (token,)
    torch.testing.assert_close(first[0].scores, named[0].scores, equal_nan=True, rtol=0, atol=0)
    assert len(first.merge(named)) == 2  # they are the same
    with pytest.warns(UserWarning, match="no unk token"):  # another model
        run(attriflow.load_model(build("gpt2"), tokenizer=m.tokenizer), "kernel_shap", n_samples=4)


def test_outputs_of_two_baselines_cannot_be_merged(model, tokenizers):
    lacking = attriflow.load_model(model.model, tokenizer=without(tokenizers["bart"], "unk"))
    with pytest.warns(UserWarning, match="no unk token"):
        other = run(lacking)
    with pytest.raises(InputError, match="cannot be merged: options is"):
        run(model).merge(other)


def test_several_baselines_are_named(tokenizers):
    m = attriflow.load_model(build("gpt2"), tokenizer=without(tokenizers["bart"], "unk"))
    with pytest.warns(UserWarning, match="no unk token"):
        out = run(m, "gradient_shap", n_samples=2, baseline=("unk", "zero"))
    assert tuple(out[0].provenance.options["baseline"]) == ("pad", "zero")
