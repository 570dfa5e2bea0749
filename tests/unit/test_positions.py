"""Where positions end, and texts longer than a model was trained on: what its own forward gives on each prefix."""

import copy
import warnings

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForSeq2SeqLM
from words import PROMPT, SOURCE, TEXT, WORDS, stirred, word_tokenizer

import attriflow
from attriflow.errors import InputError, UnsupportedModelError
from attriflow.registry import methods

IDS = {"vocab_size": len(WORDS), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
WIDE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
LLAMA = {**IDS, **WIDE, "num_key_value_heads": 2, "pad_token_id": None}
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.5, 2.0, 3.0, 4.0], "factor": 4.0}
ROPES = {
    "dynamic": {"max_position_embeddings": 6, "rope_scaling": {"rope_type": "dynamic", "factor": 4.0}},
    "longrope": {
        "max_position_embeddings": 64,
        "original_max_position_embeddings": 6,
        "rope_scaling": {**LONG, "original_max_position_embeddings": 6},
    },
}
PAIR = {
    **IDS,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "decoder_start_token_id": 2,
}


def built(kind, **options):
    config = CONFIG_MAPPING[kind](**options)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    return stirred(auto.from_config(config))


def wrapped(hf):
    return attriflow.load_model(hf, tokenizer=word_tokenizer(), device="cpu")


PROMPTS = [PROMPT, "the cat", "the red cat in the"]
TEXTS = [f"{TEXT} la casa roja", "the cat was old", f"{TEXT} a dog ."]


@pytest.mark.filterwarnings("ignore:input and target together")
@pytest.mark.parametrize("kind", ROPES)
def test_every_step_is_the_models_own_on_its_prefix(kind):
    """Frequencies are those of the prefix: no later token, no other text of the batch, no earlier call changes them."""
    hf = built("llama", **LLAMA, **ROPES[kind])
    m = wrapped(copy.deepcopy(hf))
    options = {"attributed_fn": "probability", "step_scores": ["probability"], "show_progress": False}
    found = {name: m.attribute(PROMPTS, TEXTS, method=name, **options) for name in ("saliency", "occlusion")}
    whole = []
    for k, example in enumerate(m.encode(PROMPTS, TEXTS)):
        whole.append(len(example.target_ids))
        for j, end in enumerate(range(example.start, example.stop)):
            ids, token = list(example.target_ids[:end]), example.target_ids[end]
            fresh = copy.deepcopy(hf)
            leaf = fresh.get_input_embeddings()(torch.tensor([ids])).detach().requires_grad_(True)
            value = fresh(inputs_embeds=leaf).logits[0, -1].softmax(-1)[token]
            wanted = torch.autograd.grad(value, leaf)[0][0].norm(dim=-1)
            torch.testing.assert_close(found["saliency"][k].scores[j, :end].float(), wanted, atol=1e-6, rtol=1e-4)
            score = found["saliency"][k].step_scores["probability"][j]
            torch.testing.assert_close(score.float(), value.detach(), atol=1e-6, rtol=1e-4)
            with torch.no_grad():
                changed = copy.deepcopy(hf)(torch.tensor([[3, *ids[1:]]])).logits[0, -1].softmax(-1)[token]
            effect = found["occlusion"][k].scores[j, 0].float()
            torch.testing.assert_close(effect, (value - changed).detach(), atol=1e-6, rtol=1e-4)
    assert min(whole) <= 6 < max(whole)


@pytest.mark.filterwarnings("ignore:input and target together")
def test_plain_rope_goes_on_beyond_what_was_trained():
    hf = built("llama", **LLAMA, max_position_embeddings=6)
    m = wrapped(hf)
    with pytest.warns(UserWarning, match="of 9 tokens is longer than what .* was trained on \\(6\\)"):
        (out,) = m.attribute(PROMPT, TEXT, method="occlusion", show_progress=False)
    example = m.encode(PROMPT, TEXT)[0]
    ids = torch.tensor([example.target_ids])
    with torch.no_grad():
        p = (
            hf(ids).logits[0, -2].softmax(-1)[ids[0, -1]]
            - hf(torch.cat([torch.tensor([[3]]), ids[:, 1:]], 1)).logits[0, -2].softmax(-1)[ids[0, -1]]
        )
    torch.testing.assert_close(out.scores[-1, 0].float(), p, atol=1e-6, rtol=1e-4)


