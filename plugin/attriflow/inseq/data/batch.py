"""Encodings and batches under Inseq's names."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(kw_only=True)
class BatchEncoding:
    """Tokenised texts: ids and masks `[text, token]`, raw tokens, and ids that stand for absent tokens."""

    input_ids: Tensor
    attention_mask: Tensor
    input_tokens: list[list[str]] | None = None
    baseline_ids: Tensor | None = None

    def __len__(self) -> int:
        """How many texts."""
        return len(self.input_ids)

    @property
    def num_sequences(self) -> int:
        """How many texts."""
        return len(self.input_ids)

    def to(self, device: Any) -> BatchEncoding:
        """The same on another device."""
        baseline = None if self.baseline_ids is None else self.baseline_ids.to(device)
        ids, mask = self.input_ids.to(device), self.attention_mask.to(device)
        return dataclasses.replace(self, input_ids=ids, attention_mask=mask, baseline_ids=baseline)


@dataclass(kw_only=True)
class DecoderOnlyBatch:
    """What a decoder-only model reads, `[row, token(, width)]`."""

    input_ids: Tensor
    attention_mask: Tensor
    input_embeds: Tensor | None = None


@dataclass(kw_only=True)
class EncoderDecoderBatch:
    """What an encoder-decoder reads on its two sides."""

    sources: DecoderOnlyBatch
    targets: DecoderOnlyBatch
