"""What needs further passes over the same input."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from attriflow.errors import InputError
from attriflow.registry import step_functions
from attriflow.step_functions.distribution import entropy
from attriflow.step_functions.likelihood import probability

if TYPE_CHECKING:
    from torch import Tensor

    from attriflow.types import Forward, Passes


@step_functions.register(
    "mc_dropout_prob_avg",
    unit="probability",
    span="prod",
    higher="more likely",
    stepwise=False,
    passes=True,
    paper="Gal and Ghahramani 2016, arXiv:1506.02142",
)
def mc_dropout_prob_avg(forward: Forward, *, n_mcd_steps: int = 5, logprob: bool = False) -> Tensor:
    r"""Probability of the target token averaged over passes with dropout, $\frac1n \sum_i p_i(y_t \mid y_{<t}, x)$.

    Dropout masks depend on the seed, the number of the pass, the example and the position, so the numbers are the same
    alone and in any batch. The model keeps its mode. Without dropout in the model all passes are the same, and a
    warning says so. (Inseq returns the distance of the plain probability from this average in standard deviations.)

    Args:
        forward: Logits `[batch, step, vocab]`, target ids `[batch, step]`, and the passes behind them.
        n_mcd_steps: Number n of passes; the standard error of the average falls with its square root.
        logprob: Return the logarithm of the average (nats) instead.

    Returns:
        `[batch, step]`, in [0, 1] (or nats, at most 0).
    """
    import torch

    if n_mcd_steps < 1:
        raise InputError(f"n_mcd_steps must be at least 1, not {n_mcd_steps}")
    samples = [probability(f, logprob=True) for f in passes_of(forward, "mc_dropout_prob_avg").dropout(n_mcd_steps)]
    mean = torch.stack(samples).logsumexp(0) - math.log(n_mcd_steps)
    return mean if logprob else mean.exp()


@step_functions.register(
    "logit_lens_entropy",
    unit="nats",
    span="mean",
    higher="less certain",
    stepwise=False,
    passes=True,
    paper="nostalgebraist 2020; Belrose et al. 2023, arXiv:2303.08112",
)
def logit_lens_entropy(forward: Forward, *, layer: int | None = None) -> Tensor:
    r"""Entropy of the prediction that an earlier layer would make: its state through the final norm and the LM head.

    Low at layers where the model has already decided. One more forward pass.

    Args:
        forward: The passes behind it are what counts.
        layer: Which decoder layer, from 1 (the first) to the number of layers minus 1, negative numbers from the end;
            None averages over all of them.

    Returns:
        `[batch, step]`, in nats, from 0 to $\ln |V|$.
    """
    found = [entropy(f) for f in passes_of(forward, "logit_lens_entropy").lens(layer)]
    total = found[0]
    for value in found[1:]:
        total = total + value
    return total / len(found)


def passes_of(forward: Forward, name: str) -> Passes:
    """The passes behind a forward; plain tensors have none."""
    if forward.passes is None:
        raise InputError(f"step function '{name}' runs the model again, which a Forward of plain tensors cannot")
    return forward.passes
