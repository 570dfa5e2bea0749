"""Blocks: found, recorded at the receiving positions only, run again there."""

from __future__ import annotations

import pytest
import torch
from models import CONFIGS, build
from torch import nn

from attriflow.errors import UnsupportedModelError
from attriflow.models.attention import eager
from attriflow.models.blocks import BlockRecord, find_blocks, record_blocks

IDS = torch.tensor([[5, 9, 3, 7, 11, 2], [8, 8, 1, 4, 6, 10]])
POSITIONS = torch.tensor([[3, 5], [4, 1]])
IN_INTERFACE = [n for n in CONFIGS if n != "t5"]  # T5 joins it with transformers 5
SEQ2SEQ = ("bart", "marian")


def record(hf, positions=POSITIONS, use=None, encoder=None):
    found: list[BlockRecord] = []
    encoder_decoder = hf.config.is_encoder_decoder
    given = {"input_ids": IDS, "decoder_input_ids": IDS} if encoder_decoder else {"input_ids": IDS}
    receiving = {"decoder": positions} | ({} if encoder is None else {"encoder": encoder})
    with torch.no_grad(), record_blocks(hf, receiving, use or found.append, encoder_decoder):
        out = hf(**given, output_hidden_states=True, use_cache=False)
    return found, out


def rows(states, positions=POSITIONS):
    return torch.stack([s[p] for s, p in zip(states, positions, strict=True)])


@pytest.mark.parametrize("name", IN_INTERFACE)
class TestRecord:
    def test_outputs_and_final_norm_are_the_hidden_states(self, name):
        hf = build(name)
        encoder = torch.tensor([[0, 2, 5], [1, 1, 3]])
        found, out = record(hf, encoder=encoder)
        decoder = [b for b in found if b.stack == "decoder"]
        states = out.decoder_hidden_states if hf.config.is_encoder_decoder else out.hidden_states
        assert len(decoder) == len(states) - 1
        for block, state in zip(decoder, states[1:], strict=True):
            torch.testing.assert_close(block.final(block.output), rows(state))
        assert [bool(b.norms) for b in decoder[:-1]] == [False] * (len(decoder) - 1)
        assert bool(decoder[-1].norms) == (not hf.config.is_encoder_decoder)  # bart and marian end in no norm
        encoded = [b for b in found if b.stack == "encoder"]
        for block, state in zip(encoded, out.get("encoder_hidden_states", [])[1:], strict=True):
            torch.testing.assert_close(block.final(block.output), rows(state, encoder))

    def test_only_receiving_rows_are_kept(self, name):
        for block in record(build(name))[0]:
            assert block.stack == "decoder"
            assert len(block.attention) == (2 if block.crossing else 1)
            for kept in block.attention:
                assert kept.weights.shape == (2, 4, 2, 6)
                assert kept.output.shape[:3] == (2, 2, 4)
                assert kept.is_linear()

    def test_every_layer_reproduces_itself_at_repeated_rows(self, name):
        hf = build(name)
        row = torch.tensor([[1, 0, 0], [0, 1, 0]])

        def use(block):
            for layer in range(len(block.attention)):
                assert block.separable(layer)
                assert block.reproduces(row, layer)

        record(hf, use=use)

    def test_a_zeroed_value_at_rows_is_the_one_on_whole_sequences(self, name):
        hf = build(name)
        compared = []
        heads = torch.tensor([True, False, False, True])

        def use(block):
            row = torch.tensor([[0, 1], [0, 1]])
            for layer, kept in enumerate(block.attention):
                for chosen in (None, heads):
                    whole = block.whole(layer, torch.tensor([0, 1]), chosen)
                    assert whole.shape[:3] == (2, 2, 2)
                    for version in (0, 1):
                        changed = kept.without(row, torch.full_like(row, version), chosen)
                        output = block.at(row, {layer: changed})
                        torch.testing.assert_close(output, whole[version])
                        compared.append(float((output - block.output).abs().max()))

        record(hf, use=use)
        assert min(compared) > 1e-8

    def test_nothing_stays_on_the_model(self, name):
        hf = build(name)
        before = hf.config._attn_implementation
        with torch.no_grad():  # hidden states are read through hooks that transformers leaves in place
            hf(input_ids=IDS, output_hidden_states=True, **({"decoder_input_ids": IDS} if name in SEQ2SEQ else {}))
        hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in hf.modules()]
        record(hf)

        def fail(_block):
            raise KeyError("stop")

        with pytest.raises(KeyError, match="stop"):
            record(hf, use=fail)
        assert [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in hf.modules()] == hooks
        assert hf.config._attn_implementation == before


def test_without_is_attention_over_zeroed_values():
    """Grouped heads included: two of the four heads share a value vector."""
    hf = build("llama-gqa")
    (block, *_), _ = record(hf, positions=torch.arange(6).expand(2, -1))
    kept = block.attention[0]
    attention = hf.model.layers[0].self_attn
    value = kept.value.clone()
    value[0, :, 2], value[1, :, 0] = 0, 0
    query = torch.randn(2, 4, 6, kept.key.shape[-1], dtype=torch.float64)
    clean, weights = eager(attention, query, kept.key, kept.value, kept.mask, **kept.options)
    wanted, _ = eager(attention, query, kept.key, value, kept.mask, **kept.options)
    row = torch.arange(6).expand(2, -1)
    kept = type(kept)(
        key=kept.key, value=kept.value, mask=kept.mask, options=kept.options, weights=weights, output=clean
    )
    token = torch.tensor([[2], [0]]).expand(-1, 6)
    torch.testing.assert_close(kept.without(row, token), wanted)
    # the same queries at their rows attend as they did
    torch.testing.assert_close(kept.attend(attention, query, row), clean)


def test_blocks_are_elements_of_outermost_lists():
    """T5 keeps the parts of a block in a list of their own."""
    hf = build("t5")
    found = find_blocks(hf)
    assert set(found) == {*hf.encoder.block, *hf.decoder.block}
    assert found[hf.decoder.block[0]] is hf.decoder
    gpt2 = build("gpt2")
    assert list(find_blocks(gpt2)) == list(gpt2.transformer.h)


def test_attention_after_attention_is_not_separable():
    """A second self attention would see changed keys; a cross attention sees the encoder's."""
    (block, *_), _ = record(build("bart"))
    assert block.separable(0)
    assert block.separable(1)
    block.crossing = False
    assert not block.separable(0)
    assert block.separable(1)


def test_shapes_that_do_not_fit_are_no_reproduction(monkeypatch):
    hf = build("gpt2")
    layer = hf.transformer.h[0]
    forward = layer.forward

    def strict(hidden, *args, **kwargs):
        torch.zeros(6).expand(hidden.shape[1])
        return forward(hidden, *args, **kwargs)

    monkeypatch.setattr(layer, "forward", strict)
    answers = []
    record(hf, use=lambda b: answers.append(b.reproduces(torch.tensor([[0, 1], [1, 0]]), 0)))
    assert answers == [False, True]


def test_layers_outside_a_list_are_refused():
    hf = build("gpt2")
    hf.transformer.h = nn.Sequential(*hf.transformer.h)
    with pytest.raises(UnsupportedModelError, match="list of layers"):
        record(hf)
