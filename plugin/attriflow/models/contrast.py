"""Contrastive inputs: the foil of each example, aligned to its steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from attriflow.errors import InputError
from attriflow.models.base import LanguageModel
from attriflow.types import Contrast, Example

Pairs = Sequence[tuple[int, int]]
Alignments = Sequence[Pairs] | Pairs
"""(target position, contrast position) pairs, for each text or for the only one."""


def add_contrasts(
    model: LanguageModel,
    examples: Sequence[Example],
    sources: Sequence[str] | None,
    targets: Sequence[str] | None,
    alignments: Alignments | None = None,
    skip_special_tokens: bool = False,
) -> list[Example]:
    """Give every example its foil.

    Args:
        model: The wrapped model.
        examples: Encoded examples.
        sources: Contrastive source texts (encoder-decoders), or None for the examples' own.
        targets: Contrastive target texts, or None for the examples' own.
        alignments: See `Alignments`.
        skip_special_tokens: Tokenise without special tokens.
    """
    for name, texts in (("contrast_sources", sources), ("contrast_targets", targets)):
        if texts is not None and len(texts) != len(examples):
            raise InputError(f"{len(examples)} texts are explained but {len(texts)} {name} are given")
    pairs = _per_example(alignments, len(examples))
    out = []
    for i, example in enumerate(examples):
        source = example.source_ids
        if sources is not None:
            source = model.source_ids(sources[i], skip_special_tokens=skip_special_tokens)
        target = example.target_ids
        if targets is not None:
            target = model.target_ids(targets[i], skip_special_tokens=skip_special_tokens)
        if len(target) < 2:
            raise InputError(f"the contrastive target of {example.input_text[:60]!r} is empty")
        contrast = Contrast(
            source_ids=tuple(source), target_ids=tuple(target), positions=align(example, len(target), pairs[i])
        )
        limit = model.max_positions
        if limit is not None and max(len(source), len(target)) > limit:
            raise InputError(
                f"a contrastive text of {max(len(source), len(target))} tokens is too long (at most {limit})"
            )
        out.append(dataclasses.replace(example, contrast=contrast))
    return out


def align(example: Example, length: int, pairs: Pairs = ()) -> tuple[int, ...]:
    """Position in a foil of `length` tokens for each step: the given pairs, one to one from the right elsewhere."""
    given = dict(pairs)
    for own, other in given.items():
        if not (0 <= own < len(example.target) and 0 < other < length):
            raise InputError(
                f"alignment ({own}, {other}) is outside the target ({len(example.target)} tokens) or the contrastive "
                f"target (positions 1 to {length - 1})"
            )
    shift = length - len(example.target)
    # the first token of a sequence is never predicted, so nothing is compared with it
    return tuple(given.get(p, max(1, p + shift)) for p in range(example.start, example.stop))


def _per_example(alignments: Alignments | None, n: int) -> list[Pairs]:
    if alignments is None:
        return [()] * n
    if isinstance(alignments, str):
        raise InputError("contrast_targets_alignments must be lists of (target position, contrast position) pairs")
    nested: list[Any] = [list(a) for a in alignments]
    if nested and all(len(a) == 2 and all(isinstance(x, int) for x in a) for a in nested):
        nested = [nested]
    if len(nested) != n:
        raise InputError(f"{n} texts are explained but {len(nested)} alignments are given")
    return [[(int(a), int(b)) for a, b in one] for one in nested]
