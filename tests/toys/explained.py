"""Attributions and models with known answers, for tests of metrics: no network, no tokenizer."""

from __future__ import annotations

import numpy as np
import torch

from attriflow.types import Attribution, Provenance, Token

NAN = float("nan")


def causal(rows, n_prompt, *, special=(), method="test", **fields):
    """A decoder-only attribution: row j scores the `n_prompt + j` tokens before step j; the rest is not visible."""
    n_steps, n_inputs = len(rows), n_prompt + len(rows)
    scores = torch.full((n_steps, n_inputs), NAN, dtype=torch.float64)
    for j, row in enumerate(rows):
        scores[j, : len(row)] = torch.tensor(row, dtype=torch.float64)
    inputs = tuple(
        Token(text=f"t{i}", id=i, segment="prompt" if i < n_prompt else "generated", special=i in special)
        for i in range(n_inputs)
    )
    fields = {"scores": scores, "inputs": inputs, "targets": inputs[n_prompt:], "start": n_prompt, **fields}
    return Attribution(provenance=Provenance(method=method), **fields)


class Interacting:
    """A model with a known answer: the target's probability is a logistic function of which tokens are there.

    Tokens and pairs of neighbours have weights, and so have elements of embeddings ("soft" changes scale tokens).
    """

    def __init__(self, weights, pairs=0.3, base=-0.5):
        self.weights, self.pairs, self.base = np.asarray(weights, float), pairs, base
        self.calls, self.asked = 0, []

    def log_probability(self, present, step):
        """From presence in [0, 1] of all inputs; what comes at the step or later is not seen."""
        x = np.array(present, float)
        n = len(self.weights)
        z = self.base + 0.1 * step + float(x[:n] @ self.weights) + self.pairs * float((x[: n - 1] * x[1:n]).sum())
        return -np.log1p(np.exp(-z))

    def __call__(self, keep, steps=None, *, how="delete", draw=0):
        """The protocol of `Rescore`."""
        self.calls += 1
        factor = {"delete": 1.0, "baseline": 0.8, "mask": 0.9, "soft": 1.0}[how]
        rows = 1 - factor * (1 - keep.double().numpy()) - (0.01 * draw if how == "soft" else 0) * (keep.numpy() < 1)
        if steps is None:
            values = [[self.log_probability(row, s) for s in range(self.n_steps)] for row in rows]
        else:
            values = [self.log_probability(row, s) for row, s in zip(rows, steps, strict=True)]
        self.asked += [(tuple(row), how, draw) for row in rows.tolist()]
        return torch.tensor(np.array(values), dtype=torch.float64)

    n_steps = 2


def explained(seed=0, n_prompt=5, n_steps=2, special=()):
    """Random scores of a prompt and a continuation, and a model to go with them."""
    rng = np.random.default_rng(seed)
    rows = [rng.normal(size=n_prompt + j).tolist() for j in range(n_steps)]
    model = Interacting(rng.normal(0.6, 0.8, size=n_prompt))
    model.n_steps = n_steps
    return causal(rows, n_prompt, special=special), model
