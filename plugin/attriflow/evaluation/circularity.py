"""Which methods were built with the perturbation that a metric scores them by, and how many places they gain by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from attriflow.evaluation.families import FAITHFUL, perturbation
from attriflow.evaluation.results import MethodResult
from attriflow.evaluation.selection import part_of
from attriflow.registry import methods

if TYPE_CHECKING:
    import pandas as pd

BASELINE = "baseline"


def own_metrics(
    results: Sequence[MethodResult], kinds: Mapping[str, str], options: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[str]]:
    """Method -> faithfulness metrics that replace tokens as it does.

    Methods with an option `baseline` are built from what its token does in place of others; metrics with
    `perturbation="baseline"` use the same token, unless the method was given another.

    Args:
        results: The methods.
        kinds: Metric -> family, see `attriflow.evaluation.families`.
        options: Metric -> options that were given.
    """
    scored = [m for m in kinds if kinds[m] in FAITHFUL and perturbation(m, options) == BASELINE]
    found = {}
    for result in results:
        part = methods.known(part_of(result.name))
        usual = None if part is None else part.options.get(BASELINE)
        if scored and usual is not None and result.options.get(BASELINE, usual) == usual:
            found[result.name] = scored
    return found


def with_circularity(board: pd.DataFrame, own: Mapping[str, Sequence[str]], kinds: Mapping[str, str]) -> pd.DataFrame:
    """A leaderboard with `scored_by_own` (metrics that replace tokens as the method does) and `places_gained`.

    Places gained: mean place on the other faithfulness metrics less the mean place on those; NaN where one is missing.
    """
    ranked = [m for m in kinds if kinds[m] in FAITHFUL and f"{m}_rank" in board]
    gained = []
    for row in board.to_dict("records"):
        mine = own.get(row["method"], ())
        sides = [[row[f"{m}_rank"] for m in ranked if (m in mine) is side] for side in (False, True)]
        known = [[place for place in side if not np.isnan(place)] for side in sides]
        gained.append(float(np.mean(known[0]) - np.mean(known[1])) if all(known) else float("nan"))
    return board.assign(scored_by_own=[", ".join(own.get(m, ())) for m in board["method"]], places_gained=gained)
