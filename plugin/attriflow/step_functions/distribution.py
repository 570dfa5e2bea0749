"""What the whole predictive distribution looks like."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attriflow.registry import step_functions
from attriflow.step_functions.context import check_top, outside_nucleus

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


@step_functions.register(
    "top_p_size", unit="tokens", span="mean", higher="less certain", differentiable=False, paper="Holtzman et al. 2020"
)
def top_p_size(forward: Forward, *, top_p: float = 0.9) -> Tensor:
    r"""Size of the nucleus: the fewest tokens whose probabilities sum to `top_p` or more.

    Counted for every sequence and step (Inseq counts over the batch). A count has no gradient.

    Args:
        forward: Logits `[batch, step, vocab]`.
        top_p: Probability mass, above 0 and at most 1 (arXiv:1904.09751).

    Returns:
        `[batch, step]`, a number of tokens, at least 1.
    """
    check_top(top_p)
    return (~outside_nucleus(forward.logits, top_p)).sum(-1).to(forward.logits.dtype)


@step_functions.register(
    "rank", unit="rank", span="mean", higher="less likely", differentiable=False, paper="Gehrmann et al. 2019"
)
def rank(forward: Forward) -> Tensor:
    r"""Rank of the target token, $1 + |\{v : z_t[v] > z_t[y_t]\}|$; 1 where it is the likeliest.

    A count has no gradient. As in GLTR (arXiv:1906.04043).

    Args:
        forward: Logits `[batch, step, vocab]` and target ids `[batch, step]`.

    Returns:
        `[batch, step]`, from 1 to the size of the vocabulary; ties do not count against the target.
    """
    own = forward.of_target(forward.logits).unsqueeze(-1)
    return (forward.logits > own).sum(-1).to(forward.logits.dtype) + 1


@step_functions.register("margin", unit="logit", span="mean", higher="more clearly the target")
def margin(forward: Forward) -> Tensor:
    r"""Logit of the target minus that of the likeliest other token, $z_t[y_t] - \max_{v \ne y_t} z_t[v]$.

    Equal to the difference of their log-probabilities (nats). Negative where another token is likelier.

    Args:
        forward: Logits `[batch, step, vocab]` and target ids `[batch, step]`.

    Returns:
        `[batch, step]`.
    """
    others = forward.logits.scatter(-1, forward.target_ids.unsqueeze(-1), float("-inf"))
    return forward.of_target(forward.logits) - others.amax(-1)
