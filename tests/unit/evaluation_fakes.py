"""A model that explains and scores without any neural network, for tests of the evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from attriflow.types import Attribution, Example, Provenance, Token, Variant

Explain = Callable[[Example], Tensor]


def words(text: str, segment: Any, start: int = 0) -> tuple[Token, ...]:
    """One token per word, with its character span in the text (shifted by `start`)."""
    out, position = [], 0
    for i, word in enumerate(text.split()):
        at = text.index(word, position)
        position = at + len(word)
        out.append(Token(text=word, id=len(word) * 31 + i, start=start + at, end=start + position, segment=segment))
    return tuple(out)


def causal_example(prompt: str, target: str) -> Example:
    """An example as a word-level causal model encodes it."""
    tokens = words(prompt, "prompt") + words(target, "generated", start=len(prompt) + 1)
    start = len(prompt.split())
    return Example(target=tokens, start=start, stop=len(tokens), input_text=prompt, target_text=f"{prompt} {target}")


def seq2seq_example(source: str, target: str) -> Example:
    """An example as a word-level encoder-decoder encodes it."""
    eos = Token(text="</s>", id=1, segment="source", special=True)
    begin = Token(text="<s>", id=0, segment="generated", special=True)
    tokens = (begin, *words(target, "generated"))
    return Example(
        source=(*words(source, "source"), eos), target=tokens, start=1, stop=len(tokens), input_text=source,
        target_text=target,
    )  # fmt: skip


class FakeModel:
    """Log-probability of a step = -(removed tokens before it); explanations come from functions by method name."""

    is_encoder_decoder = False
    device = torch.device("cpu")
    wrapped = SimpleNamespace(devices=(device,), name="fake")
    dtype = torch.float32
    name = "fake"
    tokenizer = None
    lock = nullcontext()

    def __init__(self, explain: Mapping[str, Explain] | None = None) -> None:
        self.explain = dict(explain or {})
        self.calls: list[str] = []
        self.rescored: list[tuple[int, Variant]] = []

    @property
    def model(self) -> FakeModel:
        return self

    def encode(self, inputs: Sequence[str], targets: Sequence[str] | None = None, **options: Any) -> list[Example]:
        self.calls.append("encode")
        targets = targets or ["out"] * len(inputs)
        return [causal_example(i, t) for i, t in zip(inputs, targets, strict=True)]

    def attribute_examples(self, examples: Sequence[Example], method: str, **options: Any) -> list[Attribution]:
        self.calls.append(f"attribute {method} {len(examples)}")
        return [attribution_of(e, self.explain[method](e), method) for e in examples]

    def score_steps(self, examples: Sequence[Example], functions: Mapping[str, Any], **options: Any) -> list[Any]:
        self.calls.append(f"steps {','.join(functions)}")
        if "broken" in functions:
            raise RuntimeError("no such luck")
        return [{n: torch.arange(e.n_steps, dtype=torch.float32) for n in functions} for e in examples]

    def teacher_forced(self, examples: Sequence[Example], batch_size: int | None = None) -> None:
        self.calls.append("forward")

    def count_rows(self, examples: Sequence[Example], variants: Sequence[Any], **options: Any) -> int:
        return len(set(variants))

    def rescore(
        self, examples: Sequence[Example], variants: Sequence[tuple[int, Variant]], **options: Any
    ) -> list[Tensor]:
        self.rescored += variants
        out = []
        for index, variant in variants:
            example = examples[index]
            steps = range(example.n_steps) if variant.step is None else [variant.step]
            removed = [sum(not k for k in variant.keep[: example.start + s]) for s in steps]
            out.append(torch.tensor([-float(r) for r in removed], dtype=torch.float64))
        return out


def attribution_of(example: Example, scores: Tensor, method: str = "m") -> Attribution:
    """Scores `[input]` or `[step, input]` as an attribution over all decoder tokens, NaN where a step cannot see."""
    scores = scores.expand(example.n_steps, len(example.target)).clone().float()
    for step in range(example.n_steps):
        scores[step, example.start + step :] = math.nan
    return Attribution(
        scores=scores,
        inputs=example.target,
        targets=example.target[example.start : example.stop],
        start=example.start,
        provenance=Provenance(method=method),
        input_text=example.input_text,
        target_text=example.target_text,
    )
