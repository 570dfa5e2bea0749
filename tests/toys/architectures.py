"""Every generation architecture of transformers' auto mappings, as small as its configuration lets it be.

A size is recognised by its name, in nested configurations as well; `EXCEPTIONS` has what names do not tell. Of layers
that differ in kind one of each is kept.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

CAUSAL, SEQ2SEQ = "causal", "seq2seq"
ARCHITECTURES = tuple(
    f"{kind}:{name}"
    for kind, names in (
        (CAUSAL, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
        (SEQ2SEQ, MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES),
    )
    for name in names
)
"""One per entry of the mappings of `AutoModelForCausalLM` and `AutoModelForSeq2SeqLM`."""

VOCABULARY = 96
SIZES = {
    VOCABULARY: """vocab_size src_vocab_size tgt_vocab_size decoder_vocab_size vocab_size_per_layer_input
        unpadded_vocab_size t2u_vocab_size unit_hifi_gan_vocab_size char_vocab_size pronunciation_vocab_size
        shape_vocab_size encoder_hash_byte_group_vocab codebook_size""",
    128: """max_position_embeddings n_positions n_ctx max_seq_len max_encoder_position_embeddings model_max_length
        max_decoder_position_embeddings context_length max_source_positions max_target_positions""",
    32: """hidden_size d_model n_embd emb_dim embedding_size embedding_dim word_embed_proj_dim input_embedding_size
        output_embedding_size hidden_dim lru_width hidden_size_global encoder_hidden_size cross_attention_hidden_size
        backbone_hidden_size output_dim attention_hidden_size""",
    48: """intermediate_size moe_intermediate_size shared_expert_intermediate_size moe_shared_expert_intermediate_size
        shared_experts_intermediate_size shared_intermediate_size dense_intermediate_size intermediate_size_mlp
        expert_ffn_hidden_size ffn_hidden_size encoder_ffn_dim decoder_ffn_dim ffn_dim d_ff dim_ff dff d_inner n_inner
        feed_forward_size mlp_dim speech_encoder_intermediate_size t2u_encoder_ffn_dim t2u_decoder_ffn_dim""",
    16: "q_lora_rank kv_lora_rank o_lora_rank router_hidden_size prompt_mid_dim hc_lowrank",
    8: """head_dim d_kv d_head dim_head attention_head_size qk_rope_head_dim qk_nope_head_dim v_head_dim kv_channels
        linear_key_head_dim linear_value_head_dim linear_head_dim index_head_dim swa_head_dim global_head_dim
        ssm_state_size state_size mamba_d_state mamba_d_head mamba_head_dim hidden_size_per_layer_input
        query_pre_attn_scalar chunk_size mamba_chunk_size laurel_rank gated_norm_rank loop_gate_rank
        image_size num_mel_bins n_mels num_filters codebook_dim""",
    4: """num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads
        num_encoder_attention_heads num_decoder_attention_heads attention_heads swa_num_attention_heads index_n_heads
        linear_num_value_heads linear_num_heads num_experts num_local_experts n_routed_experts moe_num_experts
        speech_encoder_attention_heads t2u_encoder_attention_heads t2u_decoder_attention_heads patch_size
        conf_num_attention_heads zero_expert_num time_step_rank mamba_dt_rank""",
    2: """num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers num_encoder_layers depth
        num_decoder_layers num_key_value_heads num_kv_heads swa_num_key_value_heads linear_num_key_heads
        num_experts_per_tok num_experts_per_token moe_topk moe_k num_codebooks speech_encoder_layers
        t2u_encoder_layers t2u_decoder_layers conf_num_hidden_layers num_blocks num_quantizers num_hidden_groups""",
    1: "first_k_dense_replace n_group topk_group num_expert_group n_groups n_shared_experts num_shared_experts",
}
SIZE_OF = {name: value for value, names in SIZES.items() for name in names.split()}
LAYER_COUNTS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")
LAYER_KINDS = ("layer_types", "mlp_layer_types", "layers_block_type", "indexer_types")

ALSO_UNSET = ("head_dim", "num_key_value_heads", "num_experts_per_tok", "n_routed_experts", "num_local_experts")
"""Sizes that are set even where the configuration's default is None."""

