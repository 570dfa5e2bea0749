"""From texts to two encoded examples that end in the same ids: one with context, one without.

Places in texts are found by character offsets, never by counting tokens of separately tokenised parts, and the ids of
the current output are the same in both examples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attriflow.context.settings import CONTEXT, CURRENT, ContextSettings, ContextTexts, fill
from attriflow.context.split import Ask, split_output
from attriflow.errors import InputError
from attriflow.models.generation import beginning_with, without_end
from attriflow.texts.tokens import decode
from attriflow.types import Example, Token

if TYPE_CHECKING:
    from attriflow.model import AttributionModel

Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two encodings of one output.

    Attributes:
        texts: What was given; output texts as generated where they were not.
        contextual, contextless: Their steps are the tokens of the current output.
        steps: The steps that count: tokens of the text, no special tokens.
        input_context, output_context: Places of the context tokens in `contextual.source` or `contextual.target` (the
            input context of decoder-only models is in the target, too).
    """

    texts: ContextTexts
    contextual: Example
    contextless: Example
    steps: tuple[int, ...]
    input_context: tuple[int, ...] | None
    output_context: tuple[int, ...] | None

    def input_tokens(self) -> list[Token] | None:
        """Tokens of the input context."""
        side = self.contextual.source or self.contextual.target
        return None if self.input_context is None else [side[i] for i in self.input_context]

    def output_tokens(self) -> list[Token] | None:
        """Tokens of the output context."""
        return None if self.output_context is None else [self.contextual.target[i] for i in self.output_context]

    def current_tokens(self) -> list[Token]:
        """Tokens of the current output."""
        return [self.contextual.target[self.contextual.start + s] for s in self.steps]


def prepare(
    model: AttributionModel, given: Sequence[ContextTexts], settings: ContextSettings, ask: Ask | None, seed: int
) -> list[Pair]:
    """Encode texts, generating outputs where none are given."""
    for text in given:
        check_texts(text, settings)
    waiting = [i for i, text in enumerate(given) if not _complete(text, settings)]
    encoded: dict[int, tuple[ContextTexts, Example, Span, Span | None]] = {}
    for i, example, prefix in _generated(model, [given[i] for i in waiting], settings, seed):
        text = given[waiting[i]]
        encoded[waiting[i]] = _read_generated(model, text, example, prefix, settings, ask)
    for i, text in enumerate(given):
        if i not in encoded:
            encoded[i] = _forced(model, text, settings)
    return [_pair(model, *encoded[i], settings) for i in range(len(given))]


def check_texts(text: ContextTexts, settings: ContextSettings) -> None:
    """Raise `InputError` for texts that do not fit their templates."""
    if not text.input_current or not text.input_current.strip():
        raise InputError("input_current_text must be a text that is not empty")
    for name in ("contextless_input", "contextless_output"):
        if CURRENT not in getattr(text, name):
            raise InputError(f"{name}_current_text must have the placeholder {CURRENT} in it")
    if CONTEXT in settings.input_of(text.input_context is not None) and text.input_context is None:
        raise InputError(f"input_template has a place {CONTEXT}, but no input_context_text is given")
    template = settings.output_of(text.output_context is not None)
    if CONTEXT in template and text.output_context is None and settings.handle_output_context_strategy == "pre":
        raise InputError(
            f"output_template has a place {CONTEXT}: with handle_output_context_strategy='pre' output_context_text "
            "must be given"
        )
    if CONTEXT not in template and text.input_context is None:
        raise InputError("there is no context: give input_context_text or output_context_text")


def _complete(text: ContextTexts, settings: ContextSettings) -> bool:
    """Whether the output is given with all that its template wants."""
    wanted = CONTEXT in settings.output_of(text.output_context is not None)
    return text.output_current is not None and (text.output_context is not None or not wanted)


def _input(text: ContextTexts, settings: ContextSettings) -> tuple[str, dict[str, Span]]:
    return fill(settings.input_of(text.input_context is not None), text.input_current, text.input_context)


# -- outputs ----------------------------------------------------------------------------------------------------------


