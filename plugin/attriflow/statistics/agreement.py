"""How far methods agree, whatever the units of their scores: on one text, and over a data set with intervals.

Magnitudes are compared, since some methods give no sign. At each step the tokens that both attributions score are
ranked, special tokens left out; an example's number is the mean over its steps. Steps that say nothing are left out:
those with equal scores everywhere, and for `top_k_overlap` those with no more than `top_k` tokens. Measures (Krishna et
al. 2022, "The Disagreement Problem in Explainable Machine Learning", arXiv:2202.01602, use the first and the third):

- `spearman`: rank correlation, -1 to 1;
- `kendall`: tau-b, -1 to 1;
- `top_k_overlap`: share of the `top_k` most important tokens that both have, 0 to 1;
- `rank_biased_overlap`: the same over all depths, the top counting most (Webber et al. 2010), 0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from attriflow.errors import InputError
from attriflow.statistics.inference import bootstrap_intervals
from attriflow.statistics.ranks import (
    MEASURES,
    kendall_matrix,
    rank_biased_overlap_matrix,
    spearman_matrix,
    top_k_overlap_matrix,
)

if TYPE_CHECKING:
    import pandas as pd

    from attriflow.types import Attribution

TOP_K = 3
WORK = 2**25
"""Steps times squared tokens that a data set's agreement looks at: seconds with 25 methods, whatever the lengths."""


def agreement(attributions: Mapping[str, Attribution], top_k: int = TOP_K) -> pd.DataFrame:
    """Agreement of every pair of attributions of one text.

    Args:
        attributions: Label -> attribution; all of them of the same tokens and steps. Extra axes are reduced.
        top_k: How many tokens count as the most important ones.

    Returns:
        One row per pair, the best rank correlation first: `first` and `second` (labels) and one column per measure;
        NaN where no step says anything.

    Raises:
        InputError: The attributions are not of the same tokens, or `top_k` is not positive.
    """
    import pandas as pd

    if len({(a.inputs, a.targets) for a in attributions.values()}) > 1:
        raise InputError("the attributions give scores to different tokens; compare those of the same ones")
    values = _pairs([magnitudes(a) for a in attributions.values()], top_k)
    rows = [(*pair, *row) for pair, row in zip(combinations(attributions, 2), values, strict=True)]
    frame = pd.DataFrame(rows, columns=["first", "second", *MEASURES])
    return frame.sort_values("spearman", ascending=False, kind="stable", ignore_index=True)


def agreement_table(
    attributions: Mapping[str, Sequence[Attribution | np.ndarray]],
    top_k: int = TOP_K,
    *,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Agreement of every pair of methods over a data set, with bootstrap intervals over examples.

    Args:
        attributions: Method -> one attribution per example, or what `magnitudes` makes of it; all methods explain the
            same examples.
        top_k: How many tokens count as the most important ones.
        level: Coverage of the intervals.
        seed: For resampling.

    Returns:
        Tidy, one row per measure and pair: `first`, `second`, `measure`, `mean`, `low`, `high` and `n`, the number of
        examples in which a step says something. Of long data sets the first examples are compared (see `WORK`).

    Raises:
        InputError: The methods do not explain the same tokens, or `top_k` is not positive.
    """
    import pandas as pd

    rows = {name: [_array(a) for a in items] for name, items in attributions.items()}
    if len({len(items) for items in rows.values()}) > 1:
        counts = {name: len(items) for name, items in rows.items()}
        raise InputError(f"every method needs an attribution of every example; there are {counts}")
    pairs = list(combinations(rows, 2))
    examples = list(zip(*rows.values(), strict=True)) if pairs else []
    values = np.array([_pairs(e, top_k) for e in examples[: affordable([e[0].shape for e in examples])]])
    found = bootstrap_intervals(values.reshape(len(values), len(pairs) * len(MEASURES)), level=level, seed=seed)
    labels = [(*pair, measure) for pair in pairs for measure in MEASURES]
    frame = pd.DataFrame(
        [(*label, *interval) for label, interval in zip(labels, found, strict=True)],
        columns=["first", "second", "measure", "mean", "low", "high", "n"],
    )
    return frame.astype({"n": "int64", "mean": "float64", "low": "float64", "high": "float64"})


def magnitudes(attribution: Attribution) -> np.ndarray:
    """What is compared: absolute scores `[step, input]`, extra axes reduced.

    NaN where a step does not see an input, and for special tokens, which no metric judges either.
    """
    scores = np.array(attribution.token_scores().double().abs().cpu().numpy())
    scores[:, [token.special for token in attribution.inputs]] = np.nan
    return scores


def affordable(shapes: Sequence[tuple[int, ...]]) -> int:
    """How many of the first examples, of `[step, input]` scores each, fit into `WORK`; at least one."""
    spent = np.cumsum([steps * inputs**2 for steps, inputs in shapes])
    return max(1, int(np.sum(spent <= WORK)))


def _array(item: Attribution | np.ndarray) -> np.ndarray:
    return item if isinstance(item, np.ndarray) else magnitudes(item)


def _pairs(scores: Sequence[np.ndarray], top_k: int) -> np.ndarray:
    """Means over the steps of one example, `[pair, measure]`; NaN where no step says anything."""
    if not isinstance(top_k, int) or top_k < 1:
        raise InputError(f"top_k must be a positive integer, not {top_k!r}")
    if len({s.shape for s in scores}) > 1:
        raise InputError("the attributions give scores to different tokens; compare those of the same ones")
    first, second = np.triu_indices(len(scores), 1)
    if not len(first):
        return np.empty((0, len(MEASURES)))
    steps, inputs = scores[0].shape
    count = min(steps, max(1, WORK // max(1, inputs**2)))  # of very long ones, steps evenly apart
    chosen = np.unique(np.linspace(0, steps - 1, count).round().astype(int))
    values = np.array([_measures(np.stack([s[i] for s in scores]), top_k)[:, first, second] for i in chosen])
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.asarray((np.where(known, values, 0).sum(0) / known.sum(0)).T)


def _measures(scores: np.ndarray, top_k: int) -> np.ndarray:
    """All measures at one step, `[method, input]` -> `[measure, method, method]`."""
    seen = np.isfinite(scores)
    common = seen.all(0)
    if (seen != common).any():  # some method leaves out what others score: every pair by itself
        return _uneven(scores, seen, top_k)
    scores = scores[:, common]
    size = scores.shape[1]
    empty = np.full((len(scores), len(scores)), np.nan)
    if size < 2:
        return np.stack([empty] * len(MEASURES))
    silent = np.ptp(scores, axis=1) == 0
    said = ~(silent[:, None] | silent[None, :])
    overlap = top_k_overlap_matrix(scores, top_k) if size > top_k else empty
    found = (spearman_matrix(scores), kendall_matrix(scores), overlap, rank_biased_overlap_matrix(scores))
    return np.stack([np.where(said, matrix, np.nan) for matrix in found])


def _uneven(scores: np.ndarray, seen: np.ndarray, top_k: int) -> np.ndarray:
    out = np.full((len(MEASURES), len(scores), len(scores)), np.nan)
    for i, j in combinations(range(len(scores)), 2):
        both = seen[i] & seen[j]
        if both.any():
            out[:, i, j] = _measures(scores[[i, j]][:, both], top_k)[:, 0, 1]
    return out
