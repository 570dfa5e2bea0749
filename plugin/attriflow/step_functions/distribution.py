"""What the whole predictive distribution looks like."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attriflow.registry import step_functions

if TYPE_CHECKING:
    from torch import Tensor

    from attriflow.types import Forward


@step_functions.register("entropy", unit="nats", span="mean", higher="less certain")
def entropy(forward: Forward) -> Tensor:
    r"""Shannon entropy of the predictive distribution, $-\sum_v p(v) \ln p(v)$.

    Args:
        forward: Logits `[batch, step, vocab]`.

    Returns:
        `[batch, step]`, in nats, from 0 to $\ln |V|$.
    """
    log_probs = forward.log_probs()
    # tokens ruled out with a logit of minus infinity add nothing: p ln p tends to 0
    terms = log_probs.exp() * log_probs.clamp(min=-1e30)
    return -terms.sum(-1)
