"""Going through the last block with all steps together changes no number, and is left where it would."""

from __future__ import annotations

import functools

import pytest
import torch
import transformers
from models import CONFIGS, ENCODER_DECODERS, OUTSIDE, build

import attriflow
from attriflow.engine.last_block import LastBlock

# These write their attention out. In transformers 4 T5 did so, and Gemma 2 went through torch's attention function.
OWN_ATTENTION = ("t5" if transformers.__version__.startswith("4.") else "gemma2", *OUTSIDE)
SEPARABLE = [name for name in CONFIGS if name not in OWN_ATTENTION]
SINGLE = ("llama-gqa", "qwen3", "gemma2", "t5")  # norms in single precision, whatever the model's
METHODS = {
    "saliency": {},
    "integrated_gradients": {"n_steps": 3},
    "layer_gradient_x_activation": {},
    "sequential_integrated_gradients": {"n_steps": 2},
}
PROMPTS = ["ki nakol temo dibema te", "la gape pari kana no tedu so Beluki pari"]
TARGETS = {
    False: [f"{PROMPTS[0]} pari mitemi kana gemibes", f"{PROMPTS[1]} te"],
    True: ["um nomal rapel Tarsen popite", "so rapel"],
}


@pytest.fixture
def load(tokenizers):
    @functools.cache
    def get(name, **changes):
        tokenizer = tokenizers["bart" if name in ENCODER_DECODERS else "gpt2"]
        return attriflow.load_model(build(name, **changes), tokenizer=tokenizer)

    return get


@pytest.fixture
def cuts(monkeypatch):
    """How often a graph was cut at the last block."""
    made = []
    cut = LastBlock.cut
    monkeypatch.setattr(LastBlock, "cut", lambda self, values: made.append(1) or cut(self, values))
    return made


def scores(m, method, **options):
    if m.is_encoder_decoder:
        options["attribute_target"] = True
    out = m.attribute(PROMPTS, TARGETS[m.is_encoder_decoder], method=method, **METHODS.get(method, {}), **options)
    return [a.scores.nan_to_num(0) for a in out]


def same(found, wanted, name="gpt2"):
    for a, b in zip(found, wanted, strict=True):
        assert b.abs().max() > 0
        assert float((a - b).abs().max() / b.abs().max()) < (1e-5 if name in SINGLE else 1e-10)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SEPARABLE)
def test_the_same_numbers(load, cuts, name, method):
    m = load(name)
    found = scores(m, method)
    assert cuts
    assert m.wrapped.last_block_separable is True
    made = len(cuts)
    m.wrapped.last_block_separable = False
    wanted = scores(m, method)
    assert len(cuts) == made
    same(found, wanted, name)


@pytest.mark.parametrize("name", CONFIGS)
def test_one_block_only(load, name):
    """The input of the last block is then that of the model."""
    few = {k: 1 for k in ("num_hidden_layers", "n_layer", "decoder_layers", "num_layers") if k in CONFIGS[name][1]}
    m = load(name, **few)
    found = scores(m, "input_x_gradient")
    m.wrapped.last_block_separable = False
    same(found, scores(m, "input_x_gradient"), name)


@pytest.mark.parametrize("name", [name for name in ("bart", "t5") if name in SEPARABLE])
def test_one_block_that_reads_the_source_only_by_its_keys(load, cuts, name):
    """The block's own input does not depend on the source then, so there is nothing to go down to."""
    few = {k: 1 for k in ("decoder_layers", "num_layers") if k in CONFIGS[name][1]}
    m = load(name, **few)
    m.wrapped.shares_gradients = True  # not found out here, which takes cuts of its own
    found = [a.scores.nan_to_num(0) for a in m.attribute(PROMPTS, TARGETS[True], method="saliency")]
    assert not cuts
    assert m.wrapped.last_block_separable is None
    m.wrapped.last_block_separable = False
    same(found, [a.scores.nan_to_num(0) for a in m.attribute(PROMPTS, TARGETS[True], method="saliency")], name)
    m.wrapped.last_block_separable = None
    scores(m, "saliency")  # of the target prefix, too
    assert cuts


@pytest.mark.parametrize("name", OWN_ATTENTION)
def test_other_attention_is_left_alone(load, cuts, name):
    m = load(name)
    scores(m, "saliency")
    assert not cuts
    assert m.wrapped.last_block_separable is False


def _last(m):
    return m.model.transformer.h[-1]


def test_a_block_that_mixes_positions_elsewhere(load, cuts):
    """Found by the gradients, once; the numbers are those of the whole graph."""
    m = load("gpt2")

    def smear(_module, _args, output):
        return output + 0.5 * torch.nn.functional.pad(output, (0, 0, 1, -1))

    with_hook = _last(m).mlp.register_forward_hook(smear)
    found = scores(m, "saliency")
    assert m.wrapped.last_block_separable is False
    assert not cuts
    same(scores(m, "saliency"), found)
    with_hook.remove()
    plain = scores(m, "saliency")
    assert not torch.allclose(plain[0], found[0], rtol=0, atol=1e-3 * float(found[0].abs().max()))


def test_a_way_around_the_block(load, cuts):
    """An input that reaches the head by another way is seen in the graph."""
    m = load("gpt2")
    kept = []
    first = m.model.transformer.h[0].register_forward_pre_hook(lambda _m, args: kept.append(args[0]))
    end = m.model.transformer.ln_f.register_forward_hook(lambda _m, _a, output: output + kept[-1])
    found = scores(m, "saliency")
    assert not cuts
    m.wrapped.last_block_separable = False
    same(scores(m, "saliency"), found)
    first.remove()
    end.remove()


@pytest.mark.parametrize("place", ["last", "inside"])
def test_a_target_layer_in_the_last_block(load, cuts, place):
    """The gradient with respect to what the block puts out, or its feed-forward part, does not go through its input."""
    m = load("gpt2")
    scores(m, "saliency")
    made = len(cuts)
    layer = _last(m) if place == "last" else _last(m).mlp
    found = scores(m, "layer_gradient_x_activation", target_layer=layer)
    assert len(cuts) == made
    assert m.wrapped.last_block_separable is True
    m.wrapped.last_block_separable = False
    same(scores(m, "layer_gradient_x_activation", target_layer=layer), found)


def test_half_precision(load):
    m = load("llama-gqa")
    wanted = scores(m, "input_x_gradient")
    m.model.to(torch.bfloat16)
    m.wrapped.last_block_separable = None
    found = scores(m, "input_x_gradient")
    assert m.wrapped.last_block_separable is True
    m.wrapped.last_block_separable = False
    plain = scores(m, "input_x_gradient")
    off = [max(float((a - w).abs().max()) for a, w in zip(s, wanted, strict=True)) for s in (found, plain)]
    assert off[0] <= 1.5 * off[1]