_MIXED, _HYBRID = ["linear_attention", "full_attention"], ["linear_attention", "hybrid"]
EXCEPTIONS: dict[str, dict[str, Any]] = {
    "bamba": {"mamba_n_heads": 8, "attn_layer_indices": [1]},
    "codegen": {"rotary_dim": 4},
    "cohere2_moe": {"logit_scale": 1.0},
    "cohere_compass_text": {
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 10000.0} for kind in ("sliding_attention", "full_attention")
        },
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"moe_num_experts": 4},
    },
    "dory": {
        "num_hidden_layers": 3,
        "n_input_layers": 1,
        "n_recurrent_layers": 1,
        "n_output_layers": 1,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "dots1": {"n_shared_experts": 1},
    "dots3_note": {
        "vision_config": {"adapter_in_dim": 32, "adapter_out_dim": 32},
        "audio_config": {"adapter_input_size": 32, "adapter_out_dim": 32},
    },
    "falcon_h1": {"mamba_n_heads": 8, "mamba_d_ssm": 64},
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "intermediate_size": 48,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2,
        "activation_sparsity_pattern": [0.95, 0.0, 0.0, 0.0],
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": 4},
    "granitemoehybrid": {"mamba_n_heads": 8, "layer_types": _MIXED},
    "inkling_text": {"logits_mup_width_multiplier": 1.0},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "led": {"attention_window": 16},
    "pegasus_x": {"block_size": 8, "num_global_tokens": 2},
    "prophetnet": {"decoder_start_token_id": 1},  # the default is padding, which hides all there is to read
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8},
    "moshi": {"codebook_size": 64, "audio_encoder_config": {"codebook_size": 64}},
    "qwen4_exp": {"text_config": "qwen4_exp_text"},
    "qwen4_exp_text": {
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 8,
        "indexer_compress_ratio": 4,
    },
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {
        "axial_pos_embds_dim": [16, 16],
        "axial_pos_shape": [16, 8],
        "attn_layers": ["local", "lsh"],
        "hash_seed": 1,
    },
    "xlm": {"causal": True},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "attention_hidden_size": 64,
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
    },
    "zamba2": {"num_hidden_layers": 4, "layers_block_type": [*_HYBRID, *_HYBRID]},
}
"""Settings of an architecture that its names do not tell; a dict is for a nested configuration."""

NOT_BUILT = {
    "gemma3n": "its vision tower needs the package timm; gemma3n_text is its text side",
    "gemma4_assistant": "drafts for a larger model, whose keys and values it reads",
    "musicgen": "writes sound; transformers does not build it from its configuration",
    "musicgen_melody": "writes sound; transformers does not build it from its configuration",
    "nemo_speechlm": "reads speech",
}
"""Model types that cannot be tried here, and why."""

_IDS = ("_token_id", "_token_index", "_index", "_tok_id")


@dataclass(frozen=True)
class Tiny:
    """A model that was built, with a tokenizer of words that its configuration leaves free."""

    model: Any
    tokenizer: Any


class NotBuiltError(Exception):
    """A model type that cannot be tried here."""


WORDS = "the a red blue cat dog house man was old in on and . ? la casa roja el gato".split()


def build(architecture: str, seed: int = 0, **options: Any) -> Tiny:
    """A tiny model with random weights, in double precision where its forward works in it (options: `from_config`)."""
    kind, name = architecture.split(":")
    if name in NOT_BUILT:
        raise NotBuiltError(NOT_BUILT[name])
    config = tiny_config(name, decoder=kind == CAUSAL)
    torch.manual_seed(seed)
    auto = AutoModelForCausalLM if kind == CAUSAL else AutoModelForSeq2SeqLM
    model = randomise(auto.from_config(config, **options), seed)
    start = getattr(model.config, "decoder_start_token_id", None)
    if model.config.is_encoder_decoder and start is None and model.generation_config.decoder_start_token_id is None:
        ids = (getattr(model.config, f"{name}_token_id", None) for name in ("bos", "pad"))
        model.generation_config.decoder_start_token_id = next((i for i in ids if i is not None), 0)
    return Tiny(_in_double(model), word_tokenizer(model.config))


def tiny_config(name: str, decoder: bool) -> Any:
    """The configuration of a model type with every size made small."""
    cls = CONFIG_MAPPING[name]
    if name == "encoder-decoder":
        side = tiny_config("bert", decoder=False).to_dict()
        return cls.from_encoder_decoder_configs(
            CONFIG_MAPPING["bert"](**side), CONFIG_MAPPING["bert"](**side), decoder_start_token_id=1, pad_token_id=0
        )
    settings = _small(cls(), EXCEPTIONS.get(name, {}))
    if decoder and "is_decoder" in cls().__dict__:
        settings["is_decoder"] = True
    return cls(**settings)


