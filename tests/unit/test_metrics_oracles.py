"""Every metric against its definition, written out again in the slowest and plainest way, or a published value."""

from __future__ import annotations

import itertools
import math
import zlib

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import torch
from explained import explained

from attriflow.registry import metrics

FRACTIONS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
N = 5


class Case:
    """One step of an attribution and its model, in words: which inputs stay -> probability."""

    def __init__(self, seed, step=1):
        self.attribution, self.model = explained(seed)
        self.step = step
        self.n = N + step
        self.scores = self.attribution.scores[step, : self.n].numpy()
        self.order = sorted(range(self.n), key=lambda i: (-self.scores[i], i))
        rng = np.random.default_rng((seed, 7))
        self.rationale = torch.zeros(2, N + 2, dtype=torch.bool)
        self.rationale[:, rng.choice(N, size=2, replace=False)] = True
        self.relevant = [i for i in range(N) if self.rationale[step, i]]
        self.again = {}

    def lp(self, kept, how="delete", step=None):
        keep = torch.tensor([[i in kept or i >= self.n for i in range(N + 2)]])
        return float(self.model(keep, [self.step if step is None else step], how=how)[0])

    def p(self, kept, how="delete"):
        return math.exp(self.lp(kept, how))

    def soft(self, chances, draw):
        keep = torch.tensor([[*chances, *([1.0] * (N + 2 - self.n))]], dtype=torch.float64)
        return math.exp(float(self.model(keep, [self.step], how="soft", draw=draw)[0]))

    @property
    def all(self):
        return list(range(self.n))

    @property
    def counts(self):
        return sorted({int(f * self.n) for f in FRACTIONS} - {0})

    @property
    def positive(self):
        return [i for i in self.order if self.scores[i] > 0]

    def reexplain(self, **change):
        """The same explanation, moved by random numbers that belong to the change."""
        key = repr(sorted(change.items()))
        if key not in self.again:
            noise = torch.from_numpy(np.random.default_rng(zlib.crc32(key.encode())).normal(size=(2, N + 2)))
            self.again[key] = self.attribution.replace(scores=self.attribution.scores + noise)
        return self.again[key]

    def others(self, *changes):
        return [self.reexplain(**c).scores[self.step, : self.n].numpy() for c in changes]

    def answer_lps(self, kept):
        keep = torch.tensor([[i in kept or i >= N for i in range(N + 2)]])
        return [float(self.model(keep, [s])[0]) for s in range(2)]

    def answer_p(self, kept):
        return math.exp(np.mean(self.answer_lps(kept)))

    @property
    def answer_order(self):
        mean = self.attribution.scores[:, :N].mean(0).numpy()
        return sorted(range(N), key=lambda i: (-mean[i], i)), mean


def trapezoid(points):
    points = sorted(points)
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(points))


def less(items, gone):
    return [i for i in items if i not in gone]


def selections(case):
    """What comprehensiveness selects: top k, positive ones only, the same selection counted once."""
    return [list(s) for s in dict.fromkeys(tuple(case.order[: min(k, len(case.positive))]) for k in case.counts)]


def compr(case):
    return np.mean([case.p(case.all) - case.p(less(case.all, s)) for s in selections(case)])


def suff(case):
    return np.mean([case.p(case.all) - case.p(s) for s in selections(case)])


def logprob_compr(case):
    return np.mean([case.lp(case.all) - case.lp(less(case.all, s)) for s in selections(case)])


def logprob_suff(case):
    return np.mean([case.lp(case.all) - case.lp(s) for s in selections(case)])


def log_odds(case):
    top = case.order[: min(math.ceil(0.2 * case.n), len(case.positive))]
    return case.lp(less(case.all, top), "baseline") - case.lp(case.all, "baseline")


def deletion(case):
    ks = sorted({0, case.n, *case.counts})
    return trapezoid([(k / case.n, case.p(less(case.all, case.order[:k]))) for k in ks])


def degradation(case):
    """Samek's two curves, as many tokens gone in both."""
    worst = sorted(range(case.n), key=lambda i: (case.scores[i], i))
    ks = sorted({0, case.n, *case.counts})
    return trapezoid([(k / case.n, case.p(less(case.all, worst[:k]))) for k in ks]) - deletion(case)


