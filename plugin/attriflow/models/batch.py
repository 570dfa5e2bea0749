"""Padded tensors of a few examples: what the model wrappers run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attriflow.types import Contrast, Example

BATCH_TOKENS = 4096
BATCH_EXAMPLES = 32

# Everything is padded on the right: in a causal decoder nothing after a token can reach it, so padding needs neither a
# mask nor shifted positions on the decoder side, whatever the tokenizer's own padding side is.


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Teacher-forced inputs of several examples.

    Attributes:
        source_ids, source_mask: `[batch, source]` encoder ids and mask (1 = token), or None for decoder-only models.
        target_ids: `[batch, target]` decoder inputs: everything but what comes after the last explained prefix.
        target_mask: `[batch, target]`, 1 = token.
        query: `[batch, step]`, the decoder position whose output predicts each step (its prefix's last position).
        step_ids: `[batch, step]`, the token at each step.
        step_mask: `[batch, step]`, False on steps that only pad shorter examples.
    """

    source_ids: Tensor | None
    source_mask: Tensor | None
    target_ids: Tensor
    target_mask: Tensor
    query: Tensor
    step_ids: Tensor
    step_mask: Tensor

    @property
    def size(self) -> int:
        """Number of examples."""
        return self.target_ids.shape[0]

    @property
    def n_steps(self) -> int:
        """Steps of the longest example."""
        return self.query.shape[1]


def pad(rows: Sequence[Sequence[int]], value: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Right-pad id lists: ids `[row, position]` and mask (1 = token)."""
    width = max(1, max(len(r) for r in rows))
    # plain lists: for rows this short several times faster than a tensor per row
    ids = torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], dtype=torch.long)
    lengths = torch.tensor([len(row) for row in rows])
    mask = (torch.arange(width) < lengths[:, None]).long()
    return ids.to(device), mask.to(device)


def collate(examples: Sequence[Example], pad_id: int, device: torch.device, encoder: bool) -> Batch:
    """Pad examples into a `Batch`."""
    return _padded(
        [e.source_ids for e in examples] if encoder else None,
        # the last explained token is never an input of the pass that predicts it
        [e.target_ids[: e.stop - 1] for e in examples],
        [range(e.start, e.stop) for e in examples],
        [e.target_ids[e.start : e.stop] for e in examples],
        pad_id,
        device,
    )


def collate_contrast(contrasts: Sequence[Contrast], pad_id: int, device: torch.device) -> Batch:
    """Pad the foils of a batch; a step reads the position before the token it is compared with."""
    return _padded(
        [c.source_ids for c in contrasts] if contrasts[0].source_ids else None,
        [c.target_ids for c in contrasts],
        [c.positions for c in contrasts],
        [c.ids for c in contrasts],
        pad_id,
        device,
    )


def _padded(
    sources: Sequence[Sequence[int]] | None,
    targets: Sequence[Sequence[int]],
    positions: Sequence[Sequence[int]],
    step_ids: Sequence[Sequence[int]],
    pad_id: int,
    device: torch.device,
) -> Batch:
    """A batch of rows whose steps are the tokens at `positions`, each read one position earlier."""
    target_ids, target_mask = pad(targets, pad_id, device)
    ids, step_mask = pad(step_ids, 0, device)
    query = torch.zeros_like(ids, device="cpu")
    for i, row in enumerate(positions):
        query[i] = row[0] - 1  # padding steps repeat the first position, so that the span of positions stays short
        query[i, : len(row)] = torch.tensor(list(row)) - 1
    source_ids, source_mask = (None, None) if sources is None else pad(sources, pad_id, device)
    return Batch(
        source_ids=source_ids,
        source_mask=source_mask,
        target_ids=target_ids,
        target_mask=target_mask,
        query=query.to(device),
        step_ids=ids,
        step_mask=step_mask.bool(),
    )


def alike(
    lengths: Sequence[int],
    batch_size: int | None,
    *,
    sort: bool = True,
    together: Callable[[int, int], bool] = lambda _one, _other: True,
) -> list[list[int]]:
    """Indices of batches of similar lengths, longest first when sorted; `BATCH_TOKENS` padded tokens unless told.

    `together` says whether two may share a batch.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i]) if sort else list(range(len(lengths)))
    batches: list[list[int]] = []
    width = 0
    for i in order:
        width = max(width, lengths[i])
        last = batches[-1] if batches else None
        limit = batch_size or min(BATCH_EXAMPLES, BATCH_TOKENS // max(1, width))
        if last is None or len(last) >= max(1, limit) or not together(last[0], i):
            batches.append([i])
            width = lengths[i]
        else:
            last.append(i)
    return batches
