"""What people write who come from other libraries: comparing, assigning, naming, merging, looking inside."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

import attriflow
from attriflow.context import attribute_context
from attriflow.errors import AttriflowError, FrozenResultError, InputError, UnknownNameError
from attriflow.registry import step_functions

PROMPT, FULL = "ki nakol temo", "ki nakol temo pari mitemi kana"


@pytest.fixture(scope="module")
def out(golden_model):
    return golden_model("gpt2").attribute(PROMPT, FULL, method="saliency", step_scores="entropy", show_progress=False)


@pytest.mark.parametrize("suffix", ["json", "jsonl", "parquet", "safetensors"])
def test_equal_when_they_are(suffix, out, golden_model, tmp_path):
    """A file gives back what was saved; a second run costs otherwise and says the same; other scores do not."""
    assert attriflow.load(out.save(tmp_path / f"out.{suffix}")) == out
    if suffix == "json":
        again = golden_model("gpt2").attribute(
            PROMPT, FULL, method="saliency", step_scores="entropy", show_progress=False
        )
        assert again == out and again[0].provenance.seconds != out[0].provenance.seconds
        assert {out[0], again[0], copy.deepcopy(out[0])} == {out[0]}
        assert out != out + out and out[0] != out[0].replace(scores=out[0].scores + 1) and out != "out"
        other = dataclasses.replace(out[0].provenance, seed=1)
        assert out[0] != out[0].replace(provenance=other) and out[0] != out[0].replace(norms=None)


def test_assignment_says_what_to_do(out):
    with pytest.raises(FrozenResultError, match=r"attribution\.replace\(scores=\.\.\.\) makes a changed copy"):
        out[0].scores = out[0].scores
    with pytest.raises(dataclasses.FrozenInstanceError, match=r"dataclasses\.replace\(token, text="):
        out[0].inputs[0].text = "x"
    with pytest.raises(AttributeError):
        del out[0].axes


def test_norms_of_merged_tokens(golden_model):
    """Merged first, their norms differ from those of merged vectors: said, or computed where the axis was kept."""
    model = golden_model("gpt2")
    given = {"method": "saliency", "show_progress": False}
    reduced, kept = (model.attribute(PROMPT, FULL, granular=granular, **given)[0] for granular in (False, True))
    steps = [("spans", {"source_spans": (0, 3)}), "scores"]
    with pytest.warns(UserWarning, match="granular=True"):
        wrong = reduced.aggregate(steps)
    right = kept.aggregate(steps)
    vectors = kept.scores[:, :3]
    vector = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))[:, 0]
    others = kept.scores[:, 3:].norm(dim=-1).nansum(1)
    torch.testing.assert_close(right.scores[:, 0], vector.norm(dim=-1) / (vector.norm(dim=-1) + others))
    assert not torch.allclose(wrong.scores[:, 0], right.scores[:, 0])


def test_unknown_names_in_an_aggregate_map():
    for wrong in ({"span": "mean"}, {"spans": "average"}):
        with pytest.raises(UnknownNameError):
            attriflow.register_step_function(lambda forward: forward, "never", aggregate_map=wrong)
    assert "never" not in step_functions


@pytest.mark.parametrize("name", ["gpt2", "bart"])
def test_a_function_that_looks_inside(name, golden_model):
    """Ids, embeddings, states and a second pass are those of the model itself, for every prefix."""
    model = golden_model(name)
    hf = model.model
    seen = {}

    def inside(forward):
        passes = forward.passes
        seen.update(ids=passes.ids(), embeddings=passes.embeddings(), at=passes.positions(), all=passes.hidden_states())
        return (passes.again(target_ids=passes.ids()).logits - forward.logits).abs().amax(-1)

    attriflow.register_step_function(inside, passes=True)
    try:
        out = model.attribute(PROMPT, FULL if name == "gpt2" else PROMPT, method="dummy", step_scores="inside")[0]
        assert out.step_scores["inside"].abs().max() == 0
        example = model.encode(PROMPT, FULL if name == "gpt2" else PROMPT)[0]
        assert seen["ids"][0].tolist() == example.target_ids[:-1]
        assert seen["at"][0].tolist() == list(range(example.start - 1, example.stop - 1))
        given = {"input_ids": seen["ids"]}
        if name == "bart":
            given = {"input_ids": torch.tensor([example.source_ids]), "decoder_input_ids": seen["ids"]}
        states = hf(**given, output_hidden_states=True)
        states = states.decoder_hidden_states if name == "bart" else states.hidden_states
        whole = -1 if name == "gpt2" else len(states)  # the last of gpt2's is normed
        for mine, own in zip(seen["all"][:whole], states[:whole], strict=True):
            torch.testing.assert_close(mine, own[:, seen["at"][0]])
        torch.testing.assert_close(seen["embeddings"], model.wrapped.embed(seen["ids"], "target"))
        # explained, too: the passes of changed inputs are whole ones
        changed = model.attribute(
            PROMPT, FULL if name == "gpt2" else PROMPT, method="occlusion", attributed_fn=inside_of
        )
        assert changed[0].scores.nan_to_num().abs().max() > 0
    finally:
        step_functions.unregister("inside")


def inside_of(forward):
    """The norm of the last layer's state."""
    return forward.passes.hidden_states()[-1].norm(dim=-1)


inside_of.passes = True


def test_alignments_from_zero(golden_model):
    """Positions count in the whole sequence, so Inseq's lists begin with (0, 0); a step has something to compare."""
    model = golden_model("gpt2")
    given = {"method": "saliency", "attributed_fn": "contrast_prob_diff", "show_progress": False}
    given["contrast_targets"] = "ki nakol temo pari mitemi temo"
    n = len(model.encode(PROMPT, FULL)[0].target)
    without, aligned = (
        model.attribute(PROMPT, FULL, contrast_targets_alignments=[(i, i) for i in range(first, n)], **given)
        for first in (1, 0)
    )
    assert without == aligned
    with pytest.raises(InputError, match="never predicted"):
        model.attribute(PROMPT, FULL, contrast_targets_alignments=[(n - 1, 0)], **given)
    with pytest.raises(InputError, match="positions 0 to"):
        model.attribute(PROMPT, FULL, contrast_targets_alignments=[(n, 1)], **given)


def test_context_scores_are_raw_and_options_find_their_part(golden_model):
    """CCI scores are those of the attribution; logprob is an option of the function, wherever it stands."""
    model = golden_model("gpt2")
    texts = {"input_current_text": "temo pari", "input_context_text": "ki nakol", "output_current_text": "mitemi"}
    settings = {"attributed_fn": "contrast_prob_diff", "context_sensitivity_std_threshold": None}
    raw, normal, log, same = (
        attribute_context(model, **texts, **settings, show_progress=False, **more)[0].cci_scores[0].input_context_scores
        for more in (
            {},
            {"aggregator_options": {"normalize": True}},
            {"attribution_kwargs": {"logprob": True}},
            {"attributed_fn_args": {"logprob": True}},
        )
    )
    assert log == same and log != raw and raw != normal
    with pytest.raises(AttriflowError, match="logprop"):
        attribute_context(model, **texts, **settings, attribution_kwargs={"logprop": True})