def _small(config: Any, exceptions: dict[str, Any]) -> dict[str, Any]:
    """Settings of a configuration that are other than its defaults."""
    out: dict[str, Any] = {}
    named = inspect.signature(type(config)).parameters  # what is worked out from other settings is no setting
    free = iter(range(VOCABULARY - 1, 0, -1))
    for key, value in config.__dict__.items():
        if key not in named:
            continue
        if hasattr(value, "to_dict"):
            inner = exceptions.get(key, {})
            inner = EXCEPTIONS.get(inner, {}) if isinstance(inner, str) else inner
            out[key] = {"model_type": value.model_type, **_small(value, inner)}
        elif key in SIZE_OF and value is None and key in ALSO_UNSET:
            out[key] = SIZE_OF[key]
        elif key in SIZE_OF and isinstance(value, int) and not isinstance(value, bool):
            out[key] = min(value, SIZE_OF[key])
        elif key.endswith(_IDS) and (isinstance(value, int) and value >= VOCABULARY):
            out[key] = next(free)
        elif key.endswith(_IDS) and isinstance(value, (list, tuple)) and any((v or 0) >= VOCABULARY for v in value):
            out[key] = [next(free)]
    if "kv_lora_rank" in config.__dict__ and "num_key_value_heads" in config.__dict__:
        out["num_key_value_heads"] = SIZE_OF["num_attention_heads"]  # latent attention does not group heads
    out |= _one_layer_of_a_kind(config)
    return {**out, **{k: v for k, v in exceptions.items() if not isinstance(out.get(k), dict)}}


def _one_layer_of_a_kind(config: Any) -> dict[str, Any]:
    """Number and kinds of layers, with every combination of kinds once (at most four)."""
    counts = [c for c in LAYER_COUNTS if isinstance(getattr(config, c, None), int)]
    if not counts:
        return {}
    n = getattr(config, counts[0])
    kinds = {k: v for k in LAYER_KINDS if isinstance(v := config.__dict__.get(k), (list, tuple)) and len(v) == n}
    if not kinds:
        return {}
    rows = list(dict.fromkeys(zip(*kinds.values(), strict=True)))[:4]
    rows = rows if len(rows) > 1 else rows * 2
    return {counts[0]: len(rows), **{k: [row[i] for row in rows] for i, k in enumerate(kinds)}}


def randomise(model: Any, seed: int) -> Any:
    """Weights large enough for inputs to matter; biases and norms away from 0 and 1, which hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.is_floating_point():
                noise = torch.randn(p.shape, generator=generator).to(p.dtype)
                p.copy_(noise * 0.15) if p.ndim > 1 else p.add_(noise * 0.1)
    return model.eval()


def _in_double(model: Any) -> Any:
    """The model in double precision, if its forward takes that."""
    ids = torch.tensor([[5, 6, 7, 8]])
    inputs = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    try:
        with torch.no_grad():
            mask = torch.ones_like(ids)
            found = model.double()(input_ids=ids, attention_mask=mask, **inputs, use_cache=False).logits
    except Exception:
        return model.float()
    return model if found.isfinite().all() else model.float()


def word_tokenizer(config: Any) -> Any:
    """A tokenizer of words, with the special tokens where the configuration has them."""
    special: dict[str, int] = {}
    taken = set(_ids_of(config))
    for name in ("pad", "bos", "eos"):
        value = getattr(config, f"{name}_token_id", None)
        value = value[0] if isinstance(value, (list, tuple)) and value else value
        if isinstance(value, int) and 0 <= value < VOCABULARY:
            special[name] = value
    free = (i for i in range(1, VOCABULARY) if i not in taken)
    for name in ("pad", "eos", "unk"):
        if name not in special:
            special[name] = next(free)
            taken.add(special[name])
    tokens = {name: f"<{'|'.join(n for n in special if special[n] == special[name])}>" for name in special}
    vocabulary = {tokens[name]: special[name] for name in special}
    vocabulary |= dict(zip(WORDS, (i for i in free if i not in special.values()), strict=False))
    found = Tokenizer(models.WordLevel(vocabulary, unk_token=tokens["unk"]))
    found.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=found, **{f"{n}_token": t for n, t in tokens.items()})


def _ids_of(config: Any) -> list[int]:
    """Ids that a configuration, or one inside it, gives a meaning."""
    out: list[int] = []
    for key, value in config.__dict__.items():
        if hasattr(value, "to_dict"):
            out += _ids_of(value)
        elif key.endswith(_IDS):
            out += [v for v in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(v, int)]
    return out