def insertion(case):
    ks = sorted({0, case.n, *case.counts})
    return trapezoid([(k / case.n, case.p(case.order[:k])) for k in ks])


def answer(case, insert, area):
    order, mean = case.answer_order
    positive = int((mean > 0).sum())
    counts = sorted({int(f * N) for f in FRACTIONS} - {0})
    if area:
        ks = sorted({0, N, *counts})
        return trapezoid([(k / N, case.answer_p(order[:k] if insert else order[k:])) for k in ks])
    sizes = list(dict.fromkeys(min(k, positive) for k in counts))
    return np.mean([case.answer_p(range(N)) - case.answer_p(order[:k] if insert else order[k:]) for k in sizes])


def lds(case):
    from attriflow_metrics.lds import ablations

    mean = case.answer_order[1]
    logits, predicted = [], []
    for row in ablations(N, 32, 0):
        p = math.exp(sum(case.answer_lps([i for i in range(N) if row[i]])))
        logits.append(math.log(p / (1 - p)))  # the paper's f; ours is the log-probability, which has the same ranks
        predicted.append(math.fsum(mean[i] for i in range(N) if row[i]))
    return scipy.stats.spearmanr(logits, predicted).statistic


def top_k_drop(case):
    whole = sum(case.answer_lps(range(N)))
    return np.mean([whole - sum(case.answer_lps(case.answer_order[0][k:])) for k in (1, 3, 5)])


def outliers_found(case):
    drops = [sum(case.answer_lps(range(N))) - sum(case.answer_lps(less(range(N), [i]))) for i in range(N)]
    outlying = [d > np.mean(drops) + np.std(drops) for d in drops]
    return sklearn.metrics.average_precision_score(outlying, case.answer_order[1])


def leave_one_out(case):
    return np.array([case.p(case.all) - case.p(less(case.all, [i])) for i in case.all])


def shapley(case):
    """By permutations: the mean gain from adding a token to those before it."""
    value = {s: case.p(s) for r in range(case.n + 1) for s in itertools.combinations(range(case.n), r)}
    total = np.zeros(case.n)
    for order in itertools.permutations(range(case.n)):
        for place, i in enumerate(order):
            before = tuple(sorted(order[:place]))
            total[i] += value[tuple(sorted((*before, i)))] - value[before]
    return np.corrcoef(case.scores, total / math.factorial(case.n))[0, 1]


def infidelity(case):
    from attriflow_metrics.infidelity import removals

    gone = removals(case.n, 16, 0)
    drops = np.array(
        [case.p(case.all, "baseline") - case.p(less(case.all, np.flatnonzero(g)), "baseline") for g in gone]
    )
    linear = gone @ case.scores
    beta = (linear * drops).mean() / (linear**2).mean()
    return ((beta * linear - drops) ** 2).mean()


def completeness(case):
    wanted = case.p(case.all, "baseline") - case.p([], "baseline")
    given = case.scores.sum()
    return abs(given - wanted) / (abs(given) + abs(wanted))


def scaled(case):
    return (case.scores - case.scores.min()) / (case.scores.max() - case.scores.min())


def water_filled(case, mean):
    """Chances in proportion to the scores, cut at 1, by bisection on the factor."""
    a = scaled(case)
    low, high = 0.0, 1e9
    for _ in range(200):
        factor = (low + high) / 2
        low, high = (factor, high) if np.minimum(1, factor * a).mean() < mean else (low, factor)
    return np.minimum(1, low * a)


def soft_metric(case, chances, kept):
    whole, nothing = case.p(case.all), case.soft([0.0] * case.n, 0)
    terms = []
    for row in chances:
        for draw in range(2):
            lost = max(0.0, whole - case.soft(row, draw)) / (whole - nothing)
            terms.append(1 - lost if kept else lost)
    return np.mean(terms)


def similarity(case, other):
    return scipy.stats.spearmanr(abs(case.scores), abs(other)).statistic


