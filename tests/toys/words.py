"""A tokenizer of words and texts of them, for models whose own tokenizers are of no interest."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WORDS = [
    "<pad>",
    "<s>",
    "</s>",
    "<unk>",
    *"the a red blue cat dog house man was old in on and . la casa roja el gato".split(),
]
PROMPT, TEXT = "the red cat in the house", "the red cat in the house was old ."
SOURCE, TARGET = "the red house and the old man", "la casa roja ."


def word_tokenizer():
    t = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    t.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=t, **named)


@torch.no_grad()
def stirred(hf, seed=0):
    """The model with weights so large that it listens to its input, in evaluation mode."""
    numbers = torch.Generator().manual_seed(seed)
    for p in hf.parameters():
        if p.is_floating_point():
            noise = torch.randn(p.shape, generator=numbers).to(p.dtype)
            p.copy_(0.15 * noise) if p.ndim > 1 else p.add_(0.1 * noise)
    return hf.eval()
