"""What stands for an absent token: the ids and embeddings of baselines."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from attriflow.engine.bound import Bound
from attriflow.errors import InputError, UnknownNameError, unknown
from attriflow.models.base import LanguageModel

Baseline = Literal["unk", "pad", "mask", "eos", "bos", "zero", "mean"] | int
"""What stands for an absent token: its name, no embedding or the mean one, or a token id."""
TokenBaseline = Literal["unk", "pad", "mask", "eos", "bos"] | int
"""A `Baseline` that is a token."""
NAMES: tuple[str, ...] = get_args(get_args(Baseline)[0])


def baseline_id(model: LanguageModel, baseline: str | int) -> int:
    """The id whose embedding replaces a token.

    "unk" falls back to the pad token, then to EOS, for tokenizers that have none (byte-level BPE): every tokenizer has
    a default baseline, and the one used is recorded with the attribution's options.
    """
    size = model.vocab_size
    if isinstance(baseline, int) and not isinstance(baseline, bool):
        if not 0 <= baseline < size:
            raise InputError(f"baseline id {baseline} is outside the vocabulary (0 to {size - 1})")
        return baseline
    if baseline not in NAMES:
        raise UnknownNameError(unknown("baseline", baseline, [*NAMES, "a token id"]))
    names = ("unk", "pad", "eos") if baseline == "unk" else (baseline,)
    for name in names:
        if (value := model.special_id(name)) is not None:
            return value
    raise InputError(f"the tokenizer of {model.name} has no {baseline} token to use as baseline")


def baseline_ids(bound: Bound, block: str, baseline: str | int) -> Tensor:
    """Token ids that stand for absent tokens, `[batch, position]`; those that `baseline_embeddings` keeps are kept."""
    ids = bound.ids(block)
    return torch.where(_kept(bound, block), ids, baseline_id(bound.model, baseline))


def _kept(bound: Bound, block: str) -> Tensor:
    """Tokens that are their own baseline, `[batch, position]`."""
    ids = bound.ids(block)
    keep = torch.zeros_like(ids, dtype=torch.bool)
    if not bound.include_eos_baseline and bound.model.tokenizer.eos_token_id is not None:
        keep = ids == bound.model.tokenizer.eos_token_id
    if bound.model.is_encoder_decoder and block == "target":
        keep[:, 0] = True
    return keep


def baseline_embeddings(bound: Bound, block: str, baseline: str | int) -> Tensor:
    """Baseline embeddings of a block, `[batch, position, hidden]`.

    Every token is replaced but two: EOS (unless `include_eos_baseline`), which carries the end of the text rather than
    content, and the decoder start token of encoder-decoders. They are their own baseline and get no credit.
    """
    ids = bound.ids(block)
    keep = _kept(bound, block)
    original = bound.embeddings(block)
    if baseline == "zero":
        replaced = torch.zeros_like(original)
    elif baseline == "mean":
        mean = bound.model.embedding_table(block).mean(0)
        replaced = mean.to(original.dtype).expand_as(original)
    else:
        replaced = bound.model.embed(torch.full_like(ids, baseline_id(bound.model, baseline)), block)
    return torch.where(keep.unsqueeze(-1), original, replaced).detach()