def entropy_ratio(case, other):
    parts = [abs(s) / abs(s).sum() for s in (other, case.scores)]
    return (scipy.stats.entropy(parts[0]) - scipy.stats.entropy(parts[1])) / math.log(case.n)


NOISES = [{"noise": 0.1, "draw": k} for k in range(3)]


def max_sensitivity(case):
    return max(np.linalg.norm(o - case.scores) / np.linalg.norm(case.scores) for o in case.others(*NOISES))


def seed_variance(case):
    runs = np.array([case.scores, *case.others({"seed": 1}, {"seed": 2})])
    deviations = [(runs[:, i] - runs[:, i].mean()) ** 2 for i in range(case.n)]
    return math.sqrt(sum(d.sum() / 2 for d in deviations) / sum((runs[:, i] ** 2).mean() for i in range(case.n)))


def annotated(case):
    """Scores and labels of the annotated tokens, best first."""
    ranked = sorted(range(N), key=lambda i: -case.scores[i])
    return ranked, [i in case.relevant for i in ranked]


def auprc(case):
    positive = np.where(case.scores[:N] > 0, case.scores[:N], 0)
    precision, recall, _ = sklearn.metrics.precision_recall_curve([i in case.relevant for i in range(N)], positive)
    return sklearn.metrics.auc(recall, precision)


def chosen(case):
    return {i for i in annotated(case)[0][:5] if case.scores[i] > 0}


ORACLES = {
    "aopc_compr": compr,
    "aopc_suff": suff,
    "taucorr_loo": lambda c: scipy.stats.kendalltau(leave_one_out(c), c.scores).statistic,
    "logprob_compr": logprob_compr,
    "logprob_suff": logprob_suff,
    "log_odds": log_odds,
    "deletion_auc": deletion,
    "insertion_auc": insertion,
    "morf_lerf": degradation,
    "answer_compr": lambda c: answer(c, insert=False, area=False),
    "answer_suff": lambda c: answer(c, insert=True, area=False),
    "answer_deletion_auc": lambda c: answer(c, insert=False, area=True),
    "answer_insertion_auc": lambda c: answer(c, insert=True, area=True),
    "lds": lds,
    "top_k_drop": top_k_drop,
    "loo_outlier_map": outliers_found,
    "position_bias": lambda c: scipy.stats.spearmanr(abs(c.scores), range(c.n)).statistic,
    "loo_agreement": lambda c: scipy.stats.pearsonr(leave_one_out(c), c.scores).statistic,
    "shapley_agreement": shapley,
    "infidelity": infidelity,
    "completeness_error": completeness,
    "soft_nc": lambda c: soft_metric(c, [1 - scaled(c)], kept=False),
    "soft_ns": lambda c: soft_metric(c, [scaled(c)], kept=True),
    "pi_soft_nc": lambda c: soft_metric(c, [1 - water_filled(c, 1 - s) for s in (0.25, 0.5, 0.75)], kept=False),
    "pi_soft_ns": lambda c: soft_metric(c, [water_filled(c, s) for s in (0.25, 0.5, 0.75)], kept=True),
    "auprc_plau": auprc,
    "token_f1_plau": lambda c: 2 * len(chosen(c) & {*c.relevant}) / (len(chosen(c)) + len(c.relevant)),
    "token_iou_plau": lambda c: len(chosen(c) & {*c.relevant}) / len(chosen(c) | {*c.relevant}),
    "mrr": lambda c: 1 / (1 + annotated(c)[1].index(True)),
    "precision_at_k": lambda c: sum(annotated(c)[1][:5]) / 5,
    "recall_at_k": lambda c: sum(annotated(c)[1][:5]) / 2,
    "pointing_game": lambda c: float(annotated(c)[1][0]),
    "relevance_rank": lambda c: sum(annotated(c)[1][:2]) / 2,
    "relevance_mass": lambda c: sum(max(0, c.scores[i]) for i in c.relevant) / sum(s for s in c.scores[:N] if s > 0),
    "noise_stability": lambda c: np.mean([similarity(c, o) for o in c.others(*NOISES)]),
    "max_sensitivity": max_sensitivity,
    "seed_variance": seed_variance,
    "parameter_randomisation": lambda c: np.mean(
        [similarity(c, o) for o in c.others(*({"randomise": k / 3, "draw": 0} for k in (1, 2, 3)))]
    ),
    "efficient_mprt": lambda c: entropy_ratio(c, c.others({"randomise": 1.0, "draw": 0})[0]),
    "random_logit": lambda c: similarity(c, c.others({"other_target": 0})[0]),
}


