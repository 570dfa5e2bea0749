"""Graphs that are made a few blocks at a time change no number, and hold no more than these blocks."""

from __future__ import annotations

import weakref

import pytest
import torch
from models import CONFIGS, ENCODER_DECODERS, build

import attriflow
from attriflow.engine import gradients, sizes
from attriflow.engine.sizes import Sizes, blocks_at_once
from attriflow.engine.stretches import Stretches
from attriflow.kernels.plain import plain
from attriflow.models.blocks import main_stack

SINGLE = ("llama-gqa", "qwen3", "gemma2")  # norms in single precision, whatever the model's
PROMPTS = ["ki nakol temo dibema te", "la gape pari kana no tedu so Beluki pari"]
TARGETS = [f"{PROMPTS[0]} pari mitemi kana gemibes", f"{PROMPTS[1]} te"]
METHODS = {
    "saliency": {},
    "integrated_gradients": {"n_steps": 3},
    "layer_gradient_x_activation": {},  # of the second block
}
DEEP = {"num_hidden_layers": 5, "n_layer": 5}


@pytest.fixture
def load(tokenizers):
    def get(name="gpt2"):
        deeper = {k: n for k, n in DEEP.items() if k in CONFIGS[name][1]}
        return attriflow.load_model(build(name, **deeper), tokenizer=tokenizers["gpt2"])

    return get


@pytest.fixture
def made(monkeypatch):
    """Stretches below the uppermost one, pass by pass."""
    found = []
    watch = Stretches.watch

    def spy(self):
        found.append(self.stretches)
        return watch(self)

    monkeypatch.setattr(Stretches, "watch", spy)
    return found


def scores(m, method="saliency"):
    options = dict(METHODS[method])
    if method.startswith("layer"):
        options["target_layer"] = main_stack(m.model, 5)[1]
    out = m.attribute(PROMPTS, TARGETS, method=method, show_progress=False, **options)
    return [a.scores.nan_to_num(0) for a in out]


def same(found, wanted, name="gpt2"):
    for a, b in zip(found, wanted, strict=True):
        assert b.abs().max() > 0
        assert float((a - b).abs().max() / b.abs().max()) < (1e-5 if name in SINGLE else 1e-10)


def depths(made):
    """Blocks of each stretch below the uppermost one, of every pass that was divided."""
    return {tuple(len(stretch.calls) for stretch in stretches) for stretches in made if stretches}


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in ENCODER_DECODERS])
def test_the_numbers_of_plain_gradients(load, made, monkeypatch, name):
    m = load(name)
    for method in METHODS:
        with plain():
            wanted = scores(m, method)
        first = method.startswith("layer") * 2
        with monkeypatch.context() as patch:
            patch.setattr(sizes, "CHUNK_BYTES", 1)
            same(scores(m, method), wanted, name)
        assert (1,) * (4 - first) in depths(made)
        made.clear()
        with monkeypatch.context() as patch:
            patch.setattr(gradients, "blocks_at_once", lambda *_: 2)
            same(scores(m, method), wanted, name)
        assert depths(made) == {(1,) if first else (1, 2)}
    assert m.wrapped.stack_is_chain is True


def test_blocks_at_once(load, monkeypatch):
    m = load().wrapped
    assert blocks_at_once(m, 1, 100) is None
    one = Sizes(m, 1, 100, 0, 1).block()
    for limit, wanted in ((5 * one, None), (5 * one - 1, 2), (4 * one, 2), (3 * one, 1), (one, 1)):
        monkeypatch.setattr(sizes, "CHUNK_BYTES", limit)
        assert blocks_at_once(m, 1, 100) == wanted


def test_a_way_around_the_blocks(load, made, monkeypatch):
    """Found by the gradients, once; the numbers are those of one graph."""
    m = load()
    kept = []
    stack = main_stack(m.model, 5)
    stack[0].register_forward_pre_hook(lambda _module, args: kept.append(args[0]))
    stack[4].register_forward_hook(
        lambda _module, _args, out: (out[0] + kept[-1], *out[1:]) if isinstance(out, tuple) else out + kept[-1]
    )
    with plain():
        wanted = scores(m)
    monkeypatch.setattr(sizes, "CHUNK_BYTES", 1)
    found = scores(m)
    assert m.wrapped.stack_is_chain is False
    same(found, wanted)
    made.clear()
    same(scores(m), wanted)
    assert not made


def test_a_block_reads_more_than_the_one_before_has_written(load, monkeypatch):
    m = load()
    stack = main_stack(m.model, 5)
    stack[2].register_forward_pre_hook(lambda _module, args: (args[0] * 1.5, *args[1:]))
    with plain():
        wanted = scores(m)
    monkeypatch.setattr(sizes, "CHUNK_BYTES", 1)
    same(scores(m), wanted)


def test_no_more_than_a_block_is_kept(load, monkeypatch):
    """Numbers that graphs hold on to at once, weights apart."""
    m = load()
    weights = {p.untyped_storage().data_ptr() for p in m.model.parameters()}

    class Kept:
        def __init__(self, tensor):
            self.tensor = tensor

    def most():
        now = peak = 0

        def gone(n):
            nonlocal now
            now -= n

        def pack(tensor):
            nonlocal now, peak
            kept = Kept(tensor.detach())
            if tensor.untyped_storage().data_ptr() not in weights:
                now += tensor.numel()
                peak = max(peak, now)
                weakref.finalize(kept, gone, tensor.numel())
            return kept

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
            scores(m)
        return peak

    scores(m)
    whole = most()
    monkeypatch.setattr(gradients, "blocks_at_once", lambda *_: 1)
    scores(m)  # what is found out once
    assert most() < 0.45 * whole  # of five blocks, one and what the last leaves
