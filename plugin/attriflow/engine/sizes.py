"""How much memory a call takes, and how much of a batch it may hold: by memory, and on a CPU by what gains anything.

The one home of both. Bytes are counted beyond the weights, of tensors that are there at the same time, in units of
what one layer makes of one sequence (`Sizes.states` and the three below it); the factors are those of GPT-2's and
Llama's blocks, measured on a device that counts bytes (`tests/properties/test_device_memory.py` holds them to 20%). A
method's formula is the `memory` of its registration, or that of its family (`FAMILIES`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from attriflow.kernels.devices import memory
from attriflow.kernels.plain import shortcuts
from attriflow.models.base import LanguageModel
from attriflow.models.batch import Batch
from attriflow.registry import methods
from attriflow.types import Example

CHUNK_BYTES = 512 * 2**20
"""Working memory that one chunk of rows or of vector-Jacobian products may take."""

CACHE_BYTES = 2 * 2**20
"""Size of the widest activation up to which calls on a CPU gain from more rows: beyond it, elementwise operations wait
for memory. A graph gains up to twice that, a batch of products up to three times, since each of them traverses the
graph."""

LOGIT_BYTES = 16 * 2**20
"""Size of the logits up to which calls on a CPU gain from more rows; step functions make copies of them."""

WORTHWHILE = 4e9
"""Multiply-adds of all versions from which on shorter runs save more than additional calls cost."""

FUSED = ("cpu", "cuda", "xpu", "mps")
"""Kinds of devices that have attention without its weights."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of calls for one batch.

    Attributes:
        model: That it goes through.
        rows: Examples of the batch.
        target, source: Tokens of the longest one that the decoder and an encoder read.
        steps: That the model is read at.
        budget: Bytes that a chunk may take; `CHUNK_BYTES` when None.
    """

    model: LanguageModel
    rows: int
    target: int
    source: int
    steps: int
    budget: float | None = None

    @classmethod
    def of(cls, model: LanguageModel, batch: Batch) -> Sizes:
        """Of a padded batch."""
        source = 0 if batch.source_ids is None else batch.source_ids.shape[1]
        return cls(model, batch.size, batch.target_ids.shape[1], source, batch.n_steps)

    @classmethod
    def of_examples(cls, model: LanguageModel, examples: Sequence[Example]) -> Sizes:
        """Of examples that are going to be one batch."""
        source = max(len(e.source) for e in examples) if model.is_encoder_decoder else 0
        target = max(e.stop - 1 for e in examples)
        return cls(model, len(examples), max(1, target), source, max(e.stop - e.start for e in examples))

    # -- what one layer makes of one sequence -----------------------------------------------------------------------

    @property
    def chunk(self) -> float:
        """Bytes that a chunk may take."""
        return CHUNK_BYTES if self.budget is None else self.budget

    @property
    def tokens(self) -> int:
        """Of a sequence."""
        return self.target + self.source

    @property
    def item(self) -> float:
        """Of a number of the model."""
        return torch.finfo(self.model.dtype).bits / 8

    @property
    def layers(self) -> int:
        """Of all stacks."""
        return self.model.shape.layers + (self.model.shape.encoder_layers if self.source else 0)

    @property
    def states(self) -> float:
        """Hidden states."""
        return self.tokens * self.model.hidden_size * self.item

    @property
    def inner(self) -> float:
        """What a feed-forward layer has between its two matrices."""
        return self.tokens * self.model.shape.inner * self.item

    @property
    def weights(self) -> float:
        """Attention weights, `[head, query, key]`."""
        pairs = max(self.target * max(self.target, self.source), self.source**2)
        return self.model.shape.heads * pairs * self.item

    @property
    def logits(self) -> float:
        """Logits that are read; step functions compute in single precision at least."""
        return self.steps * self.model.vocab_size * max(4, self.item)

    # -- bytes of a sequence ----------------------------------------------------------------------------------------

    def forward(self, weights: float | None = None) -> float:
        """At the peak of a pass that keeps nothing: in an attention layer, a feed-forward layer or the LM head.

        Args:
            weights: Matrices of attention weights that are there at once; what the device needs when None.
        """
        if weights is None:
            weights = 0.0 if self.model.device.type in FUSED else 2.3
        return max(weights * self._block() + 7 * self.states, 3.7 * self.inner + 6 * self.states, 5 * self.logits)

    def graph(self, layers: int | None = None) -> float:
        """What a graph for gradients keeps of some layers, or all (`linearised`), and the way through the LM head."""
        layers = self.layers if layers is None else layers
        return layers * (self._kept() + self.block()) + 5.5 * self.logits

    def block(self) -> float:
        """Of a layer's part of it, without attention weights."""
        return 3.2 * (self.states + self.inner)

    def product(self) -> float:
        """Of one step's product on its way down a graph."""
        return 0.75 * self._kept() + 11 * self.states

    def _kept(self) -> float:
        """Attention weights that a layer keeps in a graph: none where a fused kernel computes them again."""
        fused = self.model.device.type in FUSED and self.attention_bytes() > CHUNK_BYTES / 8
        return 0.0 if fused else self.weights

    # -- bytes of a method ------------------------------------------------------------------------------------------

    def gradients(self, points: int = 1) -> float:
        """Of the gradients of all steps at some points of a path (`gradients.Gradients`)."""
        at_once = min(points * self.rows, max(self.rows, self.rows_at_once(grad=True)))
        graphs = math.ceil(points * self.rows / at_once)
        graph = self.rows * math.ceil(points / graphs)
        products = graph * min(self.steps, max(1, self.rows_at_once(products=True) // graph))
        sums = self.summed() * self.rows * self.states * max(1, 8 / self.item) if graphs > 1 else 0.0
        blocks = None if self.source else self.blocks(graph)
        if blocks is not None:  # and states that each stretch of them begins with, and the products that came so far
            kept = math.ceil(self.layers / blocks) + 2 * self.steps
            return graph * (self.graph(blocks) + kept * self.states) + products * self.product() + sums
        return graph * self.graph() + products * self.product() + sums

    def rescored(self, versions: float | None = None, in_order: bool = False) -> float:
        """Of some changed versions of the batch, one per input by default (`Engine.rescore`)."""
        versions = self.tokens if versions is None else versions
        at_once, kept = max(1, self.rows_at_once() // self.rows), 0.0
        if in_order and not self.source and worthwhile(self, versions):
            shape = self.model.shape
            at_once, kept = min(at_once, in_parts(versions)), shape.layers * shape.key_value_heads / shape.heads
        return self.rows * min(versions, at_once) * (self.forward() + (2 + kept) * self.states)

    def recorded(self, weights: float = 2.5, states: float = 1.5, maps: float = 0) -> float:
        """Of one pass that is looked into.

        Args:
            weights: Matrices of attention weights of a block of queries that are there at once.
            states: Further hidden states.
            maps: Matrices of heads together that stay.
        """
        squares = maps * self.weights / self.model.shape.heads
        return self.rows * (self.forward(weights) + states * self.states + squares + self.scores())

    def routes(self) -> float:
        """Of a pass whose layers' sums are kept, and of a tile of edges of one of them."""
        tile = min(64, self.target) + self.model.shape.heads
        if self.model.device.type == "cpu":
            tile = min(tile, 12)
        return self.rows * ((3.5 * self.layers + tile) * self.states + 5.5 * self._block())

    def replayed(self) -> float:
        """Of a pass whose layers run again at the positions that are read, once per token."""
        again = self.steps * (4 * self.states + 3 * self.inner)
        return self.rows * (self._block() + 5 * self.states + 2 * self.inner) + min(self.rows * again, self.chunk / 2)

    def contributions(self) -> float:
        """Of a graph that follows two passes: DeepLIFT."""
        products = self.rows * min(self.steps, max(1, self.rows_at_once(products=True) // self.rows))
        graph = self.layers * (9 * self.states + 8 * self.inner) + 2.5 * self.logits
        if self.attention_bytes() <= 2**20:  # kept as they are
            graph, product = graph + 5 * self.layers * self.weights, 3.2 * self.weights + 3.5 * self.states
        else:
            product = 2 * min(self.weights, self.chunk / 4) + 3.5 * self.states
        return self.rows * graph + products * product

    def _block(self) -> float:
        """Attention weights of the queries that are looked at together."""
        return min(self.weights, max(self.weights / self.target, self.chunk / 8 / self.rows))

    def scores(self) -> float:
        """Scores with a layer and a head of every step and token."""
        return self.steps * self.tokens * self.model.shape.layers * self.model.shape.heads * max(4, self.item)

    # -- how much a call may hold -----------------------------------------------------------------------------------

    def rows_at_once(
        self, grad: bool = False, products: bool = False, left_out: int = 0, steps: int | None = None
    ) -> int:
        """Sequences that a call (or, with `grad`, a graph; with `products`, a batch of them) may hold.

        Args:
            grad, products: What they are for.
            left_out: Decoder positions that the sequences do not have.
            steps: How many steps are read; all when None.
        """
        if not shortcuts() or not self.model.checked.works("rows"):
            return self.rows
        rows: float = self.fitting(grad, products)
        width = max(1, self.tokens - left_out)
        gain = 3 if products else 2 if grad else 1
        if gain > 1 and self.source:
            gain -= 1  # two stacks, one of them with a second attention, hold more per token
        rows = min(rows, tokens_per_call(self.model, gain) // width)
        if not (grad or products) and self.model.device.type == "cpu":
            read = max(1, self.steps if steps is None else steps)
            rows = min(rows, LOGIT_BYTES // (read * self.model.vocab_size * self.item))
        return max(1, int(rows))

    def fitting(self, grad: bool = False, products: bool = False) -> int:
        """The same by memory alone."""
        one = self.product() if products else self.graph() if grad else self.forward()
        return max(1, int(self.chunk // max(1.0, one)))

    def blocks(self, rows: int) -> int | None:
        """Blocks whose graph for so many sequences fits into memory; None where that of all does (see `stretches`)."""
        one, layers, limit = rows * self.block(), self.model.shape.layers, float(CHUNK_BYTES)  # whatever the budget
        if one * layers > limit and (space := memory(self.model.device)) is not None:
            limit = max(limit, space[0] / 4)
        return None if one * layers <= limit else max(1, int(limit / 2 / one))

    def products_at_once(self) -> int:
        """Products of the batch that may be in one layer together, for graphs that are dear to traverse."""
        if not shortcuts():
            return 1
        return max(1, int(2 * self.chunk // (self.rows * 16 * self.states)))

    def summed(self) -> int:
        """Steps whose gradients are added up together over several graphs."""
        one = self.rows * self.tokens * self.model.hidden_size * 8
        return min(self.steps, max(1, int(4 * self.chunk // one)))

    def attention_bytes(self) -> float:
        """Size of the attention weights of one layer."""
        return self.rows * self.weights


Formula = Callable[..., float]
"""`(sizes, **options)` -> bytes beyond the weights."""

MOST_POINTS = 640
"""Points of a path that a method chooses itself, at most."""


def points(options: Mapping[str, Any]) -> int:
    """Points of a path, or samples, that a method's options ask for."""
    found = options.get("n_steps") or options.get("n_samples") or 1
    return found if isinstance(found, int) else MOST_POINTS


def _of_gradients(sizes: Sizes, **options: Any) -> float:
    return sizes.gradients(points(options))


def _of_versions(sizes: Sizes, **options: Any) -> float:
    return sizes.rescored(options["n_samples"] + 2 if "n_samples" in options else None)


def _of_anything(sizes: Sizes, **options: Any) -> float:
    return max(_of_gradients(sizes, **options), _of_versions(sizes, **options), sizes.recorded())


FAMILIES: dict[str, Formula] = {
    "gradient": _of_gradients,
    "path": _of_gradients,
    "perturbation": _of_versions,
    "internals": lambda sizes, **_: sizes.recorded(),
    "control": lambda sizes, **_: sizes.rows * sizes.steps * sizes.tokens * 24.0,
}
"""Formulas of methods that register none; of other families, the largest of all."""


def planned(method: str, options: Mapping[str, Any], sizes: Sizes) -> float:
    """Bytes beyond the weights that a method takes at its peak."""
    part = methods.info(method)
    formula = part.meta.get("memory") or FAMILIES.get(part.meta.get("family", ""), _of_anything)
    return float(formula(sizes, **{**part.options, **options}))


def least(method: str, options: Mapping[str, Any], sizes: Sizes) -> float:
    """The same of one example in the smallest parts that it can be divided into."""
    return planned(method, options, replace(sizes, rows=1, budget=1.0))


def blocks_at_once(model: LanguageModel, rows: int, width: int) -> int | None:
    """`Sizes.blocks` of decoder-only sequences of a length."""
    return Sizes(model, 1, width, 0, 1).blocks(rows)


def worthwhile(sizes: Sizes, n: float) -> bool:
    """Whether `n` changed versions of the batch are enough work to run them in parts of their own."""
    tokens = n * sizes.rows * sizes.target
    return tokens * sizes.model.shape.layers * 12 * sizes.model.hidden_size**2 >= WORTHWHILE


def in_parts(n: float) -> int:
    """Versions that run together where prefixes are shared: short runs of them share long ones."""
    return max(8, math.ceil(n / 8))


def tokens_per_call(model: LanguageModel, gain: float) -> float:
    """Tokens beyond which a call on a CPU only gets slower; no limit elsewhere."""
    if model.device.type != "cpu":
        return float("inf")
    return max(512, gain * CACHE_BYTES // (4 * model.hidden_size * (torch.finfo(model.dtype).bits // 8)))
