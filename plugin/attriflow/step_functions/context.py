"""What an input changes: the prediction after one input against the prediction after another.

The other input is the contrastive one (`contrast_targets`, `contrast_sources`), and it is the one that HOLDS the
context: the functions are positive where its context makes the target token more likely. With the sides exchanged the
signs of `pcxmi` and `in_context_pvi` are, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attriflow.errors import InputError
from attriflow.registry import step_functions
from attriflow.step_functions.contrast import foil
from attriflow.step_functions.likelihood import LN2, probability

if TYPE_CHECKING:
    from torch import Tensor

    from attriflow.types import Forward


@step_functions.register(
    "pcxmi",
    unit="bits",
    span="sum",
    contrast="inputs",
    higher="the context of the contrastive input helps",
    paper="Yin et al. 2021, arXiv:2109.07446; Fernandes et al. 2021, arXiv:2105.03482",
)
def pcxmi(forward: Forward) -> Tensor:
    r"""Pointwise cross-mutual information of the target and the context, $\log_2 p(y_t \mid c) - \log_2 p(y_t)$.

    The probability with context, $p(\cdot \mid c)$, is that of the aligned token after the contrastive input; the one
    without is that of the target after the original input. Positive where the context helps.

    Args:
        forward: Logits `[batch, step, vocab]`, target ids `[batch, step]`, and the same of the contrastive input.

    Returns:
        `[batch, step]`, in bits, 0 where the context changes nothing.
    """
    return in_context_pvi(forward) / LN2


@step_functions.register(
    "in_context_pvi",
    unit="nats",
    span="sum",
    contrast="inputs",
    higher="the context of the contrastive input helps",
    paper="Lu et al. 2023, arXiv:2310.12300",
)
def in_context_pvi(forward: Forward) -> Tensor:
    r"""In-context pointwise V-usable information, $\ln p(y_t \mid c) - \ln p(y_t)$: P-CXMI in nats.

    The contrastive input holds the context (the in-context examples of the paper). The paper takes logarithms to base
    2; nats are Inseq's choice, and one is the other times ln 2.

    Args:
        forward: Logits `[batch, step, vocab]`, target ids `[batch, step]`, and the same of the contrastive input.

    Returns:
        `[batch, step]`, in nats, 0 where the context changes nothing.
    """
    return probability(foil(forward), logprob=True) - probability(forward, logprob=True)


@step_functions.register(
    "kl_divergence",
    unit="nats",
    span="sum",
    contrast="inputs",
    higher="the context changes the prediction more",
    paper="Sarti et al. 2024, arXiv:2310.01188",
)
def kl_divergence(forward: Forward, *, top_k: int = 0, top_p: float = 1.0, min_tokens_to_keep: int = 1) -> Tensor:
    r"""Kullback-Leibler divergence of the predictions after two inputs, $\sum_v p(v) (\ln p(v) - \ln q(v))$.

    p is the distribution after the original input, q the one after the contrastive input (which holds the context in
    `attribute_context`), so this is $D_{KL}(p_{\text{original}} \,\|\, q_{\text{contrastive}})$. With `top_p` or
    `top_k` both are restricted to the tokens that are likeliest under their product and normalised again.

    Args:
        forward: Logits `[batch, step, vocab]` of the original and of the contrastive input.
        top_k: Keep so many tokens; 0 keeps all.
        top_p: Keep the fewest tokens that have this much probability under the (normalised) product of p and q;
            applied before `top_k`.
        min_tokens_to_keep: Never keep fewer.

    Returns:
        `[batch, step]`, in nats, at least 0.
    """
    other = foil(forward)
    p, q = forward.log_probs(), other.log_probs()
    if top_k or top_p < 1:
        dropped = _filtered((p + q).detach(), top_k, top_p, min_tokens_to_keep)
        p, q = (t.masked_fill(dropped, -1e30).log_softmax(-1) for t in (p, q))
    # tokens that p rules out add nothing: p ln p tends to 0
    p, q = p.clamp(min=-1e30), q.clamp(min=-1e30)
    return (p.exp() * (p - q)).sum(-1)


def _filtered(logits: Tensor, top_k: int, top_p: float, least: int) -> Tensor:
    """Bool `[batch, step, vocab]`: tokens outside the nucleus or the top k."""
    check_top(top_p, least)
    vocabulary = logits.shape[-1]
    if not 0 <= top_k <= vocabulary:
        raise InputError(f"top_k must be from 0 (all) to the size of the vocabulary ({vocabulary}), not {top_k}")
    out = outside_nucleus(logits, top_p, least)
    if top_k:
        lowest = logits.masked_fill(out, -1e30).topk(max(top_k, least), -1).values[..., -1:]
        out = out | (logits < lowest)
    return out


def check_top(top_p: float, least: int = 1) -> None:
    """Raise `InputError` for impossible limits."""
    if not 0 < top_p <= 1:
        raise InputError(f"top_p must be above 0 and at most 1, not {top_p}")
    if least < 1:
        raise InputError(f"min_tokens_to_keep must be at least 1, not {least}")


def outside_nucleus(logits: Tensor, top_p: float, least: int = 1) -> Tensor:
    """Bool `[batch, step, vocab]`: not among the fewest tokens whose probabilities sum to `top_p` or more."""
    ordered, index = logits.sort(dim=-1, descending=True)
    probability = ordered.softmax(-1)
    before = probability.cumsum(-1) - probability
    # the likeliest tokens are in as long as those before them do not have enough
    dropped = before >= top_p
    dropped[..., :least] = False
    return dropped.scatter(-1, index, dropped)
