"""How far score vectors agree on what matters: rank correlations and overlaps, for all pairs at once.

Plain numpy: with twenty methods on every step of a data set, one call per pair would take minutes.
"""

from __future__ import annotations

import math

import numpy as np

MEASURES = ("spearman", "kendall", "top_k_overlap", "rank_biased_overlap")


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation of two vectors; NaN where one of them is constant."""
    return float(spearman_matrix(np.stack([a, b]))[0, 1])


def spearman_matrix(scores: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation with mean ranks for ties, `[vector, item]` -> `[vector, vector]`.

    NaN where a vector is constant.
    """
    ranks = mean_ranks(scores)
    return _correlation(ranks)


def kendall_matrix(scores: np.ndarray) -> np.ndarray:
    """Kendall's tau-b, which accounts for ties, `[vector, item]` -> `[vector, vector]`; NaN where one is constant."""
    first, second = np.triu_indices(scores.shape[1], 1)
    signs = np.sign(scores[:, first] - scores[:, second])
    lengths = np.sqrt((signs**2).sum(1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(signs @ signs.T / np.outer(lengths, lengths))


def top_k_overlap_matrix(scores: np.ndarray, k: int) -> np.ndarray:
    """Share of the `k` highest items that two vectors have in common (all items where there are fewer).

    Items with the same score share the places left among the `k`; of such parts of items the cosine is taken, so that
    a vector agrees with itself. Without ties it is the plain share.

    Args:
        scores: `[vector, item]`.
        k: From 1.

    Returns:
        `[vector, vector]`, 0 to 1.
    """
    top = _membership(scores, min(k, scores.shape[1]))
    return _cosine(top)


def rank_biased_overlap_matrix(scores: np.ndarray, p: float = 0.9) -> np.ndarray:
    r"""Extrapolated rank-biased overlap of whole rankings (Webber et al. 2010, equation 32); 1 = the same order.

    $\frac{X_n}{n} p^n + \frac{1 - p}{p} \sum_{d=1}^n \frac{X_d}{d} p^d$ with $X_d$ the items that both have among their
    first $d$. The smaller `p`, the more the top counts. Items with the same score share the places that they take
    together, and $X_d / d$ is the cosine of such parts of items (variant b of Corsi and Urbano 2024), which without
    ties is the plain share.

    Args:
        scores: `[vector, item]`.
        p: Between 0 and 1: how likely a reader is to look at the next item.

    Returns:
        `[vector, vector]`, 0 to 1.
    """
    count, n = scores.shape
    out = np.full((count, count), p**n)  # at depth n everything is shared
    for depth in range(1, n + 1):
        out += (1 - p) / p * p**depth * _cosine(_membership(scores, depth))
    return out


def _membership(scores: np.ndarray, depth: int) -> np.ndarray:
    """How much of each item is among the first `depth` of its vector, `[vector, item]`, 0 to 1."""
    ordered = -np.sort(-scores, axis=1)
    last = ordered[:, depth - 1 : depth]  # who ties with it shares the places that are left
    above, tied = scores > last, scores == last
    left = depth - above.sum(1, keepdims=True)
    return np.asarray(above + tied * (left / tied.sum(1, keepdims=True)))


def _cosine(values: np.ndarray) -> np.ndarray:
    lengths = np.sqrt((values**2).sum(1))
    return np.asarray(values @ values.T / np.outer(lengths, lengths))


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's correlation of the magnitudes of two explanations of the same tokens.

    Defined for constant ones, too: 1 for two that are the same up to a factor, 0 if only one of them has an order.
    """
    a, b = np.abs(a), np.abs(b)
    value = spearman(a, b)
    if not math.isnan(value):
        return value
    return 1.0 if np.ptp(a) == np.ptp(b) == 0 else 0.0


def descending(scores: np.ndarray) -> np.ndarray:
    """Indices from the highest score to the lowest, `[..., item]`; of equal ones the first comes first."""
    return np.asarray(np.argsort(-scores, axis=-1, kind="stable"))


def mean_ranks(scores: np.ndarray) -> np.ndarray:
    """Ranks from 1, equal scores share their mean, `[vector, item]`."""
    below = (scores[:, None, :] < scores[:, :, None]).sum(-1)
    equal = (scores[:, None, :] == scores[:, :, None]).sum(-1)
    return np.asarray(below + (equal + 1) / 2)


def _correlation(values: np.ndarray) -> np.ndarray:
    centred = values - values.mean(1, keepdims=True)
    lengths = np.sqrt((centred**2).sum(1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.clip(centred @ centred.T / np.outer(lengths, lengths), -1, 1))
