"""`model.generate` with the caller's arguments, ids in and ids out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from attriflow.models.base import LanguageModel

DEFAULT_NEW_TOKENS = 20


def generated_ids(model: LanguageModel, ids: Tensor, mask: Tensor, arguments: Mapping[str, Any]) -> list[list[int]]:
    """Run `generate` and return the ids of every sequence it gives back.

    Without a length in `arguments` or in the model's generation config, at most 20 tokens are generated.
    """
    options = dict(arguments)
    options.pop("return_dict_in_generate", None)
    config = getattr(model.hf, "generation_config", None)
    has_length = any(getattr(config, k, None) is not None for k in ("max_new_tokens",)) or (
        getattr(config, "max_length", None) not in (None, 20)
    )
    if not {"max_new_tokens", "max_length", "generation_config"} & set(options) and not has_length:
        options["max_new_tokens"] = DEFAULT_NEW_TOKENS
    if getattr(config, "pad_token_id", None) is None and "pad_token_id" not in options:
        options["pad_token_id"] = model.pad_id  # otherwise transformers warns at every call
    out = model.hf.generate(ids, attention_mask=mask, **options)
    sequences = getattr(out, "sequences", out)
    rows: list[list[int]] = sequences.tolist()
    return rows


def cut_at_eos(ids: Sequence[int], eos: Set[int], pad: int) -> list[int]:
    """New ids up to and with the first EOS; without one, trailing padding is dropped (by place, never by text)."""
    for i, token in enumerate(ids):
        if token in eos:
            return list(ids[: i + 1])
    end = len(ids)
    while end > 0 and ids[end - 1] == pad:
        end -= 1
    return list(ids[:end])


def beginning_with(model: LanguageModel, prefix: str) -> dict[str, Tensor]:
    """Arguments of `generate` with which an encoder-decoder goes on after the beginning of a target."""
    ids = without_end(model.target_ids(prefix), model.eos_ids)
    return {"decoder_input_ids": torch.tensor([ids], device=model.device)}


def without_end(ids: Sequence[int], eos: Set[int]) -> list[int]:
    """Ids without EOS tokens at their end; the first one stays."""
    ids = list(ids)
    while len(ids) > 1 and ids[-1] in eos:
        ids.pop()
    return ids
