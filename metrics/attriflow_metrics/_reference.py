"""Pearson correlation with a reference explanation."""

from __future__ import annotations

import numpy as np

from attriflow_metrics._changes import Measured


def pearson(scores: np.ndarray, reference: np.ndarray, what: str) -> Measured:
    """Pearson correlation of scores with a reference, or why there is none."""
    if np.ptp(scores) == 0:
        return Measured(None, "constant scores")
    if np.ptp(reference) <= 1e-12:
        return Measured(None, f"constant {what}")
    return Measured(float(np.corrcoef(scores, reference)[0, 1]))
