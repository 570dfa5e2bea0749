"""How likely the model finds the target token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attriflow.registry import step_functions

if TYPE_CHECKING:
    from torch import Tensor

    from attriflow.types import Forward

LN2 = 0.6931471805599453


@step_functions.register("logits", aliases=("logit",), unit="logit", span="mean", higher="more likely")
def logits(forward: Forward) -> Tensor:
    r"""Logit of the target token, $z_t[y_t]$.

    Args:
        forward: Logits `[batch, step, vocab]` and target ids `[batch, step]`.

    Returns:
        `[batch, step]`, unnormalised.
    """
    return forward.of_target(forward.logits)


@step_functions.register("probability", unit="probability", span="prod", higher="more likely")
def probability(forward: Forward, *, logprob: bool = False) -> Tensor:
    r"""Probability of the target token, $p(y_t \mid y_{<t}, x)$.

    Args:
        forward: Logits `[batch, step, vocab]` and target ids `[batch, step]`.
        logprob: Return the log-probability (nats) instead.

    Returns:
        `[batch, step]`, in [0, 1] (or nats, at most 0).
    """
    chosen = forward.of_target(forward.log_probs())
    return chosen if logprob else chosen.exp()


@step_functions.register("crossentropy", unit="nats", span="mean", higher="less likely")
def crossentropy(forward: Forward) -> Tensor:
    r"""Cross-entropy of the target token, $-\ln p(y_t \mid y_{<t}, x)$.

    Args:
        forward: Logits `[batch, step, vocab]` and target ids `[batch, step]`.

    Returns:
        `[batch, step]`, in nats, at least 0.
    """
    return -forward.of_target(forward.log_probs())


@step_functions.register("perplexity", unit="tokens", span="mean", higher="less likely")
def perplexity(forward: Forward) -> Tensor:
    r"""Perplexity of the target token, $\exp(-\ln p(y_t \mid y_{<t}, x)) = 1 / p$.

    The exponential of nats; Inseq takes 2 to the power of nats.

    Args:
        forward: Logits `[batch, step, vocab]` and target ids `[batch, step]`.

    Returns:
        `[batch, step]`, at least 1: among how many equally likely tokens the model would be as unsure.
    """
    return crossentropy(forward).exp()


@step_functions.register("surprisal", unit="bits", span="sum", higher="less likely", paper="Shannon 1948; Levy 2008")
def surprisal(forward: Forward) -> Tensor:
    r"""Surprisal of the target token, $-\log_2 p(y_t \mid y_{<t}, x)$: cross-entropy in bits.

    Args:
        forward: Logits `[batch, step, vocab]` and target ids `[batch, step]`.

    Returns:
        `[batch, step]`, in bits, at least 0; sums over tokens to the surprisal of a span.
    """
    return crossentropy(forward) / LN2
