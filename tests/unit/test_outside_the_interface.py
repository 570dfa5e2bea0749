"""Attention of architectures outside transformers' interface, and encoders that return more than states."""

import pytest
import torch
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    EncoderDecoderConfig,
    EncoderDecoderModel,
)
from words import PROMPT, SOURCE, TARGET, TEXT, WORDS, stirred, word_tokenizer

import attriflow
from attriflow.errors import UnsupportedModelError

SMALL = {"vocab_size": len(WORDS), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
WIDE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
PAIR = {
    **SMALL,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "max_position_embeddings": 64,
    "decoder_start_token_id": 2,
}
T5 = {**SMALL, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2}


def built(kind, **options):
    config = CONFIG_MAPPING[kind](**options)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    return stirred(auto.from_config(config))


def wrapped(hf):
    return attriflow.load_model(hf, tokenizer=word_tokenizer(), device="cpu")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("falcon", {**SMALL, **WIDE}),
        ("falcon", {**SMALL, **WIDE, "new_decoder_architecture": True, "num_kv_heads": 1}),
        ("bloom", {**SMALL, "hidden_size": 16, "n_layer": 2, "n_head": 2}),
        ("gpt_neo", {**SMALL, **WIDE, "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]]}),
        ("mpt", {**SMALL, "d_model": 16, "n_layers": 2, "n_heads": 2}),
    ],
)
def test_attention_is_that_of_the_eager_model(kind, options):
    hf = built(kind, **options)
    m = wrapped(hf)
    before = [(c._attn_implementation, c.output_attentions) for c in (hf.config,)]
    example = m.encode(PROMPT, TEXT)[0]
    (out,) = m.attribute(PROMPT, TEXT, method="attention", show_progress=False, step_scores=["probability"])
    assert [(c._attn_implementation, c.output_attentions) for c in (hf.config,)] == before
    other = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**options), attn_implementation="eager").eval()
    other.load_state_dict(hf.state_dict())
    ids = torch.tensor([example.target_ids])
    with torch.no_grad():
        maps = torch.stack(other(ids, output_attentions=True).attentions, -1)[0]  # [head, query, key, layer]
    for j, end in enumerate(range(example.start, example.stop)):
        wanted = maps[:, end - 1, :end].permute(1, 2, 0)
        torch.testing.assert_close(out.scores[j, :end].float(), wanted, atol=1e-6, rtol=0)


def test_maps_of_another_computation_are_refused():
    """Under transformers 5.24, Falcon adds alibi twice where it returns its maps."""
    hf = built("falcon", **SMALL, **WIDE, alibi=True)
    ids = torch.tensor([[4, 5, 6, 7, 8]])
    with torch.no_grad():
        plain = hf(ids).logits
        hf.config._attn_implementation = "eager"
        differ = not torch.allclose(plain, hf(ids).logits, atol=1e-4)
        hf.config._attn_implementation = "sdpa"
    if not differ:
        pytest.skip("this version of transformers computes the same both ways")
    with pytest.raises(UnsupportedModelError, match="other logits where it returns them"):
        wrapped(hf).attribute(PROMPT, TEXT, method="attention", show_progress=False)
    wrapped(hf).attribute(PROMPT, TEXT, method="saliency", show_progress=False)


def test_what_is_refused_while_attention_is_read_is_told_as_it_is():
    """What is wrong is not the attention, so nothing is said of it."""
    hf = built("gpt_neo", **SMALL, **WIDE, num_layers=2, num_heads=2, attention_types=[[["global"], 2]])

    def refuse(*_):
        if hf.config.output_attentions:
            raise UnsupportedModelError("not this one")

    hf.register_forward_pre_hook(refuse)
    with pytest.raises(UnsupportedModelError, match=r"^not this one$"):
        wrapped(hf).attribute(PROMPT, TEXT, method="attention", show_progress=False)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("mamba", {**SMALL, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}),
        ("rwkv", {**SMALL, "hidden_size": 16, "attention_hidden_size": 16, "num_hidden_layers": 2}),
    ],
)
@pytest.mark.parametrize("method", ["attention", "attention_rollout", "value_norm", "value_zeroing"])
def test_no_attention_is_one_line(kind, options, method):
    with pytest.raises(UnsupportedModelError) as caught:
        wrapped(built(kind, **options)).attribute(PROMPT, TEXT, method=method, show_progress=False)
    assert "\n" not in str(caught.value)


def bert2bert():
    wide = {**SMALL, **WIDE, "intermediate_size": 16}
    parts = [CONFIG_MAPPING["bert"](**wide, is_decoder=d, add_cross_attention=d) for d in (False, True)]
    config = EncoderDecoderConfig(encoder=parts[0].to_dict(), decoder=parts[1].to_dict())
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 1, 0, 2
    return stirred(EncoderDecoderModel(config))


MOE = {"num_experts": 4, "encoder_sparse_step": 2, "decoder_sparse_step": 2}
SEQ2SEQ = {
    "nllb-moe": lambda: built("nllb-moe", **PAIR, **MOE),
    "nllb-moe that returns routers": lambda: built("nllb-moe", **PAIR, **MOE, output_router_logits=True),
    "switch_transformers": lambda: built("switch_transformers", **T5, num_experts=4, decoder_start_token_id=0),
    "led": lambda: built("led", **PAIR, attention_window=4, max_encoder_position_embeddings=64),
    "bert2bert": bert2bert,
}


@pytest.mark.parametrize("name", SEQ2SEQ)
def test_reused_encoders_give_the_models_own_values(name):
    """A target token replaced, the encoder's output reused: the numbers of plain forwards on ids."""
    hf = SEQ2SEQ[name]()
    m = wrapped(hf)
    options = {"attribute_target": True, "attributed_fn": "probability", "show_progress": False}
    (out,) = m.attribute(SOURCE, TARGET, method="occlusion", **options)
    example = m.encode(SOURCE, TARGET)[0]
    source, n = torch.tensor([example.source_ids]), len(example.source_ids)

    @torch.no_grad()
    def probability(ids, token):
        return (
            hf(input_ids=source, decoder_input_ids=torch.tensor([ids]), use_cache=False)
            .logits[0, -1]
            .softmax(-1)[token]
        )

    for j, end in enumerate(range(example.start, example.stop)):
        ids, token = list(example.target_ids[:end]), example.target_ids[end]
        for i in range(1, end):
            changed = [*ids[:i], 3, *ids[i + 1 :]]
            wanted = probability(ids, token) - probability(changed, token)
            torch.testing.assert_close(out.scores[j, n + i].float(), wanted, atol=1e-6, rtol=0)
