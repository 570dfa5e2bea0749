"""Padded tensors of a few examples: what the model wrappers run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from attriflow.errors import UnsupportedModelError
from attriflow.kernels.transfer import sent
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
        planned: The batch as the host made it, where the tensors are elsewhere.
    """

    source_ids: Tensor | None
    source_mask: Tensor | None
    target_ids: Tensor
    target_mask: Tensor
    query: Tensor
    step_ids: Tensor
    step_mask: Tensor
    planned: Batch | None = None

    @property
    def host(self) -> Batch:
        """The batch on the host, which knows its numbers without waiting for a device."""
        return self.planned or self

    @property
    def size(self) -> int:
        """Number of examples."""
        return self.target_ids.shape[0]

    @property
    def n_steps(self) -> int:
        """Steps of the longest example."""
        return self.query.shape[1]

    def present(self, block: str) -> Tensor:
        """Bool `[batch, position]`: tokens of a block, not padding."""
        mask = self.source_mask if block == "source" else self.target_mask
        if mask is None:
            raise UnsupportedModelError(f"a decoder-only model has no {block} side")
        return mask.bool()

    def visible(self, block: str) -> Tensor:
        """Bool `[batch, step, position]`: which tokens of a block a step can see."""
        seen = self.present(block).unsqueeze(1) & self.step_mask.unsqueeze(-1)
        if block == "source":
            return seen
        return seen & (torch.arange(seen.shape[-1], device=seen.device) <= self.query.unsqueeze(-1))

    def to(self, device: torch.device) -> Batch:
        """The batch on a device, sent in one piece."""
        if device.type == "cpu":
            return self
        given = {f.name: value for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)}
        moved: dict[str, Any] = dict(zip(given, sent(list(given.values()), device), strict=True))
        return replace(self, **moved, planned=self)


def pad(rows: Sequence[Sequence[int]], value: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Right-pad id lists: ids `[row, position]` and mask (1 = token)."""
    width = max(1, max(len(r) for r in rows))
    # plain lists: for rows this short several times faster than a tensor per row
    ids = torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], dtype=torch.long)
    lengths = torch.tensor([len(row) for row in rows])
    mask = (torch.arange(width) < lengths[:, None]).long()
    if device is not None:
        ids, mask = sent([ids, mask], device)
    return ids, mask


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
    target_ids, target_mask = pad(targets, pad_id)
    ids, step_mask = pad(step_ids, 0)
    query = torch.zeros_like(ids)
    for i, row in enumerate(positions):
        query[i] = row[0] - 1  # padding steps repeat the first position, so that the span of positions stays short
        query[i, : len(row)] = torch.tensor(list(row)) - 1
    source_ids, source_mask = (None, None) if sources is None else pad(sources, pad_id)
    batch = Batch(
        source_ids=source_ids,
        source_mask=source_mask,
        target_ids=target_ids,
        target_mask=target_mask,
        query=query,
        step_ids=ids,
        step_mask=step_mask.bool(),
    )
    return batch.to(device)


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