def _generated(
    model: AttributionModel, given: Sequence[ContextTexts], settings: ContextSettings, seed: int
) -> list[tuple[int, Example, str]]:
    """(place, example, output text that was given before the generated part)."""
    prompts, prefixes = [], []
    for text in given:
        full, _ = _input(text, settings)
        template = settings.output_of(text.output_context is not None)
        start = CURRENT if text.output_context is not None or CONTEXT not in template else CONTEXT
        prefix, _ = fill(template[: template.index(start)], "", text.output_context)
        prefixes.append(prefix.rstrip(" "))
        if not model.is_encoder_decoder:
            full = (full + settings.decoder_input_output_separator + prefix).rstrip(" ")
        prompts.append(full)
    if not given:
        return []
    arguments = dict(settings.generation_kwargs)
    if not model.is_encoder_decoder or not any(prefixes):
        examples = model.encode(prompts, generation_args=arguments, seed=seed)
    else:
        examples = []
        for prompt, prefix in zip(prompts, prefixes, strict=True):
            begun = {**arguments, **beginning_with(model.wrapped, prefix)}
            examples += model.encode(prompt, generation_args=begun, seed=seed)[:1]
    return [(i, e, p) for i, (e, p) in enumerate(zip(examples, prefixes, strict=True))]


def _read_generated(
    model: AttributionModel,
    text: ContextTexts,
    example: Example,
    prefix: str,
    settings: ContextSettings,
    ask: Ask | None,
) -> tuple[ContextTexts, Example, Span, Span | None]:
    """Where context and current output are in what was generated."""
    example = _cleaned(model, example, settings.special_tokens_to_keep)
    template = settings.output_of(text.output_context is not None)
    start = _end_of_given(model, example, prefix, settings)
    full = example.target_text
    while start < len(full) and full[start] == " ":
        start += 1
    if text.output_context is not None or CONTEXT not in template:
        suffix = template[template.index(CURRENT) + len(CURRENT) :]
        stop = len(full) - len(suffix) if suffix and full.endswith(suffix) else len(full)
        context = None
        if text.output_context is not None:
            at = full.rfind(text.output_context, 0, start)
            context = (at, at + len(text.output_context)) if at >= 0 else None
        span = (start, stop)
    else:
        separator = template.split(CONTEXT)[1].split(CURRENT)[0]
        border, begin = split_output(model, example, full[start:], separator, text, settings, ask)
        context, span = (start, start + border), (start + begin, len(full))
        found = full[context[0] : context[1]]
        if text.output_current is not None:
            # only the context was wanted of the generated text
            return _forced(model, dataclasses.replace(text, output_context=found), settings)
        text = dataclasses.replace(text, output_context=found)
    if not full[span[0] : span[1]].strip():
        raise InputError(
            f"the model generated no current output after {full[: span[0]][-60:]!r}; give output_context_text or "
            "output_current_text"
        )
    return dataclasses.replace(text, output_current=full[span[0] : span[1]]), example, span, context


def _end_of_given(model: AttributionModel, example: Example, prefix: str, settings: ContextSettings) -> int:
    """Characters of `target_text` that were given."""
    if not model.is_encoder_decoder:
        return len(example.input_text)
    return len(prefix) if prefix and example.target_text.startswith(prefix) else 0


def _cleaned(model: AttributionModel, example: Example, keep: Sequence[str]) -> Example:
    """Without special tokens among the generated ones, except those that belong to the text."""
    tokenizer = model.tokenizer
    kept = set(tokenizer.convert_tokens_to_ids(list(keep))) if keep else set()
    first = example.prompt_length
    old = example.target[first:]
    new = [t for t in old if not t.special or t.id in kept]
    if not new:
        raise InputError(f"the model generated nothing but special tokens for {example.input_text[:60]!r}")
    if not kept & {t.id for t in new}:
        return dataclasses.replace(example, target=(*example.target[:first], *new), stop=first + len(new))
    # the text with its special tokens, and where they are in it
    begin = example.input_text if not model.is_encoder_decoder else ""
    text, placed = begin, []
    for i, token in enumerate(new):
        grown = begin + _joint(begin, decode(tokenizer, [t.id for t in new[: i + 1]], special=True))
        start, end = len(text), len(grown)
        while start < end and grown[start] == " ":
            start += 1
        placed.append(
            dataclasses.replace(token, start=start if start < end else None, end=end if start < end else None)
        )
        text = grown
    target = (*example.target[:first], *placed)
    return dataclasses.replace(example, target=target, stop=len(target), target_text=text)


