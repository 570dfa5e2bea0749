"""Value zeroing: recorded Inseq runs, float64 oracles, and a loop over tokens and layers on many architectures."""

from __future__ import annotations

import functools
import sys

import numpy as np
import pytest
import torch
from load_golden import Golden, oracle
from models import CONFIGS, ENCODER_DECODERS, build
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

import attriflow
from attriflow.methods import value_zeroing
from attriflow.models import blocks
from attriflow.models.attention import implementation, interface_works

reference = functools.lru_cache(Golden)
PROMPTS = ["ki nakol temo dibema te", "la gape pari kana no tedu so Beluki pari"]
TARGETS = {
    False: [f"{PROMPTS[0]} pari mitemi kana", f"{PROMPTS[1]} te"],
    True: ["um nomal rapel", "so rapel te kana pari"],
}
SELF = {"output_decoder_self_scores": True}
BOTH = {"output_encoder_self_scores": True, **SELF}


# -- recorded runs and oracles -----------------------------------------------------------------------------------------


def _runs() -> list:
    # Inseq re-tokenises what was generated; those runs are about its round trip through text
    return [
        pytest.param(model, run["id"], id=f"{model}-{run['id']}")
        for model in ("gpt2", "bart")
        for run in reference(model).runs(method="value_zeroing")
        if ":generate" not in run["id"]
    ]


def test_the_runs_are_there():
    assert len(_runs()) == 8 + 20


@pytest.mark.parametrize(("model", "run_id"), _runs())
def test_recorded(golden_model, model, run_id):
    golden = reference(model)
    run = golden.run(run_id)
    case = golden.cases[run["case"]]
    options = {k: v for k, v in run["attribute_kwargs"].items() if k not in ("input_texts", "generated_texts")}
    out = golden_model(model, "float64" if run["dtype"] == "f64" else "float32").attribute(
        case["input_texts"],
        case["generated_texts"],
        method="value_zeroing",
        **options,
        **(BOTH if model == "bart" else {}),
    )
    for i in range(len(run["sequences"])):
        fields = golden.fields(run, i)
        assert fields
        for field in fields:
            name = field.removeprefix("sequence_scores.").removesuffix("_scores")
            mine = out[i].sequence_scores[name] if "sequence" in field else getattr(out[i], field)
            golden.compare(run, field, mine.numpy(), sequence=i)


@pytest.mark.parametrize("model", ["gpt2", "bart"])
def test_oracle(golden_model, model):
    """By definition, without transformers: every zeroed token, receiving position and layer, to rounding."""
    arrays, document = oracle(model)
    entries = [e for e in document["entries"] if e["quantity"] == "value_zeroing"]
    assert len(entries) == (4 if model == "gpt2" else 12)
    for case in {e["case"] for e in entries}:
        texts = reference(model).cases[case]
        out = golden_model(model).attribute(
            texts["input_texts"],
            texts["generated_texts"],
            method="value_zeroing",
            **(BOTH if model == "bart" else SELF),
        )
        for entry in (e for e in entries if e["case"] == case):
            one = out[entry["sequence"]]
            block = {"target": "decoder_self"}.get(entry["block"], entry["block"])
            mine = one.source_attributions if block == "cross" else one.sequence_scores[block]
            np.testing.assert_allclose(mine.numpy(), arrays[entry["key"]], atol=1e-10, rtol=0)


# -- a loop over tokens and layers -------------------------------------------------------------------------------------

_ZERO: dict = {}


def _zeroing_attention(module, query, key, value, attention_mask, **options):
    """The model file's eager attention; one module loses the value vector of one token, in some heads."""
    eager = sys.modules[type(module).__module__].__dict__.get("eager_attention_forward") or _t5_eager
    plain = eager(module, query, key, value, attention_mask, **options)
    if module is not _ZERO.get("module"):
        return plain
    value = value.clone()
    value[:, :, _ZERO["token"]] = 0
    changed = eager(module, query, key, value, attention_mask, **options)
    output = plain[0].clone()
    heads = slice(None) if _ZERO["heads"] is None else _ZERO["heads"]
    output[:, :, heads] = changed[0][:, :, heads]
    return output, plain[1]


def _t5_eager(module, query, key, value, mask, **options):
    weights = query @ key.mT * options["scaling"] + options["position_bias"]
    weights = (weights if mask is None else weights + mask).softmax(-1)
    return (weights @ value).transpose(1, 2), weights


