"""Rank correlations and overlaps of all pairs at once, against scipy and definitions."""

from __future__ import annotations

import math
from itertools import chain, permutations, product

import numpy as np
import pytest
import scipy.stats

from attriflow.statistics.ranks import (
    kendall_matrix,
    mean_ranks,
    rank_biased_overlap_matrix,
    similarity,
    spearman,
    spearman_matrix,
    top_k_overlap_matrix,
)


@pytest.fixture(params=["ties", "no ties"])
def scores(request):
    values = np.random.default_rng(0).normal(size=(6, 9))
    return values.round() if request.param == "ties" else values


def test_correlations_agree_with_scipy(scores):
    rho, tau = spearman_matrix(scores), kendall_matrix(scores)
    for i, a in enumerate(scores):
        for j, b in enumerate(scores):
            assert rho[i, j] == pytest.approx(scipy.stats.spearmanr(a, b).statistic, abs=1e-12)
            assert tau[i, j] == pytest.approx(scipy.stats.kendalltau(a, b).statistic, abs=1e-12)
        np.testing.assert_allclose(mean_ranks(scores)[i], scipy.stats.rankdata(a))


def test_constant_vectors_have_no_correlation():
    assert math.isnan(spearman(np.ones(4), np.arange(4.0)))
    assert np.isnan(kendall_matrix(np.stack([np.ones(4), np.arange(4.0)]))[0, 1])
    assert similarity(np.ones(4), np.ones(4)) == 1.0
    assert similarity(np.ones(4), np.arange(4.0)) == 0.0
    assert similarity(np.array([1.0, -2, 3]), np.array([-1.0, 2, -3])) == pytest.approx(1)


def test_top_k_overlap_by_hand():
    scores = np.array([[3.0, 2, 1, 0], [0.0, 3, 2, 1], [0.0, 1, 2, 3]])
    np.testing.assert_allclose(top_k_overlap_matrix(scores, 2), [[1, 0.5, 0], [0.5, 1, 0.5], [0, 0.5, 1]])
    assert (top_k_overlap_matrix(scores, 9) == 1).all()


def orders(values):
    """All rankings of a vector's items, with every order of equal scores."""
    groups = [list(np.flatnonzero(values == v)) for v in sorted(set(values), reverse=True)]
    return [list(chain(*parts)) for parts in product(*(permutations(g) for g in groups))]


def shared(a, b, depth):
    """Mean number of items that both have among the first ones, over all orders of equal scores."""
    return np.mean([len(set(x[:depth]) & set(y[:depth])) for x in orders(a) for y in orders(b)])


def test_rank_biased_overlap_by_its_definition():
    scores = np.random.default_rng(1).normal(size=(4, 6))
    for p in (0.5, 0.9):
        found = rank_biased_overlap_matrix(scores, p)
        for i, a in enumerate(scores):
            for j, b in enumerate(scores):
                wanted = p**6 + (1 - p) / p * sum(shared(a, b, d) / d * p**d for d in range(1, 7))
                assert found[i, j] == pytest.approx(wanted, abs=1e-12)


def test_equal_scores_share_their_places():
    """The expected overlap over all orders of ties, relative to that of each vector with itself."""
    scores = np.random.default_rng(2).integers(0, 3, size=(5, 6)).astype(float)
    share = [np.array([[shared(a, b, d) for b in scores] for a in scores]) for d in range(1, 7)]
    inside = [[[np.mean([i in o[:d] for o in orders(a)]) for i in range(6)] for a in scores] for d in range(1, 7)]
    own = [np.sqrt(np.square(x).sum(1)) for x in map(np.array, inside)]
    agreed = [s / np.outer(o, o) for s, o in zip(share, own, strict=True)]
    # two vectors break their ties independently, a vector and itself do not
    off = ~np.eye(5, dtype=bool)
    np.testing.assert_allclose(top_k_overlap_matrix(scores, 2)[off], agreed[1][off], atol=1e-12)
    wanted = 0.8**6 + 0.2 / 0.8 * sum(x * 0.8**d for d, x in enumerate(agreed, 1))
    found = rank_biased_overlap_matrix(scores, 0.8)
    np.testing.assert_allclose(found[off], wanted[off], atol=1e-12)
    np.testing.assert_allclose(np.diag(found), 1, atol=1e-12)
    constant = np.stack([np.ones(6), np.arange(6.0)])
    backwards = np.stack([np.ones(6), -np.arange(6.0)])
    # a vector without an order prefers no direction
    np.testing.assert_allclose(
        rank_biased_overlap_matrix(constant)[0, 1], rank_biased_overlap_matrix(backwards)[0, 1], atol=1e-12
    )
