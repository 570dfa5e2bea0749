"""Tiny random-weight models of many architectures, and a linear one whose attributions are known."""

from __future__ import annotations

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForSeq2SeqLM

SMALL = {
    "vocab_size": 200,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,  # with the usual 0.02 a tiny model hardly listens to its inputs
}
GROUPED = {**SMALL, "num_key_value_heads": 2}
SEQ2SEQ = {
    "vocab_size": 200,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 128,
    "decoder_start_token_id": 2,
    "scale_embedding": True,
    "init_std": 0.1,
}
CONFIGS = {
    "gpt2": (
        "gpt2",
        {
            "vocab_size": 200,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 128,
            "initializer_range": 0.1,
        },
    ),
    "llama-gqa": ("llama", GROUPED),
    "qwen3": ("qwen3", {**GROUPED, "head_dim": 8}),
    # the pad row of an embedding is zero, and a path that starts at zero meets the singularity of RMSNorm
    "gemma2": ("gemma2", {**GROUPED, "head_dim": 8, "pad_token_id": 199}),
    "opt": (
        "opt",
        {
            "vocab_size": 200,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 64,
            "max_position_embeddings": 128,
            "word_embed_proj_dim": 32,
            "init_std": 0.1,
        },
    ),
    "bart": ("bart", SEQ2SEQ),
    "marian": ("marian", {**SEQ2SEQ, "pad_token_id": 1, "decoder_start_token_id": 1, "eos_token_id": 2}),
    "t5": (
        "t5",
        {
            "vocab_size": 200,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 64,
            "num_layers": 2,
            "num_heads": 4,
            "decoder_start_token_id": 0,
            "pad_token_id": 199,
            "feed_forward_proj": "gated-gelu",
        },
    ),
}
# An architecture whose attention does not go through transformers' interface.
OUTSIDE = {
    "bloom": ("bloom", {"vocab_size": 200, "hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.1})
}
ENCODER_DECODERS = ("bart", "marian", "t5")


def build(name: str, seed: int = 0, **changes):
    """A float64 model with random weights in evaluation mode."""
    kind, options = {**CONFIGS, **OUTSIDE}[name]
    torch.manual_seed(seed)
    config = CONFIG_MAPPING[kind](**{**options, **changes})
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = auto.from_config(config).double().eval()
    for name_, parameter in model.named_parameters():
        if parameter.ndim == 1:  # biases and norm scales start at 0 and 1, which hides mistakes
            torch.manual_seed(len(name_))
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model