def _modules(name, hf) -> dict:
    """Attention modules of each layer by name: "encoder", "target" (decoder self attention), "source" (cross)."""
    if name == "gpt2":
        return {"target": [b.attn for b in hf.transformer.h]}
    if name == "opt":
        return {"target": [b.self_attn for b in hf.model.decoder.layers]}
    if name == "t5":
        return {
            "encoder": [b.layer[0].SelfAttention for b in hf.encoder.block],
            "target": [b.layer[0].SelfAttention for b in hf.decoder.block],
            "source": [b.layer[1].EncDecAttention for b in hf.decoder.block],
        }
    if name in ENCODER_DECODERS:
        return {
            "encoder": [b.self_attn for b in hf.model.encoder.layers],
            "target": [b.self_attn for b in hf.model.decoder.layers],
            "source": [b.encoder_attn for b in hf.model.decoder.layers],
        }
    return {"target": [b.self_attn for b in hf.model.layers]}


@torch.no_grad()
def loop(name, hf, example, kind, heads=None, metric="cosine"):
    """`[zeroed, receiving, layer]`: the whole model once per token and layer, read through its hidden states."""
    AttentionInterface.register("zeroing", _zeroing_attention)
    AttentionMaskInterface.register("zeroing", eager_mask)
    target = torch.tensor([example.target_ids[: example.stop - 1]])
    given = {"input_ids": target}
    if name in ENCODER_DECODERS:
        given = {"input_ids": torch.tensor([example.source_ids]), "decoder_input_ids": target}
    field = "hidden_states"
    if name in ENCODER_DECODERS:
        field = f"{'encoder' if kind == 'encoder' else 'decoder'}_hidden_states"

    def states():
        return getattr(hf(**given, output_hidden_states=True, use_cache=False), field)

    n_tokens = len(example.source_ids) if kind in ("source", "encoder") else target.shape[1]
    with implementation(hf, "zeroing"):
        _ZERO.clear()
        clean = states()
        raw = torch.zeros(n_tokens, clean[0].shape[1], len(clean) - 1, dtype=torch.float64)
        for layer, module in enumerate(_modules(name, hf)[kind]):
            for token in range(n_tokens):
                _ZERO.update(module=module, token=token, heads=heads)
                x, y = clean[layer + 1][0], states()[layer + 1][0]
                far = (x - y).norm(dim=-1) if metric == "euclidean" else 1 - torch.cosine_similarity(x, y, dim=-1)
                raw[token, :, layer] = far
        _ZERO.clear()
    raw[raw < 1e-5] = 0
    return (raw / raw.sum(0)).nan_to_num()


def strong(name, **changes):
    """A toy whose attention matters: with its initial weights, most changes are below the cut at 1e-5."""
    hf = build(name, **changes)
    for parameter in hf.parameters():
        if parameter.ndim == 2:
            parameter.data *= 0.3 / parameter.std()
    return hf


def wrap(name, tokenizers, hf=None):
    tokenizer = tokenizers["bart" if name in ENCODER_DECODERS else "gpt2"]
    return attriflow.load_model(strong(name) if hf is None else hf, tokenizer=tokenizer)


