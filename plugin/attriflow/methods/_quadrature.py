"""Quadrature rules on [0, 1] for path integrals."""

from __future__ import annotations

from typing import Literal

import numpy as np

from attriflow.errors import InputError, check_choice

Rule = Literal["gausslegendre", "riemann_trapezoid", "riemann_middle", "riemann_left", "riemann_right"]
RULES = ("gausslegendre", "riemann_trapezoid", "riemann_middle", "riemann_left", "riemann_right")


def quadrature(rule: str, n_steps: int) -> tuple[list[float], list[float]]:
    """Nodes and weights of a rule with `n_steps` points, the same as captum's.

    Nodes are rounded to float32 as captum's are, which moves the integral by far less than the rule's own error and
    makes scores comparable to the last digit. The trapezoid's weights sum to (n - 1) / n, also as in captum.
    """
    nodes, weights = _rule(rule, n_steps)
    return np.asarray(nodes, dtype=np.float32).astype(float).tolist(), weights.tolist()


def _rule(rule: str, n_steps: int) -> tuple[np.ndarray, np.ndarray]:
    check_choice("quadrature", rule, RULES)
    if not isinstance(n_steps, int) or n_steps < 1 or (rule == "riemann_trapezoid" and n_steps < 2):
        least = 2 if rule == "riemann_trapezoid" else 1
        raise InputError(f"n_steps must be an integer of at least {least}, not {n_steps!r}")
    if rule == "gausslegendre":
        nodes, weights = np.polynomial.legendre.leggauss(n_steps)
        return (1 + nodes) / 2, weights / 2
    uniform = np.full(n_steps, 1 / n_steps)
    if rule == "riemann_trapezoid":
        uniform[[0, -1]] /= 2
        return np.linspace(0, 1, n_steps), uniform
    shift = {"riemann_left": 0.0, "riemann_middle": 0.5, "riemann_right": 1.0}[rule]
    return (np.arange(n_steps) + shift) / n_steps, uniform