OPTIONS = {"loo_outlier_map": {"deviations": 1.0}}  # among five there is none at two deviations


def test_every_metric_has_an_oracle():
    assert set(ORACLES) == set(metrics.modules())


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ORACLES)
def test_equals_its_definition(name, seed):
    case = Case(seed)
    part = metrics.info(name)
    more = {"reexplain": case.reexplain} if "reexplain" in part.meta["needs"] else {}
    result = part.build(**OPTIONS.get(name, {}))(case.attribution, case.model, case.rationale, **more)
    value = result.values[case.step if result.per_step else 0]
    reason = result.skipped.get(case.step if result.per_step else 0, "")
    if value is None:
        assert reason == "the target is hardly likelier than without any input"
        assert case.p(case.all) - case.soft([0.0] * case.n, 0) < 0.01
        return
    assert value == pytest.approx(
        ORACLES[name](case), abs=1e-6 if "soft" in name or name == "max_sensitivity" else 1e-9
    )
    assert type(value) is float
    low, high = part.meta["range"]
    assert low is None or value >= low - 1e-9
    assert high is None or value <= high + 1e-9


@pytest.mark.parametrize("fractions", [(0.5,), (0.3, 0.9), tuple(FRACTIONS)])
def test_the_area_between_the_curves_is_antisymmetric_and_0_for_constant_scores(fractions):
    metric = metrics.build("morf_lerf", fractions=fractions)
    for seed in range(4):
        a, model = explained(seed)
        for scores in (a.scores, a.scores.round()):  # the second one has ties
            there, back = (metric(a.replace(scores=s), model).values for s in (scores, -scores))
            assert there == tuple(-v for v in back) and any(there)
        assert metric(a.replace(scores=torch.zeros_like(a.scores)), model).values == (0.0, 0.0)


def rounded(model, dtype):
    """A model whose log-probabilities come from float32 logits, or float64 ones: log-softmax over two tokens."""

    def rescore(keep, steps, *, how="delete"):
        lp = model(keep, steps, how=how).double()
        logits = torch.stack([lp, torch.log(-torch.expm1(lp))], -1) + 20.0
        return logits.to(dtype).log_softmax(-1)[..., 0].double()

    return rescore


class Scaled:
    """Log-probabilities a factor nearer to 0: a model that is so sure of its answer."""

    def __init__(self, model, factor):
        self.model, self.factor = model, factor

    def __call__(self, keep, steps, *, how="delete"):
        return self.model(keep, steps, how=how) * self.factor


@pytest.mark.parametrize("name", ["taucorr_loo", "loo_agreement"])
def test_orders_of_rounding_errors_are_left_out_and_said(name):
    """At p = 1 - 1e-6 the effects are a few times float32's rounding: two precisions would give two numbers."""
    saturated = {"taucorr_loo": "saturated: p > 1 - 0.0001", "loo_agreement": "leave-one-out effects within rounding"}
    metric = metrics.build(name)
    for seed in range(4):
        a, model = explained(seed)
        for factor in (1.0, 1e-2, 1e-6):
            rescores = [rounded(Scaled(model, factor), dtype) for dtype in (torch.float32, torch.float64)]
            found = [metric(a, rescore) for rescore in rescores]
            assert [v is None for v in found[0].values] == [v is None for v in found[1].values]
            if factor == 1e-6:
                assert set(found[0].skipped.values()) == {saturated[name]}
            else:
                assert found[0].values == pytest.approx(found[1].values, abs=1e-3)


