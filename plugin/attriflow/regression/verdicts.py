"""Verdicts: whether costs and scores became worse than the rules allow, by more than noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from attriflow.regression.rules import Rules
from attriflow.statistics import bootstrap_interval, holm, permutation_p_values

OK, REGRESSION, MISSING, NEW, UNTESTED = "ok", "regression", "missing", "new", "untested"
ROUNDING = 1e-6
"""Differences of scores up to this are rounding."""
RESAMPLES = 10000


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """About one benchmark, or one metric of one method.

    Attributes:
        name: Of the benchmark, the method, or method/metric.
        kind: "speed" or "quality".
        outcome: "ok", "regression", "missing" (the baseline has it, the current result does not), "new" (the other way
            round) or "untested" (nothing could be said).
        failed: Whether it fails the check.
        baseline, current: Forward-pass equivalents, or means of the metric; NaN where there is none.
        message: One sentence.
    """

    name: str
    kind: str
    outcome: str
    failed: bool
    baseline: float
    current: float
    message: str


def judge_costs(
    baseline: Mapping[str, Sequence[float]],
    current: Mapping[str, Sequence[float]],
    rules: Rules,
    unit: str = "forward-pass equivalents",
) -> list[Verdict]:
    """Costs against those of the baseline.

    It is a regression when the median over rounds is more than `max_slowdown` times that of the baseline, also at the
    lower end of the ratio's 90% bootstrap interval over rounds, and grew by more than `slack`.

    Args:
        baseline, current: Name -> forward-pass equivalents of each round.
        rules: Limits.
        unit: What the costs are, if something else.
    """
    out = []
    for name, before in baseline.items():
        after = current.get(name)
        out.append(
            _absent(name, "speed", float(np.median(before)), rules)
            if after is None
            else _cost(name, np.asarray(before, dtype=float), np.asarray(after, dtype=float), rules, unit)
        )
    out += [new(name, "speed", float(np.median(after))) for name, after in current.items() if name not in baseline]
    return out


def _number(cost: float) -> str:
    return f"{cost:.0f}" if cost >= 100 or cost.is_integer() else f"{cost:.3g}"


def _cost(name: str, before: np.ndarray, after: np.ndarray, rules: Rules, unit: str) -> Verdict:
    limit, slack = rules.speed(name)
    old, new_ = float(np.median(before)), float(np.median(after))
    ratio = new_ / old if old > 0 else math.inf if new_ > 0 else 1.0
    text = f"{ratio:.2f} times the cost: {_number(new_)} {unit}, {_number(old)} in the baseline"
    verdict = partial(Verdict, name=name, kind="speed", baseline=old, current=new_)
    if limit is None:
        return verdict(outcome=OK, failed=False, message=f"{text}; no limit")
    least = _least_ratio(before, after)
    allowed = f"{limit:g} times is allowed"
    if ratio <= limit:
        return verdict(outcome=OK, failed=False, message=f"{text}; {allowed}")
    if new_ - old <= slack:
        why = f"but grew by no more than the slack of {slack:g}"
    elif least <= limit:
        why = f"but by the spread of its rounds it may be only {least:.2f} times"
    else:
        sure = f", at least {least:.2f} times by the spread of the rounds" if len(after) > 1 else ""
        return verdict(outcome=REGRESSION, failed=True, message=f"slower: {text}{sure}; {allowed}")
    return verdict(outcome=OK, failed=False, message=f"{text}; {allowed}, {why}")


def _least_ratio(before: np.ndarray, after: np.ndarray) -> float:
    """Lower end of the 90% bootstrap interval of the ratio of medians."""
    rng = np.random.default_rng(0)
    old, new_ = (np.median(rng.choice(rounds, (2000, len(rounds))), axis=1) for rounds in (before, after))
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.nan_to_num(np.quantile(new_ / old, 0.05), nan=1.0, posinf=math.inf))


@dataclass(frozen=True, kw_only=True)
class Scores:
    """A metric of a method in both results, example by example.

    Attributes:
        baseline, current: `[example]`, NaN without a value.
    """

    method: str
    metric: str
    higher_is_better: bool
    baseline: np.ndarray
    current: np.ndarray

    @property
    def name(self) -> str:
        """Method/metric."""
        return f"{self.method}/{self.metric}"


def judge_scores(scores: Sequence[Scores], rules: Rules, *, seed: int = 0) -> list[Verdict]:
    """Scores against those of the baseline, on the same examples.

    It is a regression when the mean drop is larger than `max_drop` beyond chance: the p-value of "no larger" falls
    below `level` after Holm's correction for all tests of the check. That p-value is the larger one of two: the paired
    bootstrap's (the share of resamples of the examples whose mean drop is no larger), and the one-sided sign-flip
    test's, because the bootstrap is too sure of few examples. Or when the mean is below `min_value` (above
    `max_value`), with all of its 95% bootstrap interval.

    Args:
        scores: What to judge.
        rules: Limits.
        seed: For resampling.
    """
    limits = [rules.quality(s.method, s.metric, s.higher_is_better) for s in scores]
    drops = [(s.baseline - s.current) * (1 if s.higher_is_better else -1) for s in scores]
    tested = [i for i, (limit, _) in enumerate(limits) if limit is not None and not np.isnan(drops[i]).all()]
    beyond = [drops[i] - float(limits[i][0] or 0.0) - ROUNDING for i in tested]
    adjusted = dict(zip(tested, holm(p_values(beyond, max(RESAMPLES, 40 * len(tested)), seed)), strict=True))
    return [
        _score(s, drops[i], limits[i], adjusted.get(i, math.nan), len(tested), rules.level)
        for i, s in enumerate(scores)
    ]


def p_values(drops: Sequence[np.ndarray], n: int, seed: int = 0) -> np.ndarray:
    """One-sided p-values of "the mean is not above 0", see `judge_scores`.

    Args:
        drops: Per test `[example]`, NaN without a value.
        n: Resamples and sign flips.
        seed: For resampling.

    Returns:
        `[test]`.
    """
    if not drops:
        return np.zeros(0)
    rows = [d[~np.isnan(d)] for d in drops]
    out = np.ones(len(rows))
    for size in sorted({len(r) for r in rows}):
        where = [i for i, r in enumerate(rows) if len(r) == size]
        part = np.stack([rows[i] for i in where])
        flips = permutation_p_values(part, n=n, seed=seed)
        flips = np.where(part.mean(1) > 0, flips / 2, 1.0)
        counts = np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), size=n)
        below = (counts @ part.T <= 0).sum(0)
        out[where] = np.maximum((1 + below) / (1 + n), flips)
    return out


def _score(
    s: Scores, drop: np.ndarray, limits: tuple[float | None, float | None], p: float, tests: int, level: float
) -> Verdict:
    limit, bound = limits
    paired = ~np.isnan(drop)
    n = int(paired.sum())
    old, now = (float(np.mean(v[paired])) if n else math.nan for v in (s.baseline, s.current))
    verdict = partial(Verdict, name=s.name, kind="quality", baseline=old, current=now)
    bad = _beyond_bound(s, bound)
    if bad:
        return verdict(outcome=REGRESSION, failed=True, message=bad)
    if not n:
        return verdict(outcome=UNTESTED, failed=False, message="no example has a value in both results")
    mean = float(np.mean(drop[paired]))
    text = f"mean {now:.3f}, {old:.3f} in the baseline (n={n})"
    if limit is None:
        return verdict(outcome=OK, failed=False, message=f"{text}; no limit")
    allowed = f"a drop of {limit:g} is allowed"
    if p < level:
        message = f"worse by {mean:.3f}: {text}, p={p:.2g}; {allowed}"
        return verdict(outcome=REGRESSION, failed=True, message=message)
    if mean <= limit + ROUNDING:
        return verdict(outcome=OK, failed=False, message=f"{text}; {allowed}")
    if 2.0**-n * tests >= level:
        needed = math.floor(math.log2(tests / level)) + 1
        message = f"worse by {mean:.3f}: {text}, but {n} examples cannot tell in {tests} tests, {needed} could"
        return verdict(outcome=UNTESTED, failed=False, message=message)
    message = f"{text}; {allowed}, the drop of {mean:.3f} may be chance (p={p:.2g})"
    return verdict(outcome=OK, failed=False, message=message)


def _beyond_bound(s: Scores, bound: float | None) -> str:
    """Why the mean is not acceptable whatever the baseline; empty when it is."""
    if bound is None:
        return ""
    found = bootstrap_interval(s.current)
    if found.n == 0:
        return f"no value; {bound:g} is asked for"
    end = found.high if s.higher_is_better else found.low
    best = found.mean if math.isnan(end) else end
    if best >= bound if s.higher_is_better else best <= bound:
        return ""
    word = "below the least" if s.higher_is_better else "above the most"
    interval = "" if math.isnan(end) else f" [{found.low:.3f}, {found.high:.3f}]"
    return f"mean {found.mean:.3f}{interval} is {word} accepted value, {bound:g} (n={found.n})"


def _absent(name: str, kind: str, before: float, rules: Rules, why: str = "") -> Verdict:
    return absent(name, kind, before, rules.missing == "fail", why)


def absent(name: str, kind: str, before: float, failed: bool, why: str = "") -> Verdict:
    """Something that the baseline has and the current result lacks."""
    message = f"missing: the baseline has it, the current result does not{f' ({why})' if why else ''}"
    return Verdict(
        name=name, kind=kind, outcome=MISSING, failed=failed, baseline=before, current=math.nan, message=message
    )


def new(name: str, kind: str, after: float) -> Verdict:
    """Something that only the current result has."""
    message = "new: the baseline does not have it"
    return Verdict(name=name, kind=kind, outcome=NEW, failed=False, baseline=math.nan, current=after, message=message)
