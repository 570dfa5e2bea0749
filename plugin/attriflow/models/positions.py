"""How far a model's positions reach, and rotary positions whose frequencies depend on how long a text is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_SPARE = 8
"""Rows of a table of positions before its first one and after its last."""


def trained_lengths(config: Any) -> list[int]:
    """Lengths that a configuration gives for texts, whatever their names there."""
    known = [getattr(config, "max_position_embeddings", None)]
    named = (v for k, v in vars(config).items() if k.startswith("max_") and ("position" in k or "seq" in k))
    return [n for n in (*known, *named) if isinstance(n, int) and not isinstance(n, bool) and n > 0]


def table_length(part: nn.Module, lengths: list[int], tokens: nn.Module) -> int | None:
    """Longest text that a model, or a side of one, has positions for; None where nothing ends.

    Positions end where they are rows of a table (learned or computed) or of a stored mask. Rotary and relative ones do
    not, nor do tables that grow when a longer text comes.

    Args:
        part: The model or side.
        lengths: What the configuration calls lengths.
        tokens: The embeddings of tokens, whose rows are none of positions.
    """
    found = []
    for module in part.modules():
        if module is tokens or hasattr(module, "make_weight") or hasattr(module, "make_weights"):
            continue
        if isinstance(module, nn.Embedding):
            first = getattr(module, "offset", None)
            if not isinstance(first, int):  # counted from the pad token's id on
                first = 0 if module.padding_idx is None else module.padding_idx + 1
            rows = module.num_embeddings
            found += [rows - first for n in lengths if n <= rows <= n + first + _SPARE]
            continue
        for table in module.buffers(recurse=False):
            square = table.ndim == 4 and table.shape[-1] == table.shape[-2]
            if square or (table.ndim == 2 and table.is_floating_point()):
                found += [n for n in lengths if n == table.shape[-2]]
    return min(found, default=None)


@dataclass(frozen=True)
class Rope:
    """Rotary frequencies that are others in longer texts: "dynamic" for each length, "longrope" from one length on.

    What a step reads must not depend on what comes after it, so steps beyond `length` are run apart (see `apart`).

    Attributes:
        modules: That hold the frequencies.
        length: Up to it, all texts have the same.
        each: Whether every length beyond has its own.
    """

    modules: tuple[nn.Module, ...]
    length: int
    each: bool

    @classmethod
    def of(cls, hf: nn.Module) -> Rope | None:
        """Those of a model, or None."""
        modules, lengths, each = [], [], False
        for module in hf.modules():
            kinds = getattr(module, "rope_type", None)
            kinds = set(kinds.values()) if isinstance(kinds, Mapping) else {kinds}
            dynamic = any(isinstance(kind, str) and "dynamic" in kind for kind in kinds)
            if dynamic:
                lengths.append(int(module.original_max_seq_len))  # type: ignore[arg-type]
            if "longrope" in kinds:
                lengths.append(min(_originals(module.config)))
            if dynamic or "longrope" in kinds:
                modules.append(module)
                each |= dynamic
        return cls(tuple(modules), min(lengths), each) if modules else None

    def forget(self) -> None:
        """Have the next pass work out its frequencies anew: those of the longest text so far are kept otherwise."""
        for module in self.modules:
            for name in [n for n in vars(module) if n.endswith("max_seq_len_cached")]:
                setattr(module, name, 0)

    def reached(self, query: Tensor) -> bool:
        """Whether some step `[row, step]` reads a text with frequencies of its own."""
        return int(query.max()) >= self.length

    def apart(self, query: Tensor) -> Iterator[tuple[int, Tensor]]:
        """The lengths at which steps `[row, step]` have to be run, each with the steps, bool `[row, step]`."""
        beyond = (query + 1).clamp(min=self.length)
        ends = beyond.unique().tolist() if self.each else [self.length, int(beyond.max())]
        for end in dict.fromkeys(int(e) for e in ends):
            chosen = beyond == end if self.each or end == self.length else beyond > self.length
            if bool(chosen.any()):
                yield int(query[chosen].max()) + 1, chosen


def _originals(config: Any) -> list[int]:
    parameters = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    groups = [parameters, *(v for v in parameters.values() if isinstance(v, Mapping))]
    name = "original_max_position_embeddings"
    found = [g[name] for g in groups if g.get(name)]
    own = getattr(config, name, None)
    return [int(n) for n in found] or [int(own or config.max_position_embeddings)]


def scattered(parts: list[tuple[Tensor, Tensor]], like: Tensor) -> Tensor:
    """Values `[chosen, vocab]` of steps, bool `[row, step]`, put together: `[row, step, vocab]`."""
    first = parts[0][0]
    out = first.new_zeros(*like.shape, first.shape[-1])
    for values, chosen in parts:
        out = out.index_put(torch.where(chosen.to(out.device)), values)
    return out