def test_one_decisive_token_at_a_saturated_step_has_a_size_and_no_order():
    """Without it p falls by 0.5, without any other by 1e-9: Pearson sees the size, tau would rank the rest."""
    a, _ = explained(0)

    def rescore(keep, steps, *, how="delete"):
        p = torch.where(keep[:, 2], 1 - 1e-6 - 1e-9 * (~keep).double() @ torch.arange(keep.shape[1]).double(), 0.5)
        return p.log()

    effects = np.array([i * 1e-9 if i != 2 else 0.5 - 1e-6 for i in range(N)])
    scores = a.scores[0, :N].numpy()
    assert metrics.build("loo_agreement")(a, rescore).values[0] == pytest.approx(np.corrcoef(scores, effects)[0, 1])
    assert metrics.build("taucorr_loo")(a, rescore).skipped[0] == "saturated: p > 1 - 0.0001"


def test_some_soft_cases_have_a_value():
    found = [metrics.build("soft_nc")(c.attribution, c.model).values[1] for c in map(Case, range(6))]
    assert sum(v is not None for v in found) >= 3


@pytest.mark.parametrize("name", [n for n in ORACLES if "rescore" in metrics.info(n).meta["needs"]])
def test_the_plan_is_all_that_is_asked(name):
    """What an evaluation computes ahead is what a metric looks up: one call per kind of change, none afterwards."""
    case = Case(3)
    metric = metrics.build(name)
    plan = metric.plan(case.attribution)
    assert len(plan) == len(set(plan)) > 0
    asked = []

    def rescore(keep, steps=None, *, how="delete", draw=0):
        rows = [None] * len(keep) if steps is None else steps
        asked.extend((tuple(row), step, how, draw) for row, step in zip(keep.tolist(), rows, strict=True))
        return case.model(keep, steps, how=how, draw=draw)

    metric(case.attribution, rescore)
    assert sorted(asked, key=repr) == sorted(((v.keep, v.step, v.how, v.draw) for v in plan), key=repr)


@pytest.mark.parametrize("name", [n for n in ORACLES if n != "completeness_error"])
def test_special_tokens_are_not_looked_at(name):
    """Whatever score a special token has, the value is the same."""
    attribution, model = explained(2, special=(0,))
    moved = attribution.scores.clone()
    moved[:, 0] = 99.0
    values = []
    rationale = torch.zeros(2, N + 2, dtype=torch.bool)
    rationale[:, 2] = True
    for scores in (attribution.scores, moved):
        given = attribution.replace(scores=scores)
        part = metrics.info(name)
        more = {}
        if "reexplain" in part.meta["needs"]:
            more["reexplain"] = lambda given=given, **_: given.replace(scores=given.scores.flip(0).nan_to_num(0.1))
        values.append(part.build(**OPTIONS.get(name, {}))(given, model, rationale, **more).values)
    assert values[0] == values[1]


def test_completeness_is_not_told_where_credit_is_on_tokens_that_stay():
    """A complete method whose baseline replaces BOS, too, adds up to another difference than the metric sees."""
    attribution, model = explained(2, special=(0,))
    metric, scores = metrics.build("completeness_error"), attribution.scores.clone()
    scores[:, 0] = 0.0
    measured = metric(attribution.replace(scores=scores), model)
    scores[:, 0] = 1e-5 * scores.nan_to_num().abs().sum(-1)  # a trace
    assert metric(attribution.replace(scores=scores), model).values == measured.values
    assert None not in measured.values
    scores[0, 0] = 0.3
    found = metric(attribution.replace(scores=scores), model)
    assert found.values == (None, *measured.values[1:])
    assert found.skipped[0] == "not applicable: the method gives credit to tokens that metrics leave in place"


def test_registrations_tell_everything():
    for info in map(metrics.info, metrics.modules()):
        higher = info.meta["higher_is_better"]
        assert info.meta["family"] in ("faithfulness", "plausibility", "robustness", "sanity")
        low, high = info.meta["range"]
        assert low is None or high is None or low < high
        assert set(info.meta["needs"]) <= {"rescore", "rationale", "reexplain"}
        assert info.meta["needs"] or info.name == "position_bias"
        assert info.meta["cost"] and info.meta["source"]
        better = {True: "higher is better", False: "lower is better", None: "neither end is better"}[higher]
        assert better in info.summary, info.name
