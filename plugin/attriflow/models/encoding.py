"""Texts to examples, each for itself: what is wrong with one of them names it, and leaves the others alone."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attriflow.errors import InputError, NothingToExplainError
from attriflow.kernels.annotations import check_value
from attriflow.kernels.devices import same_draws
from attriflow.models.base import LanguageModel
from attriflow.models.locks import RANDOM
from attriflow.texts.inputs import given_texts, restricted
from attriflow.texts.segments import Segments, read_segments
from attriflow.texts.target_spans import TargetSpans, for_texts, with_spans
from attriflow.types import Example, SpanValue

Plan = Callable[[Sequence[Example]], Sequence[Sequence[int]]]
"""Indices of the examples that are generated together."""


def encode(
    model: LanguageModel,
    inputs: Sequence[str],
    generated_texts: str | Sequence[str] | None,
    segments: Segments | None,
    *,
    generation_args: Mapping[str, Any] | None,
    plan: Plan,
    positions: tuple[int | None, int | None],
    skip_special_tokens: bool,
    seed: int,
    continuation: bool = False,
    leave_out: bool = False,
    spans: tuple[TargetSpans | None, SpanValue] = (None, "sum"),
) -> list[Example]:
    """Tokenise texts with their targets, or generate these.

    Args:
        model: The wrapped model.
        inputs: Texts and rendered chats.
        plan: Which inputs are generated together.
        positions: First and last (exclusive) decoder position to explain.
        leave_out: A text without anything to explain becomes an example without steps, with a warning, unless all are
            so; else it is an error.
        spans: What of the targets is explained together (see `texts.target_spans`), and how its values combine.
        generated_texts, segments, generation_args, skip_special_tokens, seed, continuation: See
            `AttributionModel.encode`.

    Raises:
        InputError: A text that cannot be used, named by its index where there are several.
    """
    check_value("generation_args", generation_args, Mapping | None)
    check_value("skip_special_tokens", skip_special_tokens, bool)
    for name, position in zip(("attr_pos_start", "attr_pos_end"), positions, strict=True):
        check_value(name, position, int | None)
    parts = read_segments(inputs, segments)
    targets = None if generated_texts is None else given_texts("generated_texts", generated_texts)
    if targets is not None and len(targets) != len(inputs):
        raise InputError(f"{len(inputs)} input texts but {len(targets)} generated texts")
    if targets is not None and generation_args:
        raise InputError("generation_args have no use with generated_texts: the target is given")
    special = {"skip_special_tokens": skip_special_tokens}
    reasons: dict[int, NothingToExplainError] = {}

    def tried(i: int, made: Callable[[], Example]) -> Example:
        """An example, or what is left of it."""
        try:
            return made()
        except NothingToExplainError as error:
            reasons[i] = error
            return error.rest or Example(target=(), start=0, stop=0, input_text=str(inputs[i]))
        except InputError as error:
            raise InputError(_named(i, inputs, error)) from error

    def forced(i: int) -> Example:
        target = None if targets is None else [targets[i]]
        return model.encode([inputs[i]], target, continuation=continuation, **special)[0]

    examples = [tried(i, functools.partial(forced, i)) for i in range(len(inputs))]
    owners = list(range(len(inputs)))
    if targets is None:
        examples, owners = _generated(model, inputs, examples, reasons, generation_args or {}, plan, seed, special)
    examples = [dataclasses.replace(e, segments=parts[i]) for e, i in zip(examples, owners, strict=True)]
    examples = [
        e if i in reasons else tried(i, functools.partial(restricted, e, *positions))
        for e, i in zip(examples, owners, strict=True)
    ]
    wanted, value = spans
    if wanted is not None:
        check_value("span_value", value, SpanValue)
        each = for_texts(wanted, len(inputs))
        examples = [
            e if i in reasons else tried(i, functools.partial(with_spans, e, each[i], value))
            for e, i in zip(examples, owners, strict=True)
        ]
    _say(reasons, inputs, all(e.n_steps == 0 for e in examples) or not leave_out)
    return examples


def _generated(
    model: LanguageModel,
    inputs: Sequence[str],
    prompts: Sequence[Example],
    reasons: dict[int, NothingToExplainError],
    arguments: Mapping[str, Any],
    plan: Plan,
    seed: int,
    special: Mapping[str, bool],
) -> tuple[list[Example], list[int]]:
    """Generated examples and the inputs they belong to, several for one where so many sequences are asked for."""
    good = [i for i in range(len(inputs)) if i not in reasons]
    found: dict[int, list[Example]] = {i: [prompts[i]] for i in reasons}
    # a text alone draws what it draws among others; the same text again draws anew
    earlier: Counter[str] = Counter()
    seeds = []
    for text in inputs:
        seeds.append(seed + earlier[text])
        earlier[text] += 1
    with model.frozen(), RANDOM, same_draws(model.devices):
        for batch in plan([prompts[i] for i in good]):
            index = [good[k] for k in batch]
            texts = [inputs[i] for i in index]
            new = model.generate(texts, generation_args=arguments, seeds=[seeds[i] for i in index], **special)
            found.update(zip(index, new, strict=True))
    for i in good:
        if not all(e.n_steps for e in found[i]):
            reasons[i] = NothingToExplainError(f"the model generated nothing for {inputs[i][:60]!r}")
    return [e for i in range(len(inputs)) for e in found[i]], [i for i in range(len(inputs)) for _ in found[i]]


def _named(i: int, inputs: Sequence[str], error: Exception) -> str:
    return f"text {i}: {error}" if len(inputs) > 1 else str(error)


def _say(reasons: Mapping[int, NothingToExplainError], inputs: Sequence[str], fail: bool) -> None:
    if not reasons:
        return
    first, error = min(reasons.items(), key=lambda item: item[0])
    if fail:
        raise NothingToExplainError(_named(first, inputs, error), error.rest)
    lines = "; ".join(_named(i, inputs, reasons[i]) for i in sorted(reasons))
    warnings.warn(
        f"no steps for {len(reasons)} of {len(inputs)} texts, the others are explained: {lines}", stacklevel=5
    )
