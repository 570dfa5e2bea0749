"""Quadrature rules on [0, 1] for path integrals."""

from __future__ import annotations

from typing import Literal

import numpy as np

from attriflow.errors import InputError, check_least

Rule = Literal["gausslegendre", "riemann_trapezoid", "riemann_middle", "riemann_left", "riemann_right"]
MOST_NODES, MOST_POINTS = 5000, 10**6
"""Of Gauss and Legendre's rule, whose nodes take time that grows with the cube of their number; of the others."""


def quadrature(rule: Rule, n_steps: int, captum: bool = False) -> tuple[list[float], list[float]]:
    """Nodes and weights of a rule with `n_steps` points; the weights sum to 1.

    Nodes are rounded to float32 as captum's are, which moves the integral by far less than the rule's own error and
    makes scores comparable to the last digit.

    Args:
        rule: Which rule.
        n_steps: How many points.
        captum: The trapezoid's weights sum to (n - 1) / n, as captum's do.
    """
    nodes, weights = _rule(rule, n_steps)
    if captum and rule == "riemann_trapezoid":
        weights = weights * (n_steps - 1) / n_steps
    return np.asarray(nodes, dtype=np.float32).astype(float).tolist(), weights.tolist()


def _rule(rule: Rule, n_steps: int) -> tuple[np.ndarray, np.ndarray]:
    check_least("n_steps", n_steps, 2 if rule == "riemann_trapezoid" else 1)
    most = MOST_NODES if rule == "gausslegendre" else MOST_POINTS
    if n_steps > most:
        raise InputError(f"n_steps may be {most} at most with the rule '{rule}', not {n_steps}")
    if rule == "gausslegendre":
        nodes, weights = np.polynomial.legendre.leggauss(n_steps)
        return (1 + nodes) / 2, weights / 2
    if rule == "riemann_trapezoid":
        weights = np.full(n_steps, 1 / (n_steps - 1))
        weights[[0, -1]] /= 2
        return np.linspace(0, 1, n_steps), weights
    shift = {"riemann_left": 0.0, "riemann_middle": 0.5, "riemann_right": 1.0}[rule]
    return (np.arange(n_steps) + shift) / n_steps, np.full(n_steps, 1 / n_steps)
