"""Leaving parts of an input out, all of them or, from coarse to fine, those that promise most."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from attriflow.engine import Engine
from attriflow.engine.baselines import Baseline
from attriflow.methods._units import unit_index


def effects(engine: Engine, block: str, n: int, hidden: Callable[[int, int], Tensor], baseline: Baseline) -> Tensor:
    """The objective minus what is left of it without parts of a block, `[part, batch, step]`.

    Args:
        engine: The batch.
        block: The block.
        n: Number of parts, in the order of the first position that they hold.
        hidden: For parts `start:stop`, which positions they hold, bool `[part, batch, position]`.
        baseline: What stands in their place.
    """
    original, absent = engine.embeddings(block), engine.baseline_embeddings(block, baseline)

    def changes(start: int, stop: int) -> dict[str, Tensor]:
        replaced = torch.where(hidden(start, stop).unsqueeze(-1), absent, original)
        return {f"{block}_embeds": replaced.flatten(0, 1)}

    effect = engine.values() - engine.rescore(n, changes, in_order=True)
    # a part that is its own baseline has no effect at all, not one of rounding's size
    changed = (hidden(0, n) & (absent != original).any(-1)).any(-1, keepdim=True)
    return torch.where(changed, effect, 0.0)


def closer(rounds: Sequence[tuple[Engine, str]], block: str, keep: int, baseline: Baseline) -> Tensor:
    """Effects of units, `[batch, step, position]`, of those only that stand in the best units of the round before.

    Every step has units of its own: the `keep` of largest absolute effect of those that it still looks at. What it does
    not look at in the last round has 0 (AttriBoT, arXiv 2411.15102: hierarchical attribution, proxy model pruning).

    Args:
        rounds: Who leaves out, and what together; the last one's effects are returned.
        block: The block.
        keep: Units that are kept of every round but the last.
        baseline: What stands in place of what is left out.
    """
    batch = rounds[-1][0].batch.host
    wanted = batch.visible(block) & batch.step_mask.unsqueeze(-1)  # [batch, step, position]
    found = torch.zeros(wanted.shape)
    for number, (engine, unit) in enumerate(rounds):
        index = unit_index(engine, block, unit)  # [batch, position]
        units, n_units = index.unsqueeze(1).expand_as(wanted), int(index.max()) + 1
        empty = torch.zeros((*wanted.shape[:2], n_units + 1))
        seen = empty.scatter_add(2, units % (n_units + 1), wanted.to(empty.dtype))[..., :n_units] > 0
        order = _in_turn(seen.any(1))
        if not order.shape[1]:
            return found.to(engine.model.device)
        effect = _of_units(engine, block, index, order, n_units, baseline)
        if number == len(rounds) - 1:
            found = torch.where(wanted, effect.gather(2, units.clamp(min=0)), 0.0)
            break
        best = effect.abs().masked_fill(~seen, -1.0).argsort(dim=-1, descending=True, stable=True)[..., :keep]
        kept = torch.zeros_like(seen).scatter(2, best, True)
        wanted = wanted & kept.gather(2, units.clamp(min=0))
    return found.to(rounds[-1][0].model.device)


def _in_turn(chosen: Tensor) -> Tensor:
    """The units of bool `[batch, unit]` that a step looks at, `[batch, turn]`; the last one again in shorter rows."""
    counts = chosen.sum(1)
    turn = torch.arange(int(counts.max())).expand(len(chosen), -1)
    order = (~chosen).to(torch.int8).argsort(dim=1, stable=True)
    return order.gather(1, torch.minimum(turn, (counts.unsqueeze(1) - 1).clamp(min=0)))


def _of_units(engine: Engine, block: str, index: Tensor, order: Tensor, n_units: int, baseline: Baseline) -> Tensor:
    """Effects of the units in `order`, `[batch, step, unit]` on the host; 0 for others."""
    device = engine.model.device
    there, turns = index.to(device), order.to(device)

    def hidden(start: int, stop: int) -> Tensor:
        return there == turns[:, start:stop].T.unsqueeze(-1)

    effect = effects(engine, block, order.shape[1], hidden, baseline).cpu().permute(1, 2, 0)
    out = effect.new_zeros((*effect.shape[:2], n_units))
    return out.scatter(2, order.unsqueeze(1).expand_as(effect), effect)