def _joint(begin: str, text: str) -> str:
    return f" {text}" if begin and not begin[-1].isspace() and not text[:1].isspace() else text


def _forced(
    model: AttributionModel, text: ContextTexts, settings: ContextSettings
) -> tuple[ContextTexts, Example, Span, Span | None]:
    """A given output, tokenised as one text with its context."""
    if text.output_current is None:
        raise InputError("there is no output to encode")
    source, _ = _input(text, settings)
    template = settings.output_of(text.output_context is not None)
    output, spans = fill(template, text.output_current, text.output_context)
    shift = 0
    if model.is_encoder_decoder:
        (example,) = model.encode(source, output)
    else:
        shift = len(source) + len(settings.decoder_input_output_separator)
        full = source + settings.decoder_input_output_separator + output
        prompt = full[: shift + spans["current"][0]].rstrip(" ")
        (example,) = model.encode(prompt, full)
    moved = {name: (start + shift, end + shift) for name, (start, end) in spans.items()}
    return text, example, moved["current"], moved.get("context") if text.output_context is not None else None


# -- pairs ------------------------------------------------------------------------------------------------------------


def _pair(
    model: AttributionModel,
    text: ContextTexts,
    example: Example,
    current: Span,
    output_context: Span | None,
    settings: ContextSettings,
) -> Pair:
    allowed = _allowed(settings.special_tokens_to_keep)
    inside = [i for i in _within(example.target, current, lambda _: True) if i >= 1]
    if not inside:
        raise InputError(f"the current output {text.output_current!r} has no tokens")
    first, last = inside[0], inside[-1]
    contextual = dataclasses.replace(example, start=first, stop=last + 1)
    steps = tuple(i - first for i in inside if allowed(example.target[i]))
    _, spans = _input(text, settings)
    places = spans.get("context") if text.input_context is not None else None
    side = example.source or example.target
    return Pair(
        texts=text,
        contextual=contextual,
        contextless=_contextless(model, text, contextual, settings),
        steps=steps,
        input_context=None if places is None else tuple(_within(side, places, allowed)),
        output_context=None if output_context is None else tuple(_within(example.target, output_context, allowed)),
    )


def _within(tokens: Sequence[Token], span: Span, allowed: Callable[[Token], bool]) -> list[int]:
    """Tokens that overlap a span of characters."""
    return [
        i
        for i, t in enumerate(tokens)
        if t.start is not None and t.end is not None and t.start < span[1] and t.end > span[0] and allowed(t)
    ]


def _allowed(keep: Sequence[str]) -> Callable[[Token], bool]:
    kept = set(keep)
    return lambda token: not token.special or token.text in kept


def _contextless(model: AttributionModel, text: ContextTexts, example: Example, settings: ContextSettings) -> Example:
    """The same current output after the input (and the output prefix) without context."""
    source, _ = fill(text.contextless_input, text.input_current)
    prefix = text.contextless_output[: text.contextless_output.index(CURRENT)]
    wrapped, current = model.wrapped, example.target[example.start : example.stop]
    if model.is_encoder_decoder:
        sources = tuple(wrapped.tokens(wrapped.source_ids(source), segment="source"))
        before = without_end(wrapped.target_ids(prefix.strip(" ")), wrapped.eos_ids)
    else:
        sources = ()
        before = wrapped.source_ids((source + settings.decoder_input_output_separator + prefix).rstrip(" "))
    target = (*wrapped.tokens(before, segment="prompt"), *current)
    found = Example(
        source=sources,
        target=target,
        start=len(before),
        stop=len(target),
        input_text=source,
        target_text=prefix + (text.output_current or ""),
    )
    wrapped.check(found)
    return found
