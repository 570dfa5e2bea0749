"""The arithmetic floor: the fewest multiply-adds of a method, matrix products only.

Counted for what the definition of a method needs when every step is read from shared passes, prefixes are recomputed
only after what changed, and the LM head is applied at the target positions only. Norms, softmax, gathers and random
numbers count nothing, so the floor is out of reach by design; the fraction reached is comparable between methods.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shapes import Shape


@dataclass(frozen=True)
class Problem:
    """One sequence: source tokens, decoder tokens that are read, and the positions that steps are read at."""

    shape: Shape
    source: int
    length: int
    first: int

    @property
    def steps(self) -> range:
        """Decoder position at which each step is read."""
        return range(self.first, self.length)

    def layers(self, start: int = 0) -> float:
        """Decoder layers on positions `start:length`; keys and values before `start` are given."""
        h, tokens = self.shape.width, self.length - start
        attended = sum(range(start + 1, self.length + 1))
        cost = tokens * 12 * h * h + 2 * h * attended
        if self.shape.encoder_decoder:  # cross attention: query and output; the keys belong to `cross_keys`
            cost += tokens * 2 * h * h + 2 * h * tokens * self.source
        return float(self.shape.layers * cost)

    def cross_keys(self) -> float:
        """Keys and values of the source in every decoder layer."""
        return float(self.shape.layers * self.source * 2 * self.shape.width**2) if self.shape.encoder_decoder else 0.0

    def encoder(self) -> float:
        """The whole encoder."""
        h, n = self.shape.width, self.source
        return float(self.shape.encoder_layers * (n * 12 * h * h + 2 * h * n * n))

    def head(self, steps: int | None = None) -> float:
        """The LM head at some target positions (all when None)."""
        return float((len(self.steps) if steps is None else steps) * self.shape.width * self.shape.vocabulary)

    def forward(self) -> float:
        """One teacher-forced forward."""
        return self.encoder() + self.cross_keys() + self.layers() + self.head()

    def products(self) -> float:
        """One vector-Jacobian product per step, each over its own prefix; the head once for all."""
        total = self.head()
        for query in self.steps:
            prefix = Problem(self.shape, self.source, query + 1, query)
            attention = self.shape.layers * 2 * self.shape.width * sum(range(1, query + 2))
            total += prefix.layers() + attention + self.cross_keys() + self.encoder()
        return total

    def changed(self, position: int) -> float:
        """A forward with one decoder position changed: what follows it, and the steps that can see it."""
        return self.layers(position) + self.head(len([q for q in self.steps if q >= position]))

    def one_by_one(self) -> float:
        """Every input changed alone (all source tokens, or all decoder tokens)."""
        if self.shape.encoder_decoder:
            return self.source * self.forward()
        return sum(self.changed(i) for i in range(self.length))

    def one_by_one_products(self) -> float:
        """The same with a product for every pair of changed input and step, from the step back to the input."""
        if self.shape.encoder_decoder:
            return self.source * (self.forward() + self.products())
        total = 0.0
        for i in range(self.length):
            total += self.changed(i)
            for query in self.steps:
                if query >= i:
                    part = Problem(self.shape, self.source, query + 1, query)
                    total += part.layers(i) + self.shape.layers * 2 * self.shape.width * sum(range(i + 1, query + 2))
                    total += part.head(1)
        return total

    def values_zeroed(self) -> float:
        """Value zeroing: one forward; attention is linear in the values, so only what follows it is run per pair."""
        h, layers = self.shape.width, self.shape.layers
        pairs = len(self.steps) * self.source if self.shape.encoder_decoder else sum(q + 1 for q in self.steps)
        return self.forward() - self.head() + float(layers * pairs * 8 * h * h)


def floor(method: str, options: Mapping[str, Any], problem: Problem) -> float | None:
    """Multiply-adds of a method with its options; None where they depend on the data or on random numbers."""
    p = problem
    n = int(options.get("n_steps") or options.get("n_samples") or 1)
    if method == "attention":
        return p.forward() - p.head()
    if method in ("saliency", "input_x_gradient", "layer_gradient_x_activation"):
        return p.forward() + p.products()
    if method in ("deeplift", "layer_deeplift"):  # a second forward for the baseline's activations
        return 2 * p.forward() + p.products()
    if method in ("integrated_gradients", "discretized_integrated_gradients", "layer_integrated_gradients"):
        return n * (p.forward() + p.products())
    if method in ("gradient_shap", "smooth_grad", "var_grad"):
        return n * (p.forward() + p.products())
    if method == "sequential_integrated_gradients" and options.get("norms", True):
        return n * p.one_by_one_products()
    if method in ("occlusion", "feature_ablation", "sequential_integrated_gradients"):  # the signed sum is a difference
        return p.forward() + p.one_by_one()
    if method == "shapley_sampling":  # a permutation adds one input after the other
        return p.forward() + n * p.one_by_one()
    if method in ("lime", "kernel_shap", "context_cite"):
        return p.forward() + n * p.forward()
    if method == "value_zeroing":
        return p.values_zeroed()
    return None
