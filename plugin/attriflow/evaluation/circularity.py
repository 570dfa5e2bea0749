"""Which methods were built with the perturbation that a metric scores them by, and how many places they gain by it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from attriflow.engine.baselines import baseline_id
from attriflow.engine.infill import INFILLS
from attriflow.engine.variants import TOKENS
from attriflow.errors import AttriflowError
from attriflow.evaluation.families import FAITHFUL, perturbation
from attriflow.evaluation.results import MethodResult
from attriflow.evaluation.selection import part_of
from attriflow.registry import methods

if TYPE_CHECKING:
    import pandas as pd

    from attriflow.models.base import LanguageModel

BASELINE = "baseline"
Token = Callable[[Any], Hashable]


def token_of(model: LanguageModel) -> Token:
    """What a name of a token, or an id, is for a model: the id; what is no token of it stays as it is."""

    def found(name: Any) -> Hashable:
        try:
            return baseline_id(model, name)
        except AttriflowError:
            return str(name)

    return found


def own_metrics(
    results: Sequence[MethodResult],
    kinds: Mapping[str, str],
    options: Mapping[str, Mapping[str, Any]],
    token: Token = str,
) -> dict[str, list[str]]:
    """Method -> faithfulness metrics that replace tokens as it does.

    Methods with an option `baseline` are built from what its token (any token of a list) does in place of others;
    metrics whose `perturbation` is the same token, or the same kind of draws, score them by what they were built with.

    Args:
        results: The methods.
        kinds: Metric -> family, see `attriflow.evaluation.families`.
        options: Metric -> options that were given.
        token: From `token_of`; by itself, names and ids are compared as they are.
    """
    scored: dict[Hashable, list[str]] = {}
    for metric in (m for m in kinds if kinds[m] in FAITHFUL):
        how = perturbation(metric, options)
        if how in INFILLS:
            scored.setdefault(how, []).append(metric)
        elif how in TOKENS or how.isdecimal():
            scored.setdefault(token(int(how) if how.isdecimal() else TOKENS[how]), []).append(metric)
    found = {}
    for result in results:
        part = methods.known(part_of(result.name))
        usual = None if part is None else part.options.get(BASELINE)
        if usual is None:
            continue
        used = result.options.get(BASELINE, usual)
        tokens = {token(one) for one in (used if isinstance(used, (list, tuple)) else [used])}
        mine = {metric for one in tokens for metric in scored.get(one, ())}
        if mine:
            found[result.name] = [metric for metric in kinds if metric in mine]
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
