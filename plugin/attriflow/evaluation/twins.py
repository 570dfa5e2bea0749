"""Which methods explain a data set alike: occlusion and feature ablation, say, where words are tokens."""

from __future__ import annotations

import numpy as np

from attriflow.evaluation.results import MethodResult

LOOKED_AT = 32
"""Examples whose scores are kept and compared."""
ALIKE = 1e-4
"""Largest difference of the scores of methods that are the same, as a part of the largest score."""


class Explanations:
    """The scores of the methods so far, of the first examples."""

    def __init__(self) -> None:
        self._known: dict[str, list[np.ndarray]] = {}

    def first_alike(self, result: MethodResult) -> str:
        """The first method that gave the same scores, "" without one; remembers those of this one.

        Scores are the same up to a factor per example and rounding: no metric sees more of them than that.
        """
        own = [_normed(a.token_scores().detach().double().cpu().numpy()) for a in result.attributions[:LOOKED_AT]]
        for name, other in self._known.items():
            if all(map(_alike, own, other)):
                return name
        self._known[result.name] = own
        return ""


def without_sign(result: MethodResult) -> bool:
    """Whether no score is negative, in the examples that are looked at."""
    return not any(bool((a.token_scores() < 0).any()) for a in result.attributions[:LOOKED_AT])


def _normed(scores: np.ndarray) -> np.ndarray:
    largest = np.nanmax(np.abs(scores), initial=0.0, where=np.isfinite(scores))
    return np.asarray(scores / largest if largest else scores, dtype=np.float32)


def _alike(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=0, atol=ALIKE, equal_nan=True))
