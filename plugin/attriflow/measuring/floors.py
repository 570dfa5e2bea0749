"""The arithmetic floor: the fewest multiply-adds of a method, matrix products only.

Counted for what the definition of a method needs when every step is read from shared passes, prefixes are recomputed
only after what changed, and the LM head is applied at the target positions only. Norms, softmax, gathers and random
numbers count nothing, so the floor is out of reach by design; the fraction reached is comparable between methods.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attriflow.registry import methods

if TYPE_CHECKING:
    from attriflow.model import AttributionModel
    from attriflow.types import Example


@dataclass(frozen=True, kw_only=True)
class Work:
    """Multiply-adds of a model, by what they are spent on.

    Attributes:
        token: A decoder token in all decoder layers, without the products of attention weights.
        pair: A decoder token and one that it attends to, in all layers: its weight and its part of the output.
        head: A position in the LM head.
        after_attention: The part of `token` that follows attention (the feed-forward blocks).
        keys: The part of `token` that makes keys and values.
        layers: Decoder layers.
        source_token, source_pair: The same of the encoder; 0 where there is none.
        cross_token: A source token's keys and values in all decoder layers.
        cross_pair: A decoder token and a source token.
    """

    token: float
    pair: float
    head: float
    after_attention: float
    keys: float
    layers: int
    source_token: float = 0.0
    source_pair: float = 0.0
    cross_token: float = 0.0
    cross_pair: float = 0.0

    @classmethod
    def of_shape(cls, *, layers: int, width: int, vocabulary: int, encoder_layers: int = 0) -> Work:
        """Of a plain transformer: as many key-value heads as heads, feed-forward blocks four times as wide."""
        h, both = width, encoder_layers > 0
        return cls(
            token=float(layers * (14 if both else 12) * h * h),  # with queries and output of cross attention
            pair=float(layers * 2 * h),
            head=float(h * vocabulary),
            after_attention=float(layers * 8 * h * h),
            keys=float(layers * 2 * h * h),
            layers=layers,
            source_token=float(encoder_layers * 12 * h * h),
            source_pair=float(encoder_layers * 2 * h),
            cross_token=float(layers * 2 * h * h) if both else 0.0,
            cross_pair=float(layers * 2 * h) if both else 0.0,
        )

    @classmethod
    def of_model(cls, model: AttributionModel) -> Work | None:
        """Of a Hugging Face model, from the sizes of its weights and its configuration; None where it does not tell.

        Weights that only some tokens use (experts) count for all of them.
        """
        hf, shape = model.model, model.wrapped.shape
        if not shape.known:
            return None
        inner, layers = shape.heads * shape.head_width, shape.layers
        shared = shape.key_value_heads / shape.heads
        own = layers * 2 * shape.width * inner * (1 + shared)  # queries and output, keys and values
        keys = layers * 2 * shape.width * inner
        both = model.is_encoder_decoder
        stack = _weights(hf.get_decoder() if both else hf, hf)
        cross = float(keys) if both else 0.0
        return cls(
            token=stack - cross,
            pair=layers * 2.0 * inner,
            head=float(shape.width * hf.get_input_embeddings().weight.shape[0]),
            after_attention=max(0.0, stack - own - 2 * cross),
            keys=float(keys * shared),
            layers=layers,
            source_token=_weights(hf.get_encoder(), hf) if both else 0.0,
            source_pair=shape.encoder_layers * 2.0 * inner if both else 0.0,
            cross_token=cross,
            cross_pair=layers * 2.0 * inner if both else 0.0,
        )


def _weights(module: Any, embeddings: Any) -> float:
    """Weights of matrices that are not tables of embeddings or the LM head."""
    import torch

    ends = {id(p) for end in (embeddings.get_input_embeddings(), embeddings.get_output_embeddings()) if end is not None
            for p in end.parameters()}  # fmt: skip
    ends |= {id(p) for part in module.modules() if isinstance(part, torch.nn.Embedding) for p in part.parameters()}
    return float(sum(p.numel() for p in module.parameters() if p.ndim >= 2 and id(p) not in ends))


@dataclass(frozen=True)
class Problem:
    """One sequence: source tokens, decoder tokens that are read, and the positions that steps are read at."""

    work: Work
    source: int
    length: int
    first: int

    @classmethod
    def of_example(cls, work: Work, example: Example) -> Problem:
        """What an example asks of a model; the last token is never read."""
        return cls(work, len(example.source), example.stop - 1, example.start - 1)

    @property
    def steps(self) -> range:
        """Decoder position at which each step is read."""
        return range(self.first, self.length)

    def layers(self, start: int = 0) -> float:
        """Decoder layers on positions `start:length`; keys and values before `start` are given."""
        tokens, attended = self.length - start, sum(range(start + 1, self.length + 1))
        return tokens * (self.work.token + self.work.cross_pair * self.source) + self.work.pair * attended

    def cross_keys(self) -> float:
        """Keys and values of the source in every decoder layer."""
        return self.source * self.work.cross_token

    def encoder(self) -> float:
        """The whole encoder."""
        return self.source * self.work.source_token + self.source * self.source * self.work.source_pair

    def head(self, steps: int | None = None) -> float:
        """The LM head at some target positions (all when None)."""
        return (len(self.steps) if steps is None else steps) * self.work.head

    def forward(self) -> float:
        """One teacher-forced forward."""
        return self.encoder() + self.cross_keys() + self.layers() + self.head()

    def products(self) -> float:
        """One vector-Jacobian product per step, each over its own prefix."""
        return self.head() + sum(self.product(query) for query in self.steps)

    def product(self, query: int, start: int = 0) -> float:
        """One product back to positions from `start` on, without the head.

        In the last layer only the step's own position has a gradient, but for keys and values.
        """
        w, tokens, cross = self.work, query + 1 - start, self.work.cross_pair * self.source
        own = w.token + cross + 2 * w.pair * (query + 1)
        every = tokens * (w.token + cross) + 2 * w.pair * sum(range(start + 1, query + 2))
        source = (self.cross_keys() + self.encoder()) if start == 0 else 0.0
        return (own + (w.layers - 1) * every + tokens * w.keys) / w.layers + source

    def changed(self, position: int) -> float:
        """A forward with one decoder position changed: what follows it, and the steps that can see it."""
        return self.layers(position) + self.head(len([q for q in self.steps if q >= position]))

    def one_by_one(self) -> float:
        """Every input changed alone (all source tokens, or all decoder tokens)."""
        if self.source:
            return self.source * self.forward()
        return sum(self.changed(i) for i in range(self.length))

    def one_by_one_products(self) -> float:
        """The same with a product for every pair of changed input and step, from the step back to the input."""
        if self.source:
            return self.source * (self.forward() + self.products())
        total = 0.0
        for i in range(self.length):
            total += self.changed(i)
            for query in self.steps:
                if query >= i:
                    total += self.product(query, i) + self.head(1)
        return total

    def values_zeroed(self) -> float:
        """Value zeroing: one forward; attention is linear in the values, so only what follows it is run per pair."""
        pairs = len(self.steps) * self.source if self.source else sum(q + 1 for q in self.steps)
        return self.forward() - self.head() + self.work.after_attention * pairs


def floor(method: str, options: Mapping[str, Any], problem: Problem) -> float | None:
    """Multiply-adds of a method with its options; None where they depend on the data or on random numbers.

    A method's registration gives its `floor`, a function `(problem, **options)`, or the cost it states is counted.
    """
    part = methods.known(method)
    if part is None:
        return None
    given, own = {**part.options, **options}, part.meta["floor"]
    if given.get("n_steps") == "auto":
        return None
    return _stated(part.meta["cost"], given, problem) if own is None else float(own(problem, **given))


_TERM = re.compile(r"(?:(\d+|n) )?(?:T x (n) |T )?(forwards?|products)")


def _stated(cost: str, options: Mapping[str, Any], problem: Problem) -> float | None:
    """A cost of the form "n forwards + T x n products" in multiply-adds; None for any other form."""
    total, n = 0.0, int(options.get("n_steps") or options.get("n_samples") or 1)
    for term in cost.split(" + "):
        found = _TERM.fullmatch(term.strip())
        if found is None:
            return None
        count, points, what = found.groups()
        times = n if "n" in (count, points) else int(count or 1)
        total += times * (problem.products() if what == "products" else problem.forward())
    return total


def total(method: str, options: Mapping[str, Any], problems: list[Problem]) -> float | None:
    """Floor of several sequences."""
    parts = [floor(method, options, p) for p in problems]
    return None if any(p is None for p in parts) else sum(p for p in parts if p is not None)
