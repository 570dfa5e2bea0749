"""Reuse of prefix keys and values: what stands before the first changed token is not computed again.

In a causal decoder a change at position p leaves every hidden state before p as it was. The keys and values of the
unchanged input are kept once, and changed versions run only from their first changed position on.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attriflow.engine.bound import Bound
from attriflow.models.base import Rows

SHORTEST = 4
"""Prefixes of fewer tokens are not worth a cache."""


@dataclass(frozen=True)
class Prefix:
    """The unchanged batch, and versions of it that run from their first change on.

    Attributes:
        bound: The batch, and what its values are.
        whole: Keys and values of every layer on the unchanged batch, `[batch, head, position, dim]`.
    """

    bound: Bound
    whole: Any

    def cache(self, length: int, repeat: int) -> Any:
        """A fresh cache of the first `length` positions for `repeat` versions of the batch."""
        cache = copy.copy(self.whole)
        cache.layers = [copy.copy(layer) for layer in self.whole.layers]  # a new one would begin with uploads
        for layer in cache.layers:
            layer.keys = layer.keys[:, :, :length].repeat(repeat, 1, 1, 1)
            layer.values = layer.values[:, :, :length].repeat(repeat, 1, 1, 1)
        return cache

    def values(self, changed: Mapping[str, Any]) -> tuple[Tensor, int] | None:
        """The objective on changed versions of the batch, where they begin alike and that saves work.

        Args:
            changed: Fields of `Rows`, for versions one after the other.

        Returns:
            `[version, batch, step]` and how many positions no version changes; None where the versions have to run as
            a whole. Steps that see no change keep the value that they have on the unchanged input.
        """
        length = self._unchanged(changed)
        if length < SHORTEST:
            return None
        bound, embeds = self.bound, changed["target_embeds"]
        repeat, steps = embeds.shape[0] // bound.batch.size, bound.reads_after(length)
        if steps.start == steps.stop:
            return bound.values().expand(repeat, -1, -1), length
        found, affected, rows = self.rerun(length, embeds)
        if not bound.objective.stepwise:  # may look at all logits of a version
            logits = bound.base().logits.repeat(repeat, 1, 1)
            logits[:, steps] = torch.where(affected.repeat(repeat, 1).unsqueeze(-1), found, logits[:, steps])
            moved = bound.objective(bound.forward_of(logits, rows=rows))
            return bound.of_steps(moved).unflatten(0, (repeat, -1)), length
        moved = bound.objective(bound.forward_of(found, steps, rows)).unflatten(0, (repeat, -1))
        values = bound.token_values().expand(repeat, -1, -1)
        values = torch.cat([values[:, :, : steps.start], torch.where(affected, moved, values[:, :, steps])], -1)
        return bound.of_steps(values.flatten(0, 1)).unflatten(0, (repeat, -1)), length

    def _unchanged(self, changed: Mapping[str, Any]) -> int:
        """How many positions no version changes; 0 when unknown."""
        embeds = changed.get("target_embeds")
        if embeds is None or set(changed) != {"target_embeds"}:
            return 0
        same = self.bound.embeddings("target")
        differs = (embeds.unflatten(0, (-1, self.bound.batch.size)) != same).flatten(3).any(-1)
        places = differs.any(0).any(0).nonzero()
        return int(places[0]) if len(places) else embeds.shape[1]

    def rerun(self, length: int, embeds: Tensor) -> tuple[Tensor, Tensor, Rows]:
        """Run changed versions of the batch from a position on.

        Args:
            length: Positions before this one are as in the unchanged batch.
            embeds: `[version * batch, position, hidden]`.

        Returns:
            Logits of the steps from the first on that may change for some example, `[version * batch, step, vocab]`;
            for which examples each of them may change, bool `[batch, step]`; the rows that were run.
        """
        bound, repeat = self.bound, embeds.shape[0] // self.bound.batch.size
        steps = bound.reads_after(length)
        affected = bound.read.query[:, steps] >= length
        query, places = ((q[:, steps] - length).clamp(min=0) for q in (bound.read.query, bound.read.host.query))
        ids = bound.ids("target")[:, length:].repeat(repeat, 1)
        past = (self.cache(length, repeat), length)
        query = query.repeat(repeat, 1)
        rows = Rows(target_ids=ids, target_embeds=embeds[:, length:], query=query, places=places, past=past)
        return bound.logits(rows), affected, rows

    def agrees(self) -> bool:
        """Whether the unchanged batch, run from its middle on, gives the logits that it gives as a whole."""
        bound = self.bound
        length = bound.ids("target").shape[1] // 2
        found, affected, _ = self.rerun(length, bound.embeddings("target"))
        whole = bound.base().logits
        tolerance = (1e-4 if bound.dtype == bound.model.dtype else 3e-2) * float(whole.abs().max())
        steps = bound.reads_after(length)
        return torch.allclose(found[affected], whole[:, steps][affected], atol=tolerance, rtol=0)


def record(bound: Bound) -> Prefix | None:
    """The pass over the unchanged batch, with a cache; None where the architecture keeps more than keys and values."""
    from transformers import DynamicCache

    cache = DynamicCache()
    ids = bound.ids("target")
    try:
        forward = bound.run(bound.rows(past=(cache, 0)))
        shapes = [layer.keys.shape[2] for layer in cache.layers]
        fits = bool(shapes) and set(shapes) == {ids.shape[1]}
    except Exception:
        return None  # recurrent states, caches of their own: such models run whole sequences
    if not fits:
        return None
    bound.offer_base(forward)
    return Prefix(bound, cache)
