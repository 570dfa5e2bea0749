"""Models that do not read text, or not text alone, are refused with one line; pictures may be left out if they can."""

import pytest
import torch
from transformers import (
    CONFIG_MAPPING,
    LlavaForConditionalGeneration,
    Pix2StructForConditionalGeneration,
    Speech2TextForConditionalGeneration,
    WhisperForConditionalGeneration,
)
from words import PROMPT, TEXT, WORDS, stirred, word_tokenizer

import attriflow
from attriflow.errors import UnsupportedModelError

IDS = {"vocab_size": len(WORDS), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
PAIR = {
    **IDS,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "max_source_positions": 20,
    "max_target_positions": 20,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}


def pix2struct():
    text = {"vocab_size": len(WORDS), "hidden_size": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    seen = {"hidden_size": 16, "d_kv": 8, "d_ff": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "seq_len": 16}
    config = CONFIG_MAPPING["pix2struct"](text_config=text, vision_config={**seen, "patch_embed_hidden_size": 16})
    return Pix2StructForConditionalGeneration(config)


OTHERS = {
    "input_features": lambda: WhisperForConditionalGeneration(CONFIG_MAPPING["whisper"](**PAIR, num_mel_bins=8)),
    "input_features ": lambda: Speech2TextForConditionalGeneration(
        CONFIG_MAPPING["speech_to_text"](**PAIR, input_feat_per_channel=8, conv_channels=16)
    ),
    "flattened_patches": pix2struct,
}


@pytest.mark.parametrize("needed", OTHERS)
def test_other_inputs_are_refused(needed):
    with pytest.raises(UnsupportedModelError, match=f"does not read text alone: its input is '{needed.strip()}'"):
        attriflow.load_model(OTHERS[needed](), tokenizer=word_tokenizer(), device="cpu")


def test_further_inputs_are_refused():
    """As those of BLIP-2, which cannot do without a picture."""
    hf = stirred(llava())
    forward = type(hf).forward

    class Demanding(type(hf)):
        def forward(self, pixel_values, input_ids=None, **options):
            return forward(self, input_ids=input_ids, pixel_values=pixel_values, **options)

    hf.__class__ = Demanding
    with pytest.raises(UnsupportedModelError, match="it needs 'pixel_values', too"):
        attriflow.load_model(hf, tokenizer=word_tokenizer(), device="cpu")


def llava():
    text = {"vocab_size": len(WORDS), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": None}
    parts = {
        "text_config": CONFIG_MAPPING["llama"](**text),
        "vision_config": CONFIG_MAPPING["clip_vision_model"](**VISION),
    }
    config = CONFIG_MAPPING["llava"](**parts, image_token_index=len(WORDS) - 1)
    return LlavaForConditionalGeneration(config)


def test_pictures_may_be_left_out():
    """LLaVA on text alone: the gradients of its own forward."""
    hf = stirred(llava())
    m = attriflow.load_model(hf, tokenizer=word_tokenizer(), device="cpu")
    (out,) = m.attribute(PROMPT, TEXT, method="saliency", attributed_fn="probability", show_progress=False)
    example = m.encode(PROMPT, TEXT)[0]
    for j, end in enumerate(range(example.start, example.stop)):
        leaf = hf.get_input_embeddings()(torch.tensor([example.target_ids[:end]])).detach().requires_grad_(True)
        value = hf(inputs_embeds=leaf).logits[0, -1].softmax(-1)[example.target_ids[end]]
        wanted = torch.autograd.grad(value, leaf)[0][0].norm(dim=-1)
        torch.testing.assert_close(out.scores[j, :end].float(), wanted, atol=1e-5, rtol=0)
