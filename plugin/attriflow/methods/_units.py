"""What is perturbed together: the units of a text (`attriflow.texts.units`), or the caller's groups of positions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attriflow.engine import Engine
from attriflow.errors import InputError
from attriflow.texts.units import numbered, unit_numbers
from attriflow.types import Example, Token


def check_groups(groups: Sequence[Sequence[int]] | None) -> None:
    """Raise `InputError` unless `groups` is None or lists of positions, each position in one list only."""
    if groups is None:
        return
    if any(i < 0 for g in groups for i in g):
        raise InputError(f"groups must be lists of positions in the attribution's inputs, not {groups!r}"[:200])
    flat = [i for g in groups for i in g]
    twice = sorted({i for i in flat if flat.count(i) > 1})
    if twice:
        raise InputError(f"input {twice[0]} is in more than one place of groups")


def unit_index(engine: Engine, block: str, unit: str) -> Tensor:
    """Index of the unit each token of a block belongs to, `[batch, position]` on the host; -1 on padding.

    See `attriflow.texts.units.unit_numbers`.
    """
    return _padded(engine, block, [unit_numbers(e, _read(e, block), unit) for e in engine.examples])


def joint_index(
    engine: Engine, unit: str, groups: Sequence[Sequence[int]] | None = None
) -> tuple[dict[str, Tensor], list[int]]:
    """The same with one numbering over the blocks of an engine, source units first.

    Args:
        engine: The batch.
        unit: See `unit_index`.
        groups: In place of `unit`: positions in the attribution's inputs that belong together; others are single.

    Returns:
        Block -> `[batch, position]` on the host (-1 on padding), and the number of units of each example.
    """
    rows: dict[str, list[list[int]]] = {b: [] for b in engine.blocks}
    counts = []
    for example in engine.examples:
        tokens = [_read(example, b) for b in engine.blocks]
        if groups is None:
            parts = [unit_numbers(example, t, unit) for t in tokens]
            offsets = [0, *(max(p) + 1 for p in parts)]
            parts = [[n + offsets[i] for n in part] for i, part in enumerate(parts)]
        else:
            joined = _grouped(example, sum(len(t) for t in tokens), groups, "target" in engine.blocks)
            parts = [joined[: len(tokens[0])], joined[len(tokens[0]) :]]
        for block, part in zip(engine.blocks, parts, strict=False):
            rows[block].append(part)
        counts.append(max(n for part in parts for n in part) + 1)
    return {b: _padded(engine, b, r) for b, r in rows.items()}, counts


def _read(example: Example, block: str) -> tuple[Token, ...]:
    """Tokens of a block that the model reads; the last explained one is never an input."""
    return example.source if block == "source" else example.target[: example.stop - 1]


def _padded(engine: Engine, block: str, rows: Sequence[Sequence[int]]) -> Tensor:
    index = torch.full(engine.ids(block).shape, -1, dtype=torch.long)
    for row, numbers in enumerate(rows):
        index[row, : len(numbers)] = torch.tensor(numbers, dtype=torch.long)
    return index


def _grouped(example: Example, n: int, groups: Sequence[Sequence[int]], decoder: bool) -> list[int]:
    """Unit of each of `n` inputs that are read, where groups of positions go together."""
    n_inputs = n + decoder  # the last decoder token is an input of the attribution that no step reads
    owner = {i: number for number, group in enumerate(groups) for i in group}
    if owner and max(owner) >= n_inputs:
        allowed = f"inputs 0 to {n_inputs - 1}"
        raise InputError(f"groups name input {max(owner)}, but {example.input_text[:60]!r} has {allowed}")
    return numbered([("group", owner[i]) if i in owner else ("single", i) for i in range(n)])
