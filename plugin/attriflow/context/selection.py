"""Which scores stand out: a threshold on magnitudes, then the largest of them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def threshold(scores: Sequence[float], stds: float | None) -> float:
    """Mean of the magnitudes plus `stds` standard deviations (of the sample); 0 when everything is taken.

    Inseq compares magnitudes with the mean and deviation of signed scores, so that with scores of both signs the
    threshold is too low.
    """
    sizes = [abs(s) for s in scores]
    if stds is None or not sizes:
        return 0.0
    if len(sizes) == 1 or not stds:
        return statistics.fmean(sizes)
    return statistics.fmean(sizes) + stds * statistics.stdev(sizes)


def select(scores: Sequence[float], least: float, topk: int | None = None) -> list[int]:
    """Places of the scores whose magnitude is at least `least` and not 0, largest first, at most `topk` of them."""
    # the mean of equal numbers may lie a rounding error above them
    kept = [i for i, s in enumerate(scores) if abs(s) >= least * (1 - 1e-9) and s != 0]
    kept.sort(key=lambda i: (-abs(scores[i]), i))
    return kept if topk is None else kept[:topk]
