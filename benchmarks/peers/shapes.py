"""Models with random weights and a word-level tokenizer, saved so that transformers 4.57 and 5 read the same.

``python shapes.py toy FOLDER`` writes one. Every word is one token: "w17" has the id 17.
"""

from __future__ import annotations

import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Shape:
    """Sizes of a model, all that the count of multiply-adds needs."""

    name: str
    layers: int
    width: int
    heads: int
    vocabulary: int
    encoder_layers: int = 0
    positions: int = 1024

    @property
    def encoder_decoder(self) -> bool:
        """Whether there is an encoder."""
        return self.encoder_layers > 0


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("gpt2-small", layers=12, width=768, heads=12, vocabulary=50257),
        Shape("bart-base", layers=6, width=768, heads=12, vocabulary=50265, encoder_layers=6),
        Shape("toy", layers=4, width=128, heads=4, vocabulary=1000),
        Shape("toy-bart", layers=4, width=128, heads=4, vocabulary=1000, encoder_layers=4),
    )
}
SPECIAL = {True: ["<s>", "<pad>", "</s>", "<unk>", "<mask>"], False: ["<|endoftext|>"]}
FIRST = 10
"""The first id that stands for a word, after all special tokens."""


def texts(shape: Shape, prompt: int, generated: int, seed: int = 0) -> tuple[str, str]:
    """Input and target text with the given numbers of tokens (special tokens of encoder-decoders counted)."""
    draw = random.Random(f"{shape.name}/{prompt}/{generated}/{seed}")

    def words(count: int) -> list[str]:
        return [f"w{draw.randrange(FIRST, shape.vocabulary)}" for _ in range(count)]

    if shape.encoder_decoder:  # <s> and </s> come on top on both sides, and both are explained on the target side
        return " ".join(words(max(1, prompt - 2))), " ".join(words(max(1, generated - 2)))
    first = words(prompt)
    return " ".join(first), " ".join([*first, *words(generated)])


def save(shape: Shape, folder: Path) -> None:
    """Write weights, configuration and tokenizer."""
    import torch
    from transformers import BartConfig, BartForConditionalGeneration, GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    # wider than the usual start of training, where tokens hardly mix and scores are of rounding's size
    if shape.encoder_decoder:
        config = BartConfig(
            vocab_size=shape.vocabulary,
            d_model=shape.width,
            encoder_layers=shape.encoder_layers,
            decoder_layers=shape.layers,
            encoder_attention_heads=shape.heads,
            decoder_attention_heads=shape.heads,
            encoder_ffn_dim=4 * shape.width,
            decoder_ffn_dim=4 * shape.width,
            max_position_embeddings=shape.positions,
            decoder_start_token_id=2,
            forced_eos_token_id=None,
            init_std=shape.width**-0.5,
        )
        model = BartForConditionalGeneration(config)
    else:
        config = GPT2Config(
            vocab_size=shape.vocabulary,
            n_embd=shape.width,
            n_layer=shape.layers,
            n_head=shape.heads,
            n_positions=shape.positions,
            bos_token_id=0,
            eos_token_id=0,
            initializer_range=shape.width**-0.5,
        )
        model = GPT2LMHeadModel(config)
    for name, parameter in model.named_parameters():  # biases that are zero and norms that are one hide mistakes
        if parameter.ndim == 1:
            torch.manual_seed(len(name))
            parameter.data += 0.05 * torch.randn_like(parameter)
    model.eval().save_pretrained(folder)
    save_tokenizer(shape, folder)


def save_tokenizer(shape: Shape, folder: Path) -> None:
    """A fast tokenizer as two JSON files, in the form that both major versions of transformers write and read."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = SPECIAL[shape.encoder_decoder]
    vocabulary = {token: i for i, token in enumerate(special)}
    vocabulary |= {f"w{i}": i for i in range(len(special), shape.vocabulary)}
    unknown = "<unk>" if shape.encoder_decoder else special[0]
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(special)
    named = {"bos_token": special[0], "eos_token": special[0], "unk_token": unknown}
    if shape.encoder_decoder:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
        )
        named |= {"eos_token": "</s>", "pad_token": "<pad>", "mask_token": "<mask>"}
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        **named,
        "clean_up_tokenization_spaces": False,
        "model_max_length": shape.positions,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
    (folder / "special_tokens_map.json").write_text(json.dumps(named, indent=2))


if __name__ == "__main__":
    save(SHAPES[sys.argv[1]], Path(sys.argv[2]))
