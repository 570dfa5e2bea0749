"""Examples whose output depends on a context sentence in known places, for the demo models.

``recall``
    A fact, or two, come before the text: ``anna has a red hat .`` and then ``tom has a blue car . what color is the
    hat ?``. Where the asked fact is in the context, the answer depends on it; where it is in the text, it does not.
``translate``
    The first noun phrase is context, the rest the text: ``the house`` and then ``of the old man is red``. Its gender is
    carried by the context, so the adjective that agrees with it (``rossa``) depends on the noun there (``house``).

A word of the output is context-sensitive where its distribution without the context differs from the one with it, and
its cues are the words of its rationale that stand in the context.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from attriflow.demo import grammar as g

Span = g.Span


@dataclass(frozen=True)
class ContextExample:
    """An output with and without context.

    `cues` has, per word of the output, the character spans in `input_context` that it depends on; none where it is not
    sensitive to the context. The `contextless` texts are what stands in for input and output without context.
    """

    model: str
    input_context: str
    input_current: str
    output_context: str | None
    output_current: str
    contextless_input: str
    contextless_output: str
    cues: tuple[tuple[Span, ...], ...]


def _in(spans: Sequence[Span], end: int) -> tuple[Span, ...]:
    return tuple(span for span in spans if span[1] <= end)


def recall_context(rng: random.Random) -> ContextExample:
    """Draw an example of ``recall``: three facts, one or two of them in the context; the asked one is there or not."""
    facts = g.recall_facts(rng, 3, training=False)
    border = rng.choice((1, 2))
    there = rng.random() < 0.35
    asked = rng.randrange(border) if there else rng.randrange(border, 3)
    item = g.Recall(facts, asked, rng.choice(tuple(g.QUESTIONS)))
    words = item.source
    context, current = words[: border * g.FACT_LENGTH], words[border * g.FACT_LENGTH :]
    end = len(" ".join(context))
    example = item.example()
    parts = g.ATTRIBUTES[g.QUESTIONS[item.kind].attribute]
    cues: list[tuple[Span, ...]] = []
    for part, spans in zip(parts, example.rationale, strict=True):
        # without the asked fact, any of the others is as good: no difference where they all have the same word
        same = {getattr(fact, part) for fact in facts[border:]} == {getattr(facts[asked], part)}
        cues.append(_in(spans, end) if there and not same else ())
    return ContextExample(
        "recall", " ".join(context), " ".join(current), None, example.target, "{current}", "{current}", tuple(cues)
    )


def translate_context(rng: random.Random) -> ContextExample:
    """Draw an example of ``translate``: a sentence with "is", its first noun phrase as context."""
    while True:
        item = g.translate_item(rng, training=False)
        if "is" not in item.source:
            continue
        noun = item.slots[0].noun
        first = [slot for slot in item.slots if slot.own <= noun and slot.noun in (noun, -1)]
        n_source, n_target = noun + 1, len(first)
        example = item.example()
        end = len(" ".join(item.source[:n_source]))
        rest = item.slots[n_target:]
        # the adjective at the end agrees with the noun in the context, if it has two forms
        cues = tuple(_in(spans, end) for spans in example.rationale[n_target:])
        if len(rest) < 2 or any(slot.kind == "noun" and slot.own < n_source for slot in rest):
            continue
        target = example.target.split()
        return ContextExample(
            "translate",
            " ".join(item.source[:n_source]),
            " ".join(item.source[n_source:]),
            " ".join(target[:n_target]),
            " ".join(target[n_target:]),
            # "<unk>" is "no information" to this model, which has never seen half a sentence
            "<unk> " * n_source + "{current}",
            "<unk> " * n_target + "{current}",
            cues,
        )


DRAW = {"recall": recall_context, "translate": translate_context}
EXAMPLES = 150


def draw_contexts(name: str, count: int = EXAMPLES) -> list[ContextExample]:
    """The examples that ship with the package, for one model: distinct, drawn from a fixed seed."""
    rng, found = random.Random(f"context-{name}"), dict[tuple[str, str], ContextExample]()
    while len(found) < count:
        example = DRAW[name](rng)
        found.setdefault((example.input_context, example.input_current), example)
    return list(found.values())