TABLES = {
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 6},
    "opt": {**WIDE, "ffn_dim": 16, "word_embed_proj_dim": 16, "max_position_embeddings": 6},
    "gptj": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 6, "rotary_dim": 4},
    "gpt_neo": {
        "hidden_size": 16,
        "num_layers": 1,
        "num_heads": 2,
        "max_position_embeddings": 6,
        "attention_types": [[["global"], 1]],
    },
    "roberta": {**WIDE, "max_position_embeddings": 7, "is_decoder": True},
    "bart": {**PAIR, "max_position_embeddings": 6},
    "marian": {**PAIR, "max_position_embeddings": 6},
    "led": {**PAIR, "max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 6, "attention_window": 4},
}
OPEN = {
    "llama": {**LLAMA, "max_position_embeddings": 6},
    "gpt_neox": {**WIDE, "max_position_embeddings": 6},
    "bloom": {"hidden_size": 16, "n_layer": 1, "n_head": 2},
    "xglm": {"d_model": 16, "num_layers": 1, "attention_heads": 2, "ffn_dim": 16, "max_position_embeddings": 6},
    "m2m_100": {**PAIR, "max_position_embeddings": 6},
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0},
}


def longest(hf, limit):
    """Whether a text of some length runs, and one that is a token longer."""
    ids = torch.full((1, limit + 1), 5)
    given = {"input_ids": ids[:, :1]} if hf.config.is_encoder_decoder else {}
    name = "decoder_input_ids" if given else "input_ids"
    out = []
    for n in (limit, limit + 1):
        try:
            hf(**given, **{name: ids[:, :n]})
            out.append(True)
        except (IndexError, RuntimeError):
            out.append(False)
    return out


@pytest.mark.parametrize("kind", TABLES)
def test_tables_end_where_the_model_fails(kind):
    hf = built(kind, **{**IDS, **TABLES[kind]})
    m = wrapped(hf)
    assert longest(hf, 6) == [True, False]
    assert m.wrapped.max_positions() == 6
    prompt = SOURCE if m.is_encoder_decoder else PROMPT
    if kind in ("bart", "marian"):
        prompt = "the cat"
    with pytest.raises(InputError, match=r"is too long for .* \(at most 6\)"):
        m.attribute(prompt, TEXT, method="saliency", show_progress=False)


@pytest.mark.filterwarnings("ignore:input and target together")
def test_other_ends_are_one_line():
    """MPT works out its biases for a number of positions that stands in its configuration only."""
    m = wrapped(built("mpt", **IDS, d_model=16, n_layers=1, n_heads=2, max_seq_len=6))
    with pytest.raises(InputError, match="8 tokens are too many for MptForCausalLM, made for 6"):
        m.attribute(PROMPT, TEXT, method="saliency", show_progress=False)


@pytest.mark.parametrize("kind", OPEN)
def test_others_do_not_end(kind):
    hf = built(kind, **{**IDS, **OPEN[kind]})
    assert longest(hf, 6) == [True, True]
    assert wrapped(hf).wrapped.max_positions() is None


@pytest.mark.parametrize("method", [n for n in methods.names() if not n.startswith("ferret")])
def test_every_method_works_on_texts_run_in_parts_or_says_why_not(method):
    m, info = wrapped(built("llama", **LLAMA, **ROPES["dynamic"])), methods.info(method)
    options = {"method": method, "show_progress": False, **info.meta["trial"]}
    inside = info.meta["family"] == "internals" or "layer" in method or "deeplift" in method
    if "layer" in method:
        options["target_layer"] = "model.layers.0"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if inside:
            with pytest.raises(UnsupportedModelError, match="other rotary frequencies"):
                m.attribute(PROMPT, TEXT, **options)
            m.attribute("the cat", "the cat was old", **options)
        else:
            m.attribute(PROMPT, TEXT, **options)
