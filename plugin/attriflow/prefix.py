"""Reuse of prefix keys and values: what stands before the first changed token is not computed again.

In a causal decoder a change at position p leaves every hidden state before p as it was. The keys and values of the
unchanged input are kept once, and changed versions run only from their first changed position on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attriflow.models.base import Rows
from attriflow.types import Forward

if TYPE_CHECKING:
    from attriflow.engine import Engine

SHORTEST = 4
"""Prefixes of fewer tokens are not worth a cache."""

WORTHWHILE = 4e9
"""Multiply-adds of all versions from which on shorter runs save more than additional calls cost."""


def worthwhile(engine: Engine, n: int) -> bool:
    """Whether `n` changed versions of the batch are enough work to run them in parts of their own."""
    config = engine.model.hf.config.get_text_config()
    layers = int(getattr(config, "num_hidden_layers", 12))
    tokens = n * engine.batch.target_ids.numel()
    return tokens * layers * 12 * engine.model.hidden_size**2 >= WORTHWHILE


@dataclass
class Prefix:
    """Keys and values of every layer on the unchanged batch, `[batch, head, position, dim]`."""

    keys: list[Tensor]
    values: list[Tensor]

    def cache(self, length: int, repeat: int) -> Any:
        """A fresh cache of the first `length` positions for `repeat` versions of the batch."""
        from transformers import DynamicCache

        cache = DynamicCache()
        for layer, (k, v) in enumerate(zip(self.keys, self.values, strict=True)):
            cache.update(k[:, :, :length].repeat(repeat, 1, 1, 1), v[:, :, :length].repeat(repeat, 1, 1, 1), layer)
        return cache


def record(engine: Engine) -> Prefix | None:
    """The pass over the unchanged batch, with a cache; None where the architecture keeps more than keys and values."""
    from transformers import DynamicCache

    cache = DynamicCache()
    ids = engine.ids("target")
    try:
        forward = engine.run(engine.rows(past=(cache, 0)))
        keys = [layer.keys for layer in cache.layers]
        values = [layer.values for layer in cache.layers]
        fits = bool(keys) and all(k.shape[2] == ids.shape[1] for k in keys)
    except torch.OutOfMemoryError:
        return None
    except (AttributeError, TypeError, ValueError, NotImplementedError, RuntimeError, IndexError):
        return None  # recurrent states, caches of their own: such models run whole sequences
    if not fits:
        return None
    engine.offer_base(forward, {})
    return Prefix(keys, values)


def first_change(engine: Engine, changed: Mapping[str, Any]) -> int:
    """The first position at which any of the changed versions differs from the unchanged input; 0 when unknown."""
    embeds = changed.get("target_embeds")
    if embeds is None or set(changed) != {"target_embeds"}:
        return 0
    differs = (embeds.unflatten(0, (-1, engine.batch.size)) != engine.embeddings("target")).flatten(3).any(-1)
    places = differs.any(0).any(0).nonzero()
    return int(places[0]) if len(places) else embeds.shape[1]


def rerun(engine: Engine, prefix: Prefix, length: int, embeds: Tensor) -> Forward:
    """A forward of changed versions `[version * batch, position, hidden]` that starts at position `length`."""
    batch, repeat = engine.batch, embeds.shape[0] // engine.batch.size
    moved = (batch.query >= length).any(0).nonzero()
    first = int(moved[0]) if len(moved) else batch.n_steps
    base = engine.base()
    logits = base.logits.repeat(repeat, 1, 1)
    rows = Rows(query=batch.query, past=(None, length))
    if first < batch.n_steps:
        query = (batch.query[:, first:] - length).clamp(min=0).repeat(repeat, 1)
        rows = Rows(
            target_embeds=embeds[:, length:],
            query=query,
            past=(prefix.cache(length, repeat), length),
        )
        affected = (batch.query[:, first:] >= length).repeat(repeat, 1)
        found = engine.model.run(rows)
        if affected.all():
            logits[:, first:] = found
        else:
            logits[:, first:][affected] = found[affected]
        engine.counter.forward_rows += embeds.shape[0]
        engine.counter.forward_calls += 1
    return engine.forward_of(logits, rows=rows)
