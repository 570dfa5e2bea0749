"""How much of a batch a call of its model may hold: by memory, and on a CPU by what gains anything."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from attriflow.kernels.plain import shortcuts
from attriflow.models.base import LanguageModel
from attriflow.models.batch import Batch

CHUNK_BYTES = 512 * 2**20
"""Working memory that one chunk of rows or of vector-Jacobian products may take."""

CACHE_BYTES = 2 * 2**20
"""Size of the widest activation up to which calls on a CPU gain from more rows: beyond it, elementwise operations wait
for memory. A graph gains up to twice that, a batch of products up to three times, since each of them traverses the
graph."""

LOGIT_BYTES = 16 * 2**20
"""Size of the logits up to which calls on a CPU gain from more rows; step functions make copies of them."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of calls for one batch.

    Attributes:
        model: That it goes through.
        batch: Of examples; a row is a version of one of them.
    """

    model: LanguageModel
    batch: Batch

    def rows_at_once(
        self, grad: bool = False, products: bool = False, left_out: int = 0, steps: int | None = None
    ) -> int:
        """Sequences that a call (or, with `grad`, a graph; with `products`, a batch of them) may hold.

        Args:
            grad, products: What they are for.
            left_out: Decoder positions that the sequences do not have.
            steps: How many steps are read; all when None.
        """
        if not shortcuts() or not self.model.checked.works("rows"):
            return self.batch.size
        rows = CHUNK_BYTES // self.bytes_per_row(grad=grad or products)
        width = sum(ids.shape[1] for ids in (self.batch.target_ids, self.batch.source_ids) if ids is not None)
        width = max(1, width - left_out)
        gain = 3 if products else 2 if grad else 1
        if gain > 1 and self.batch.source_ids is not None:
            gain -= 1  # two stacks, one of them with a second attention, hold more per token
        rows = min(rows, tokens_per_call(self.model, gain) // width)
        if not (grad or products) and self.model.device.type == "cpu":
            read = max(1, self.batch.n_steps if steps is None else steps)
            rows = min(rows, LOGIT_BYTES // (read * self.model.vocab_size * torch.finfo(self.model.dtype).bits / 8))
        return max(1, int(rows))

    def products_at_once(self) -> int:
        """Products of the batch that may be in one layer together, for graphs that are dear to traverse."""
        if not shortcuts():
            return 1
        width = max(ids.shape[1] for ids in (self.batch.target_ids, self.batch.source_ids) if ids is not None)
        item = torch.finfo(self.model.dtype).bits / 8
        return max(1, int(2 * CHUNK_BYTES // (item * self.batch.size * width * self.model.hidden_size * 16)))

    def attention_bytes(self) -> float:
        """Size of the attention weights of one layer."""
        width = max(ids.shape[1] for ids in (self.batch.target_ids, self.batch.source_ids) if ids is not None)
        return self.batch.size * self.model.shape.heads * width**2 * torch.finfo(self.model.dtype).bits / 8

    def bytes_per_row(self, grad: bool) -> float:
        """Rough peak memory of one sequence in a call: activations (kept per layer for gradients) and logits."""
        width = self.batch.target_ids.shape[1] + (
            0 if self.batch.source_ids is None else self.batch.source_ids.shape[1]
        )
        item = torch.finfo(self.model.dtype).bits / 8
        shape = self.model.shape
        layers = shape.layers if grad else 1
        activations = width * self.model.hidden_size * 16 * layers + shape.heads * width * width * 2
        vocabulary = self.batch.n_steps * self.model.vocab_size * 4
        return max(1.0, item * (activations + vocabulary))


def tokens_per_call(model: LanguageModel, gain: float) -> float:
    """Tokens beyond which a call on a CPU only gets slower; no limit elsewhere."""
    if model.device.type != "cpu":
        return float("inf")
    return max(512, gain * CACHE_BYTES // (4 * model.hidden_size * (torch.finfo(model.dtype).bits // 8)))
