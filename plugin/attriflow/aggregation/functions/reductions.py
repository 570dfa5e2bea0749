"""Several scores as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attriflow.registry import aggregation_functions

if TYPE_CHECKING:
    from torch import Tensor


@aggregation_functions.register("mean")
def mean(scores: Tensor, dim: int) -> Tensor:
    """Arithmetic mean."""
    return scores.mean(dim)


@aggregation_functions.register("max")
def maximum(scores: Tensor, dim: int) -> Tensor:
    """Largest score."""
    return scores.amax(dim)


@aggregation_functions.register("min")
def minimum(scores: Tensor, dim: int) -> Tensor:
    """Smallest score."""
    return scores.amin(dim)


@aggregation_functions.register("sum")
def total(scores: Tensor, dim: int) -> Tensor:
    """Sum: keeps what methods that share out a score have shared out."""
    return scores.sum(dim)


@aggregation_functions.register("prod")
def product(scores: Tensor, dim: int) -> Tensor:
    """Product: the probability of a span from those of its tokens."""
    return scores.prod(dim)


@aggregation_functions.register("absmax")
def absmax(scores: Tensor, dim: int) -> Tensor:
    """Score of the largest magnitude, with its sign: -0.7 of 0.3, -0.7 and 0.1."""
    return scores.gather(dim, scores.abs().nan_to_num(-1).argmax(dim, keepdim=True)).squeeze(dim)


@aggregation_functions.register("vnorm")
def vnorm(scores: Tensor, dim: int, *, vnorm_ord: float = 2) -> Tensor:
    """Vector norm of order `vnorm_ord`; the Euclidean length by default."""
    import torch

    return torch.linalg.vector_norm(scores, ord=vnorm_ord, dim=dim)
