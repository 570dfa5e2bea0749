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


def rerun(engine: Engine, prefix: Prefix, length: int, embeds: Tensor) -> tuple[Tensor, Tensor, Rows]:
    """Run changed versions of the batch from a position on.

    Args:
        engine: Of the batch.
        prefix: Of the unchanged batch.
        length: Positions before this one are as in the unchanged batch.
        embeds: `[version * batch, position, hidden]`.

    Returns:
        Logits of the steps from the first on that may change for some example, `[version * batch, step, vocab]`; for
        which examples each of them may change, bool `[batch, step]`; the rows that were run.
    """
    batch, repeat = engine.batch, embeds.shape[0] // engine.batch.size
    moved = batch.query[:, moved_steps(engine, length)]
    affected, query = moved >= length, (moved - length).clamp(min=0).repeat(repeat, 1)
    rows = Rows(target_embeds=embeds[:, length:], query=query, past=(prefix.cache(length, repeat), length))
    logits = engine.model.run(rows)
    engine.counter.forward_rows += embeds.shape[0]
    engine.counter.forward_calls += 1
    return logits, affected, rows


def agrees(engine: Engine, prefix: Prefix) -> bool:
    """Whether the unchanged batch, run from its middle on, gives the logits that it gives as a whole."""
    length = engine.ids("target").shape[1] // 2
    steps = moved_steps(engine, length)
    found, affected, _ = rerun(engine, prefix, length, engine.embeddings("target"))
    whole = engine.base().logits
    tolerance = (1e-4 if engine.dtype == engine.model.dtype else 3e-2) * float(whole.abs().max())
    return torch.allclose(found[affected], whole[:, steps][affected], atol=tolerance, rtol=0)


def moved_steps(engine: Engine, length: int) -> slice:
    """Steps that see something at or after a position, for some example of the batch."""
    moved = (engine.batch.query >= length).any(0).nonzero()
    return slice(int(moved[0]) if len(moved) else engine.batch.n_steps, engine.batch.n_steps)


def rescored(engine: Engine, prefix: Prefix, length: int, embeds: Tensor) -> Tensor:
    """The objective on changed versions `[version * batch, position, hidden]`, `[version, batch, step]`.

    Steps that see no change keep the value that they have on the unchanged input.
    """
    batch, repeat = engine.batch, embeds.shape[0] // engine.batch.size
    values = engine.values().expand(repeat, -1, -1)
    steps = moved_steps(engine, length)
    if steps.start == steps.stop:
        return values
    found, affected, rows = rerun(engine, prefix, length, embeds)
    if not engine.objective.stepwise:  # may look at all logits of a version
        logits = engine.base().logits.repeat(repeat, 1, 1)
        logits[:, steps] = torch.where(affected.repeat(repeat, 1).unsqueeze(-1), found, logits[:, steps])
        return engine.objective(engine.forward_of(logits, rows=rows)).unflatten(0, (repeat, batch.size))
    changed = engine.objective(engine.forward_of(found, steps, rows)).unflatten(0, (repeat, batch.size))
    kept, before = values[:, :, : steps.start], values[:, :, steps]
    return torch.cat([kept, torch.where(affected, changed, before)], -1)
