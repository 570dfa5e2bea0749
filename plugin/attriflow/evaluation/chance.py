"""What removing as many random tokens does: the curve that every removal curve is held against."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from attriflow.engine.job import step_tokens
from attriflow.evaluation.results import ExampleValues, MethodResult
from attriflow.evaluation.scoring import MetricRunner
from attriflow.kernels.seeds import hashed
from attriflow.types import Attribution, Example, Provenance

RANDOM_TOKENS = "random tokens"
"""The name of the curve, where methods have theirs."""
ORDERS = 4
"""Random orders that it is the mean of."""


def curved(runner: MetricRunner) -> list[str]:
    """The metrics that say that they have a curve."""
    return [name for name, metric in runner.metrics.items() if getattr(metric, "has_curve", False)]


def chance(runner: MetricRunner, examples: Sequence[Example]) -> MethodResult | None:
    """Curves for tokens in random order, the mean over `ORDERS` orders, as a method's would be; None without any."""
    names = curved(runner)
    if not names:
        return None
    drawn = [runner.values(names, order) for order in orders(examples, runner)]
    values = {name: [_mean(found) for found in zip(*(d[name] for d in drawn), strict=True)] for name in names}
    return MethodResult(name=RANDOM_TOKENS, family="control", values=values)


def orders(examples: Sequence[Example], runner: MetricRunner) -> list[list[Attribution]]:
    """Random scores, `[order][example]`, that depend on the example's tokens only.

    All are positive, so that metrics that remove positive ones only remove as many.
    """
    rngs = [
        [np.random.default_rng(hashed(RANDOM_TOKENS, n, *e.source_ids, *e.target_ids[: e.stop])) for e in examples]
        for n in range(ORDERS)
    ]
    both = runner.scorer.attribute_target
    return [[stand_in(e, both, rng) for e, rng in zip(examples, order, strict=True)] for order in rngs]


def stand_in(example: Example, attribute_target: bool = False, rng: np.random.Generator | None = None) -> Attribution:
    """An explanation with random positive scores, the same ones unless it is given what to draw them from."""
    inputs = example.inputs(attribute_target)
    rng = np.random.default_rng(0) if rng is None else rng
    scores = torch.from_numpy(rng.random((example.n_steps, len(inputs))))
    for step in range(example.n_steps):
        scores[step, len(example.source) + example.positions(step)[1] - 1 :] = torch.nan
    return Attribution(
        scores=scores,
        inputs=inputs,
        targets=step_tokens(example),
        start=example.positions(0)[0],
        provenance=Provenance(method="stand-in"),
        input_text=example.input_text,
        target_text=example.target_text,
        segments=example.segments,
        turns=example.turns,
        spans=example.spans,
    )


def _mean(orders: Sequence[ExampleValues]) -> ExampleValues:
    """The mean of curves that have the same points, as there are as many tokens."""
    curves = {
        step: tuple(
            (points[0][0], math.fsum(y for _, y in points) / len(points))
            for points in zip(*(values.curves[step] for values in orders), strict=True)
        )
        for step in orders[0].curves
        if all(step in values.curves for values in orders)
    }
    return ExampleValues(values=orders[0].values, skipped=orders[0].skipped, per_step=orders[0].per_step, curves=curves)