def check(name, m, heads=None, metric="cosine", targets=None):
    """Both examples as one batch against the loop over each, cells that tell apart included."""
    encoder = name in ENCODER_DECODERS
    targets = targets or TARGETS[encoder]
    kinds = ("target", "source", "encoder") if encoder else ("target",)
    options = {"decoder_zeroed_units_indices": heads, "similarity_metric": metric}
    if encoder:
        options |= {"cross_zeroed_units_indices": heads, "encoder_zeroed_units_indices": heads}
        options |= {"attribute_target": True}
    out = m.attribute(
        PROMPTS, targets, method="value_zeroing", **options, **(BOTH if encoder else SELF), show_progress=False
    )
    short = m.attribute(PROMPTS, targets, method="value_zeroing", **options, show_progress=False)
    for i, example in enumerate(m.encode(PROMPTS, targets)):
        query = range(example.start - 1, example.stop - 1)
        for kind in kinds:
            wanted = loop(name, m.model, example, kind, heads, metric).numpy()
            assert ((wanted > 0.02) & (wanted < 0.98)).any()
            if kind != "source":
                full = out[i].sequence_scores["encoder_self" if kind == "encoder" else "decoder_self"].numpy()
                if kind == "target":
                    assert np.isnan(full[np.tril_indices(len(full), -1)]).all()
                np.testing.assert_allclose(np.nan_to_num(full), wanted, atol=1e-9, rtol=0)
            if kind != "encoder":
                for one in (out[i], short[i]):
                    mine = np.nan_to_num(getattr(one, f"{kind}_attributions").numpy())[: len(wanted)]
                    np.testing.assert_allclose(mine, wanted[:, query], atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", list(CONFIGS))
class TestLoop:
    def test_every_token_and_layer(self, name, tokenizers, monkeypatch):
        m = wrap(name, tokenizers)
        if not interface_works(m.model):  # T5 before transformers 5
            with pytest.raises(attriflow.AttriflowError, match="AttentionInterface"):
                m.attribute(PROMPTS[0], TARGETS[True][0], method="value_zeroing")
            return
        monkeypatch.setattr(blocks.BlockRecord, "whole", None)  # cropped replays do for all of these
        check(name, m)

    def test_some_heads_by_whole_sequences(self, name, tokenizers, monkeypatch):
        """The path for blocks that mix positions gives the same numbers."""
        m = wrap(name, tokenizers)
        monkeypatch.setattr(blocks.BlockRecord, "separable", lambda *_: False)
        if interface_works(m.model):
            check(name, m, heads=[1, 2], metric="euclidean")
        assert interface_works(m.model) or name == "t5"


def test_euclidean_and_heads_at_receiving_positions(tokenizers):
    check("llama-gqa", wrap("llama-gqa", tokenizers), heads=[0, 3], metric="euclidean")
    check("bart", wrap("bart", tokenizers), heads=[2], metric="euclidean")


def test_source_and_target_of_one_length(tokenizers):
    """The encoder's states have the shape of the decoder's then, and are not to be taken for them."""
    m = wrap("bart", tokenizers)
    for example in m.encode(PROMPTS, PROMPTS):
        assert len(example.source) == example.stop - 1
    check("bart", m, targets=PROMPTS)


def test_the_pass_over_a_foil_is_not_recorded(tokenizers):
    m = wrap("gpt2", tokenizers)
    text, target, foil = PROMPTS[0], f"{PROMPTS[0]} pari mitemi", f"{PROMPTS[0]} pari kana"
    plain = m.attribute(text, target, method="value_zeroing")[0]
    forced = m.attribute(
        text,
        target,
        method="value_zeroing",
        attributed_fn="contrast_prob_diff",
        contrast_targets=foil,
        contrast_force_inputs=True,
        step_scores=["contrast_prob_diff"],
    )[0]
    torch.testing.assert_close(forced.scores, plain.scores, equal_nan=True)
    assert forced.provenance.forward_rows == plain.provenance.forward_rows + 1


def test_sliding_window(tokenizers, monkeypatch):
    """Tokens outside the window have no weight, need no version and score zero."""
    hf = strong("gemma2", sliding_window=4)
    monkeypatch.setattr(blocks.BlockRecord, "whole", None)
    check("gemma2", wrap("gemma2", tokenizers, hf))


def test_post_norm_stack(tokenizers):
    """OPT's 350M variant has no final norm and normalises after each part."""
    check("opt", wrap("opt", tokenizers, strong("opt", do_layer_norm_before=False)))


@pytest.mark.parametrize("mix", [lambda x: x.cumsum(1), lambda x: x + torch.nn.functional.pad(x, (0, 0, 1, -1))])
def test_a_block_that_mixes_positions(tokenizers, monkeypatch, mix):
    """Cropping would be wrong there, so whole sequences are run."""
    hf = strong("llama-gqa")
    layer = hf.model.layers[0]
    forward = layer.forward

    def mixed(hidden_states, *args, **kwargs):
        return forward(mix(hidden_states), *args, **kwargs)

    monkeypatch.setattr(layer, "forward", mixed)
    m = wrap("llama-gqa", tokenizers, hf)
    calls = []
    whole = blocks.BlockRecord.whole
    monkeypatch.setattr(blocks.BlockRecord, "whole", lambda self, *a: calls.append(self.module) or whole(self, *a))
    check("llama-gqa", m)
    assert set(calls) == {layer}


def test_an_attention_that_is_not_a_weighted_sum(tokenizers, monkeypatch):
    module = sys.modules[type(build("llama-gqa")).__module__]
    eager = module.eager_attention_forward

    def bent(layer, query, key, value, mask, **options):
        output, weights = eager(layer, query, key, value, mask, **options)
        return output.tanh(), weights

    monkeypatch.setattr(module, "eager_attention_forward", bent)
    check("llama-gqa", wrap("llama-gqa", tokenizers), heads=[1, 2])


def test_layers_choose_their_own_heads(tokenizers):
    m = wrap("qwen3", tokenizers)

    def scores(heads):
        return m.attribute(PROMPTS[0], TARGETS[False][0], method="value_zeroing", decoder_zeroed_units_indices=heads)[
            0
        ].scores

    mixed = scores({1: [0, 2]})
    assert mixed[..., 0].nansum() == 0
    torch.testing.assert_close(mixed[..., 1], scores([0, 2])[..., 1], equal_nan=True)
    torch.testing.assert_close(scores({0: 1, 1: [1]}), scores(1), equal_nan=True)


def test_rows_sum_to_one(tokenizers):
    for name in ("gpt2", "marian"):
        encoder = name in ENCODER_DECODERS
        out = wrap(name, tokenizers).attribute(PROMPTS, TARGETS[encoder], method="value_zeroing")
        for one in out:
            torch.testing.assert_close(one.scores.nansum(1), torch.ones_like(one.scores[:, 0]))


def test_step_scores_come_from_the_recording_pass(tokenizers):
    m = wrap("gpt2", tokenizers)
    text = (PROMPTS[1], TARGETS[False][1])
    plain = m.attribute(*text, method="value_zeroing")[0]
    scored = m.attribute(*text, method="value_zeroing", step_scores=["probability"])[0]
    assert scored.provenance.forward_rows == plain.provenance.forward_rows
    # one recording pass; the versions together are about as many positions as a pass per step has
    assert plain.provenance.forward_rows <= 2 + 1.2 * len(plain.targets)
    wanted = m.attribute(*text, method="saliency", step_scores=["probability"])[0]
    torch.testing.assert_close(scored.step_scores["probability"], wanted.step_scores["probability"])


def test_replays_shrink_until_they_fit(tokenizers, monkeypatch):
    m = wrap("llama-gqa", tokenizers)

    def scores():
        return m.attribute(PROMPTS, TARGETS[False], method="value_zeroing", show_progress=False)

    wanted, at, whole = scores(), blocks.BlockRecord.at, blocks.BlockRecord.whole
    limit = 3

    def small(self, row, changed):
        if row.shape[1] > limit:
            raise torch.OutOfMemoryError("test")
        return at(self, row, changed)

    def few(self, layer, tokens, heads=None):
        if len(tokens) > limit:
            raise torch.OutOfMemoryError("test")
        return whole(self, layer, tokens, heads)

    monkeypatch.setattr(blocks.BlockRecord, "at", small)
    monkeypatch.setattr(blocks.BlockRecord, "whole", few)
    for separable in (True, False):
        monkeypatch.setattr(blocks.BlockRecord, "separable", lambda *_, s=separable: s)
        limit = 3
        for a, b in zip(wanted, scores(), strict=True):
            torch.testing.assert_close(a.scores, b.scores, atol=1e-10, rtol=0, equal_nan=True)
        limit = 0
        with pytest.raises(attriflow.AttriflowError, match="memory"):
            scores()
        assert not any(mod._forward_hooks or mod._forward_pre_hooks for mod in m.model.modules())
        assert m.model.config._attn_implementation != "attriflow_eager"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"similarity_metric": "dot"}, "similarity_metric"),
        ({"decoder_zeroed_units_indices": -1}, "decoder_zeroed_units_indices"),
        ({"decoder_zeroed_units_indices": ["a"]}, "decoder_zeroed_units_indices"),
        ({"decoder_zeroed_units_indices": {"first": 1}}, "decoder_zeroed_units_indices"),
        ({"decoder_zeroed_units_indices": {-1: 0}}, "layers and heads are numbers from 0"),
        ({"decoder_zeroed_units_indices": {0: [1, -1]}}, "layers and heads are numbers from 0"),
        ({"decoder_zeroed_units_indices": 4}, "head 4 does not exist in layer 0"),
        ({"cross_zeroed_units_indices": 1}, "for encoder-decoders"),
        ({"encoder_zeroed_units_indices": 0}, "for encoder-decoders"),
        ({"output_encoder_self_scores": True}, "for encoder-decoders"),
    ],
)
def test_wrong_options(tokenizers, options, message):
    with pytest.raises(attriflow.AttriflowError, match=message):
        wrap("gpt2", tokenizers).attribute(PROMPTS[0], TARGETS[False][0], method="value_zeroing", **options)


def test_architectures_outside_the_interface(tokenizers, monkeypatch):
    m = wrap("bart", tokenizers)
    monkeypatch.setattr(value_zeroing, "interface_works", lambda _: False)
    with pytest.raises(attriflow.AttriflowError, match="AttentionInterface"):
        m.attribute(PROMPTS[0], TARGETS[True][0], method="value_zeroing")
