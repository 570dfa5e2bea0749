"""Whole self attention maps of encoder and decoder against the recorded ones."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from load_golden import Golden

from attriflow.errors import InputError

reference = functools.lru_cache(Golden)
WHOLE = {"output_encoder_self_scores": True, "output_decoder_self_scores": True}
RUNS = [r["id"] for r in reference("bart").runs(method="attention", group="methods")]


def test_the_runs_are_there():
    assert len(RUNS) == 12


@pytest.mark.parametrize("run_id", RUNS)
def test_recorded(golden_model, run_id):
    golden = reference("bart")
    run = golden.run(run_id)
    case = golden.cases[run["case"]]
    out = golden_model("bart", "float64" if run["dtype"] == "f64" else "float32").attribute(
        case["input_texts"], case["generated_texts"], method="attention", **run["attribute_kwargs"], **WHOLE
    )
    compared = 0
    for i in range(len(run["sequences"])):
        for field in golden.fields(run, i):
            if field.startswith("sequence_scores."):
                name = field.removeprefix("sequence_scores.").removesuffix("_attentions")
                golden.compare(run, field, out[i].sequence_scores[name].float().numpy(), sequence=i)
                compared += 1
        # the recorder leaves the decoder's map out with attribute_target: the query rows are in it
        decoder = out[i].sequence_scores["decoder_self"].numpy()
        assert np.isfinite(decoder).all()
        np.testing.assert_allclose(decoder.sum(0), 1, atol=1e-6)
        if out[i].target_attributions is not None:
            for step in range(len(out[i].targets)):
                n = out[i].start + step
                np.testing.assert_array_equal(decoder[:n, n - 1], out[i].target_attributions[:n, step].numpy())
    assert compared >= len(run["sequences"])


def test_decoder_only(golden_model):
    case = reference("gpt2").cases["batch2"]
    model = golden_model("gpt2")
    texts = case["input_texts"], case["generated_texts"]
    for out in model.attribute(*texts, method="attention", output_decoder_self_scores=True):
        n = len(out.inputs) - 1
        whole = out.sequence_scores["decoder_self"]
        assert whole.shape == (n, n, 3, 4)
        np.testing.assert_array_equal(whole[:, -1].numpy(), out.scores[-1, :n].numpy())
    assert not model.attribute(*texts, method="attention")[0].sequence_scores
    with pytest.raises(InputError, match="decoder-only"):
        model.attribute(*texts, method="attention", output_encoder_self_scores=True)


def test_a_foil_with_its_own_input_is_not_recorded(golden_model):
    """The pass over the foil happens while nobody listens: as many layers as the model has, the same numbers."""
    case = reference("bart").cases["contrast"]
    model = golden_model("bart")
    foil = {
        "contrast_targets": case["contrast_targets"],
        "attributed_fn": "contrast_logits_diff",
        "contrast_force_inputs": True,
    }
    for method in ("attention", "attention_rollout", "value_norm"):
        plain = model.attribute(case["input_texts"], case["generated_texts"], method=method)[0]
        forced = model.attribute(case["input_texts"], case["generated_texts"], method=method, **foil)[0]
        np.testing.assert_array_equal(plain.scores.numpy(), forced.scores.numpy())
