"""Contrastive inputs: the foil of each example, aligned to its steps."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any, Literal

from attriflow.errors import InputError, check_choice
from attriflow.models.base import LanguageModel
from attriflow.models.offload import weight_of
from attriflow.texts.alignment import align_tokens, filled
from attriflow.texts.inputs import given_texts
from attriflow.texts.segments import with_reply
from attriflow.types import Contrast, Example

Pairs = Sequence[tuple[int, int]]
Alignments = Literal["auto"] | Sequence[Pairs | Literal["auto"]] | Pairs
"""(target position, contrast position) pairs, for each text or for the only one; or "auto" for one or all texts."""


def add_contrasts(
    model: LanguageModel,
    inputs: Sequence[str],
    examples: Sequence[Example],
    sources: str | Sequence[str] | None,
    targets: str | Sequence[str] | None,
    alignments: Alignments | None = None,
    skip_special_tokens: bool = False,
) -> list[Example]:
    """Give every example its foil.

    Args:
        model: The wrapped model.
        inputs: Texts and rendered chats that the examples were made of.
        examples: Encoded examples.
        sources: Contrastive source texts, or None for the examples' own. For decoder-only models these are prompts:
            the example's own continuation follows them, token by token.
        targets: Contrastive target texts (of a chat, the reply will do), or None for the examples' own.
        alignments: See `Alignments`.
        skip_special_tokens: Tokenise without special tokens.
    """
    sources = None if sources is None else given_texts("contrast_sources", sources)
    targets = None if targets is None else given_texts("contrast_targets", targets)
    if targets is not None and not model.is_encoder_decoder and len(targets) == len(inputs):
        targets = [with_reply(prompt, text) for prompt, text in zip(inputs, targets, strict=True)]
    for name, texts in (("contrast_sources", sources), ("contrast_targets", targets)):
        if texts is not None and len(texts) != len(examples):
            raise InputError(f"{len(examples)} texts are explained but {len(texts)} {name} are given")
    if sources is not None and targets is not None and not model.is_encoder_decoder:
        raise InputError(
            "for decoder-only models give either contrast_targets (whole texts) or contrast_sources (other prompts for "
            "the same continuation)"
        )
    pairs = _per_example(alignments, len(examples))
    out = []
    for i, example in enumerate(examples):
        source = None if sources is None else model.source_ids(sources[i], skip_special_tokens=skip_special_tokens)
        target = None if targets is None else model.target_ids(targets[i], skip_special_tokens=skip_special_tokens)
        out.append(dataclasses.replace(example, contrast=make_contrast(model, example, source, target, pairs[i])))
    return out


def add_foil(
    model: LanguageModel,
    example: Example,
    *,
    source: str | None = None,
    target: str | None = None,
    alignment: Pairs | Literal["auto"] = (),
) -> Example:
    """One example with a foil whose target may be a continuation only, as the targets of a data set are.

    For decoder-only models the foil is the contrastive prompt (or the example's own) with the contrastive continuation
    (or the example's own ids).
    """
    if model.is_encoder_decoder or target is None:
        ids = None if source is None else model.source_ids(source)
        target_ids = None if target is None else model.target_ids(target)
        return dataclasses.replace(example, contrast=make_contrast(model, example, ids, target_ids, alignment))
    prompt = example.input_text if source is None else source
    (foil,) = model.encode([prompt], [target], continuation=True)
    return dataclasses.replace(example, contrast=make_contrast(model, example, None, foil.target_ids, alignment))


def make_contrast(
    model: LanguageModel,
    example: Example,
    source: Sequence[int] | None,
    target: Sequence[int] | None,
    pairs: Pairs | Literal["auto"] = (),
) -> Contrast:
    """The foil of one example from ids (None: the example's own); see `add_contrasts`."""
    prompt: Sequence[int] = ()
    if source is not None and not model.is_encoder_decoder:
        prompt, source = source, ()
        target = [*prompt, *example.target_ids[example.prompt_length :]]
    source = example.source_ids if source is None else source
    target = example.target_ids if target is None else target
    if len(target) < 2:
        raise InputError(f"the contrastive target of {example.input_text[:60]!r} is empty")
    sides = {"source": source, "target": target} if model.is_encoder_decoder else {"target": target}
    for block, ids in sides.items():
        limit = model.max_positions(block)
        if limit is not None and len(ids) > limit:
            raise InputError(f"a contrastive text of {len(ids)} tokens is too long (at most {limit})")
    positions = _auto(model, example, target) if pairs == "auto" else align(example, len(target), pairs)
    return Contrast(source_ids=tuple(source), target_ids=tuple(target), positions=positions)


def align(example: Example, length: int, pairs: Pairs = ()) -> tuple[int, ...]:
    """Position in a foil of `length` tokens for each step: the given pairs, one to one from the right elsewhere."""
    given = dict(pairs)
    for own, other in given.items():
        if not (0 <= own < len(example.target) and 0 <= other < length):
            raise InputError(
                f"alignment ({own}, {other}) is outside the target (positions 0 to {len(example.target) - 1}) or the "
                f"contrastive target (positions 0 to {length - 1})"
            )
        if other == 0 and example.start <= own < example.stop:
            raise InputError(f"alignment ({own}, 0) compares with the first token of a text, which is never predicted")
    shift = length - len(example.target)
    # the first token of a sequence is never predicted, so nothing is compared with it
    return tuple(given.get(p, max(1, p + shift)) for p in range(example.start, example.stop))


def check_foils(examples: Sequence[Example], name: str) -> None:
    """Warn where a difference of two tokens after one input can only be 0."""
    for example in examples:
        foil = example.contrast
        if foil is not None and foil.ids == tuple(example.target_ids[example.start : example.stop]):
            warnings.warn(
                f"'{name}' compares every token of {example.target_text[:60]!r} with itself and is 0 everywhere: give "
                "contrast_targets that differ, or contrast_force_inputs=True to compare what follows the two inputs",
                stacklevel=3,
            )


def _auto(model: LanguageModel, example: Example, foil: Sequence[int]) -> tuple[int, ...]:
    """Positions by the likeness of tokens."""
    tokens = [token.text for token in model.tokens(foil)]
    own = [token.text for token in example.target]
    found = align_tokens(example.target_ids, foil, own, tokens, weight_of(model.embedding("target")))
    return tuple(filled(found, len(foil))[example.start : example.stop])


def _per_example(alignments: Alignments | None, n: int) -> list[Pairs | Literal["auto"]]:
    if alignments is None:
        return [()] * n
    if isinstance(alignments, str):
        check_choice("contrast_targets_alignments", alignments, ["auto"])
        return ["auto"] * n
    nested: list[Any] = [list(a) if isinstance(a, Sequence) and not isinstance(a, str) else a for a in alignments]
    if nested and all(isinstance(a, list) and len(a) == 2 and all(isinstance(x, int) for x in a) for a in nested):
        nested = [nested]
    if len(nested) != n:
        raise InputError(f"{n} texts are explained but {len(nested)} alignments are given")
    return [_pairs(one) for one in nested]


def _pairs(one: Any) -> Pairs | Literal["auto"]:
    if isinstance(one, str):
        check_choice("contrast_targets_alignments", one, ["auto"])
        return "auto"
    try:
        return [(int(a), int(b)) for a, b in one]
    except (TypeError, ValueError):
        raise InputError(
            "contrast_targets_alignments must be 'auto' or lists of (target position, contrast position) pairs, "
            f"not {one!r}"
        ) from None
