"""Models of known sizes with random weights, and random token ids to explain: no tokenizer, no text, no download.

A benchmark on them needs no file, and one on a GPU gets weights in the precision and on the device it asks for without
a copy elsewhere.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from attriflow.model import AttributionModel
from attriflow.models.causal import CausalLM
from attriflow.models.encoder_decoder import EncoderDecoder
from attriflow.types import Contrast, Example, Segment, Token

FIRST = 10
"""Smallest id that stands for a word; those below may be special."""
START = 2
"""The token that every decoder sequence of an encoder-decoder begins with."""


class NoTokenizer:
    """Ids only: there is no text."""

    pad_token_id = eos_token_id = bos_token_id = None
    unk_token_id = 0
    all_special_ids = ()

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [str(i) for i in ids]

    def decode(self, ids: list[int], **_: object) -> str:
        return " ".join(map(str, ids))


@dataclass(frozen=True)
class Shape:
    """Sizes of a model.

    Attributes:
        kind: "gpt2", "bart", "llama" or "qwen2".
        feed_forward: Width inside the feed-forward blocks; 4 times the width when 0.
        key_value_heads: Heads of keys and values (llama, qwen2); as many as heads when 0.
    """

    kind: str
    layers: int
    width: int
    heads: int
    vocabulary: int
    feed_forward: int = 0
    key_value_heads: int = 0
    positions: int = 4096


SHAPES = {
    "toy": Shape("gpt2", layers=4, width=128, heads=4, vocabulary=1000),
    "toy-bart": Shape("bart", layers=4, width=128, heads=4, vocabulary=1000),
    "gpt2-small": Shape("gpt2", layers=12, width=768, heads=12, vocabulary=50257),
    "bart-base": Shape("bart", layers=6, width=768, heads=12, vocabulary=50265),
    "qwen2-6-layers": Shape("qwen2", 6, 896, 14, 32000, feed_forward=4864, key_value_heads=2, positions=32768),
    "llama-1b": Shape("llama", 16, 2048, 32, 128256, feed_forward=8192, key_value_heads=8),
    "llama-8b": Shape("llama", 32, 4096, 32, 128256, feed_forward=14336, key_value_heads=8),
}


def configuration(shape: Shape) -> PretrainedConfig:
    """Configuration of a model; weights are wide enough for tokens to mix."""
    inside, deviation = shape.feed_forward or 4 * shape.width, shape.width**-0.5
    if shape.kind == "gpt2":
        return GPT2Config(
            vocab_size=shape.vocabulary,
            n_embd=shape.width,
            n_layer=shape.layers,
            n_head=shape.heads,
            n_inner=inside,
            n_positions=shape.positions,
            bos_token_id=0,
            eos_token_id=0,
            initializer_range=deviation,
        )
    if shape.kind in ("llama", "qwen2"):
        return (LlamaConfig if shape.kind == "llama" else Qwen2Config)(
            vocab_size=shape.vocabulary,
            hidden_size=shape.width,
            intermediate_size=inside,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.key_value_heads or shape.heads,
            max_position_embeddings=shape.positions,
            initializer_range=deviation,
        )
    return BartConfig(
        vocab_size=shape.vocabulary,
        d_model=shape.width,
        encoder_layers=shape.layers,
        decoder_layers=shape.layers,
        encoder_attention_heads=shape.heads,
        decoder_attention_heads=shape.heads,
        encoder_ffn_dim=inside,
        decoder_ffn_dim=inside,
        max_position_embeddings=shape.positions,
        decoder_start_token_id=START,
        forced_eos_token_id=None,
        init_std=deviation,
    )


CLASSES: dict[str, type[PreTrainedModel]] = {
    "gpt2": GPT2LMHeadModel,
    "llama": LlamaForCausalLM,
    "qwen2": Qwen2ForCausalLM,
    "bart": BartForConditionalGeneration,
}


def random_model(
    shape: Shape, name: str = "random", device: str = "cpu", dtype: torch.dtype = torch.float32
) -> AttributionModel:
    """A model with random weights, made on its device and in its precision."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            hf = CLASSES[shape.kind](configuration(shape))
    finally:
        torch.set_default_dtype(before)
    hf = hf.to(device=device, dtype=dtype).eval().requires_grad_(False)
    wrapper = EncoderDecoder if shape.kind == "bart" else CausalLM
    return AttributionModel(wrapper(hf, NoTokenizer(), name))


def random_examples(shape: Shape, prompt: int, target: int, batch: int, seed: int = 0) -> Iterator[list[Example]]:
    """Batches without end, never the same twice: `prompt` input tokens and `target` explained ones each."""
    draw = random.Random(seed)

    def tokens(count: int) -> list[int]:
        return [draw.randrange(FIRST, shape.vocabulary) for _ in range(count)]

    while True:
        yield [_example(tokens(prompt), tokens(target), shape.kind == "bart") for _ in range(batch)]


def _example(prompt: list[int], target: list[int], encoder_decoder: bool) -> Example:
    given = [START] if encoder_decoder else prompt
    return Example(
        source=_tokens(prompt, "source") if encoder_decoder else (),
        target=_tokens(given, "prompt") + _tokens(target, "generated"),
        start=len(given),
        stop=len(given) + len(target),
    )


def _tokens(ids: list[int], segment: Segment) -> tuple[Token, ...]:
    return tuple(Token(text=str(i), id=i, segment=segment) for i in ids)


def with_foil(example: Example, other: Example) -> Example:
    """An example whose foil is another one of the same lengths."""
    foil = Contrast(
        source_ids=tuple(other.source_ids),
        target_ids=tuple(other.target_ids),
        positions=tuple(range(other.start, other.stop)),
    )
    return replace(example, contrast=foil)
