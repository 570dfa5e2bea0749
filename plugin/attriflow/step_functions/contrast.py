"""The target token against a foil.

Step functions declare what they compare: `contrast="tokens"` two tokens (as the attributed function after the original
input, unless `contrast_force_inputs` is set), `contrast="inputs"` the predictions after two inputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attriflow.registry import step_functions
from attriflow.step_functions.likelihood import logits, probability

if TYPE_CHECKING:
    from torch import Tensor

    from attriflow.types import Forward

PAPER = "Yin and Neubig 2022, arXiv:2202.10419"


def foil(forward: Forward) -> Forward:
    """The foil; without contrastive inputs, the target itself."""
    return forward if forward.contrast is None else forward.contrast


@step_functions.register(
    "contrast_logits", unit="logit", span="mean", contrast="tokens", higher="foil more likely", paper=PAPER
)
def contrast_logits(forward: Forward) -> Tensor:
    r"""Logit of the foil, $z_t[y^*_t]$.

    Args:
        forward: Logits `[batch, step, vocab]`, target ids `[batch, step]`, and the same of the foil.

    Returns:
        `[batch, step]`, unnormalised.
    """
    return logits(foil(forward))


@step_functions.register(
    "contrast_prob", unit="probability", span="prod", contrast="tokens", higher="foil more likely", paper=PAPER
)
def contrast_prob(forward: Forward, *, logprob: bool = False) -> Tensor:
    r"""Probability of the foil, $p(y^*_t)$.

    Args:
        forward: Logits `[batch, step, vocab]`, target ids `[batch, step]`, and the same of the foil.
        logprob: Return the log-probability (nats) instead.

    Returns:
        `[batch, step]`, in [0, 1] (or nats, at most 0).
    """
    return probability(foil(forward), logprob=logprob)


@step_functions.register(
    "contrast_logits_diff",
    unit="logit",
    span="mean",
    contrast="tokens",
    difference=True,
    higher="target preferred",
    paper=PAPER,
)
def contrast_logits_diff(forward: Forward) -> Tensor:
    r"""Logit of the target minus logit of the foil, $z_t[y_t] - z_t[y^*_t]$; positive when the target is preferred.

    Args:
        forward: Logits `[batch, step, vocab]`, target ids `[batch, step]`, and the same of the foil.

    Returns:
        `[batch, step]`.
    """
    return logits(forward) - contrast_logits(forward)


@step_functions.register(
    "contrast_prob_diff",
    unit="probability",
    span="mean",
    contrast="tokens",
    difference=True,
    higher="target preferred",
    paper=PAPER,
)
def contrast_prob_diff(forward: Forward, *, logprob: bool = False) -> Tensor:
    r"""Probability of the target minus that of the foil, $p(y_t) - p(y^*_t)$; positive when the target is preferred.

    Args:
        forward: Logits `[batch, step, vocab]`, target ids `[batch, step]`, and the same of the foil.
        logprob: Difference of log-probabilities (nats) instead.

    Returns:
        `[batch, step]`, in [-1, 1] (or nats).
    """
    return probability(forward, logprob=logprob) - contrast_prob(forward, logprob=logprob)
