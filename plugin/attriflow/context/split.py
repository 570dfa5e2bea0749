"""Where a generated output context ends and the current output begins."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from attriflow.context.settings import ContextSettings, ContextTexts
from attriflow.errors import InputError
from attriflow.types import Example

if TYPE_CHECKING:
    from attriflow.model import AttributionModel

Ask = Callable[[str, "str | None"], str]
"""`(question, proposed answer)` -> the user's answer."""

_SENTENCE = re.compile(r"(?<=[.?!,;:)\]}])\s+")


def split_output(
    model: AttributionModel,
    example: Example,
    generated: str,
    separator: str,
    text: ContextTexts,
    settings: ContextSettings,
    ask: Ask | None,
) -> tuple[int, int]:
    """End of the context and beginning of the current output in a generated text.

    The template's separator decides where it occurs once, then a single border between punctuated parts, then (for
    encoder-decoders) which part of the source the output tokens attend to.
    """
    found = _by_separator(generated, separator) or _by_punctuation(generated)
    if found is None and model.is_encoder_decoder and text.input_context is not None:
        found = _by_attention(model, example, generated, text, settings)
    if settings.handle_output_context_strategy == "manual":
        if ask is None:
            raise InputError(
                "handle_output_context_strategy='manual' asks the user, which is not possible here; use 'auto', or "
                "give output_context_text"
            )
        proposed = None if found is None else generated[: found[0]]
        answer = ask(f"Which part of {generated!r} is the output context?", proposed).strip()
        if not generated.startswith(answer):
            raise InputError(f"the output context must be the beginning of {generated!r}, not {answer!r}")
        found = (len(answer), _after(generated, len(answer), separator))
    if found is None:
        raise InputError(
            f"cannot tell output context and current output apart in {generated!r}: give output_context_text, or use "
            "handle_output_context_strategy='manual'"
        )
    return found


def _after(text: str, border: int, separator: str) -> int:
    """Where the text goes on after a separator or spaces."""
    if separator.strip() and text.startswith(separator.strip(), _skip(text, border)):
        border = _skip(text, border) + len(separator.strip())
    return _skip(text, border)


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _by_separator(text: str, separator: str) -> tuple[int, int] | None:
    mark = separator.strip() or separator
    if not mark or text.count(mark) != 1:
        return None
    at = text.index(mark)
    border, begin = len(text[:at].rstrip()), _skip(text, at + len(mark))
    return (border, begin) if border and begin < len(text) else None


def _by_punctuation(text: str) -> tuple[int, int] | None:
    borders = list(_SENTENCE.finditer(text.rstrip()))
    return (borders[0].start(), borders[0].end()) if len(borders) == 1 else None


def _by_attention(
    model: AttributionModel, example: Example, generated: str, text: ContextTexts, settings: ContextSettings
) -> tuple[int, int] | None:
    """The border at which attention moves from the source's context to the rest of it."""
    from attriflow.context.settings import fill

    _, spans = fill(settings.input_of(True), text.input_current, text.input_context)
    start, stop = spans["context"]
    (found,) = model.attribute_examples([example], "attention")
    weights = found.scores.nan_to_num().mean((-1, -2))
    real = [i for i, t in enumerate(example.source) if not t.special and t.start is not None]
    context = [i for i in real if start <= (example.source[i].start or 0) < stop]
    if not context or len(context) == len(real):
        return None
    share = weights[:, context].sum(1) / weights[:, real].sum(1).clamp(min=1e-12)
    shift = len(example.target_text) - len(generated)
    tokens = [(j, t) for j, t in enumerate(found.targets) if t.start is not None and t.start >= shift]
    if len(tokens) < 2:
        return None
    values = [float(share[j]) for j, _ in tokens]
    best = max(range(1, len(tokens)), key=lambda k: sum(values[:k]) + sum(1 - v for v in values[k:]))
    border, begin = tokens[best - 1][1].end, tokens[best][1].start
    return None if border is None or begin is None else (border - shift, begin - shift)
