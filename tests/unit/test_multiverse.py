"""The multiverse: its worlds, its budget, and what it says of a ranking, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from attriflow.errors import InputError
from attriflow.evaluation.choices import World, choices, explained_as, scored_as
from attriflow.evaluation.config import EvaluationConfig
from attriflow.evaluation.data import EvaluationData
from attriflow.evaluation.runner import Evaluation
from attriflow.statistics.multiverse import copies, kendall_w, spans, stability, verdict, wins, world_ranks

TOKENS = {"unk": 3, "pad": 0, "eos": 2}


def token(name):
    return TOKENS.get(name, name)


def config(**settings):
    return EvaluationConfig.from_dict({"metrics": ["aopc_compr"], "multiverse": True, **settings})


def test_worlds_are_the_choices_that_methods_and_metrics_have():
    found = choices(config(methods=["integrated_gradients", "occlusion", "attention"], multiverse_rows=10**6), token)
    rows = {name: {r.world[:3] for r in found.rows if r.method == name} for name in ("occlusion", "attention")}
    # unk is set
    assert {r[1] for r in rows["occlusion"]} == {"", "pad", "eos", "zero", "mean"}
    assert {r[0] for r in rows["occlusion"]} == {""} and rows["attention"] == {("", "", "")}
    # integrated gradients: 2 reductions x 5 baselines x 4 objectives; deletion is set, and there are 4 perturbations
    assert len(found.rows) == (2 * 5 * 4 + 5 * 4 + 1) * 4 and found.of_rows == len(found.rows)
    assert len(found.worlds) == 2 * 5 * 4 * 4 and next(iter(found.worlds)) == World()
    assert "left out" not in str(found)
    chosen = found.worlds[World("norm", "zero", "logits", "mask")]
    assert [r.world for r in chosen] == [
        World("norm", "zero", "logits", "mask"), World("", "zero", "logits", "mask"), World("", "", "", "mask"),
    ]  # fmt: skip


def test_one_token_is_one_choice_and_another_question_is_none(monkeypatch):
    monkeypatch.setitem(TOKENS, "unk", 2)  # GPT-2: unk stands in for EOS, and there is no padding
    monkeypatch.delitem(TOKENS, "pad")
    found = choices(config(methods=["occlusion", "saliency"], attributed_fn="entropy", multiverse_rows=10**6), token)
    assert {r.world[:3] for r in found.rows} == {("", b, "") for b in ("", "zero", "mean")}
    assert {r.world[:3] for r in found.rows if r.method == "saliency"} == {("", "", "")}
    other = choices(config(methods=["occlusion"], method_options={"occlusion": {"baseline": 1}}), token)
    assert {r.world.baseline for r in other.rows} == {"", "unk", "zero", "mean"}


def test_rows_of_a_method_that_are_a_choice_made_are_left_to_the_worlds():
    names = ["input_x_gradient", "input_x_gradient.norm", "lime", "lime.few"]
    found = choices(config(methods=names, method_options={"lime.few": {"n_samples": 4}}), token)
    assert list(dict.fromkeys(r.method for r in found.rows)) == ["input_x_gradient", "lime", "lime.few"]


def test_the_budget_keeps_what_departs_least():
    settings = {"methods": ["integrated_gradients", "occlusion", "attention"]}
    small = choices(config(**settings, multiverse_rows=1), token)
    assert list(small.worlds) == [World()] and len(small.rows) == 3
    # 3 rows as set; norm: 1 more, pad: 2, log-probability: 2, mask: 3, then the second of each list
    some = choices(config(**settings, multiverse_rows=11), token)
    one = [World("norm"), World(baseline="pad"), World(objective="log-probability"), World(perturbation="mask")]
    assert set(some.worlds) == {World(), *one} and len(some.rows) == 11
    assert str(some) == (
        "multiverse: 11 rows (method x reduction x baseline x objective x perturbation) of 5 worlds, from 7 "
        "explanations of the data; 233 rows and 155 worlds beyond multiverse_rows are left out: those with fewest "
        "choices that are not as set come first (here up to 1)"
    )
    assert list(choices(config(**settings, multiverse_rows=12), token).worlds) == list(some.worlds)


def test_worlds_say_how_to_explain_and_to_score():
    assert explained_as(World("norm", "pad")) == {"options": {"reduction": "norm", "baseline": "pad"}}
    made = explained_as(World(objective="log-probability", perturbation="mask"))
    assert made == {"options": {}, "attributed_fn": "probability", "attributed_fn_args": {"logprob": True}}
    names, given = ("aopc_compr", "log_odds", "soft_nc", "mrr"), {"aopc_compr": {"only_pos": False}}
    assert scored_as("delete", names, given) == {"log_odds": {"perturbation": "delete"}}
    assert scored_as("mask", names, given)["aopc_compr"] == {"only_pos": False, "perturbation": "mask"}


def test_metrics_that_no_world_looks_at_are_refused():
    with pytest.raises(InputError, match="needs a metric of faithfulness or plausibility"):
        config(methods=["occlusion"], metrics=["seed_variance"])


def test_kendalls_w_by_hand():
    assert kendall_w(np.array([[1, 2, 3], [1, 2, 3], [1, 2, 3]])) == pytest.approx(1)
    assert kendall_w(np.array([[1, 2, 3], [3, 2, 1]])) == pytest.approx(0)
    # Kendall: rank sums 5, 4, 9: S = 1 + 4 + 9 = 14, 12 * 14 / (9 * 24)
    assert kendall_w(np.array([[1, 2, 3], [2, 1, 3], [2, 1, 3]])) == pytest.approx(12 * 14 / 216)
    # and 1 / m + (m - 1) / m of the mean Spearman correlation of the worlds, with ties, too
    rng = np.random.default_rng(0)
    table = rng.integers(0, 5, (6, 8)).astype(float)
    rho = stats.spearmanr(table.T).statistic
    ordinary = rng.random((6, 8))
    mean = stats.spearmanr(ordinary.T).statistic[np.triu_indices(6, 1)].mean()
    assert kendall_w(ordinary) == pytest.approx((5 * mean + 1) / 6)
    friedman = stats.friedmanchisquare(*table.T).statistic  # m (n - 1) W, with the same correction for ties
    assert kendall_w(table) == pytest.approx(friedman / (6 * 7)) and rho.shape == (6, 6)
    assert np.isnan(kendall_w(np.ones((1, 3)))) and np.isnan(kendall_w(np.ones((3, 3))))


# Three methods, two worlds that differ in the baseline, which c does not have; `f` is better high, `p` low and of
# another family, and no baseline changes it.
ROWS = pd.DataFrame(
    {
        "row": [0, 1, 2, 3, 4],
        "f": [0.9, 0.5, 0.5, 0.1, 0.8],
        "p": [1.0, 2.0, 3.0, 1.0, 2.0],
        "f_n": 4.0,
        "p_n": 4.0,
    }
)
WORLDS = pd.DataFrame(
    {
        "world": [0, 0, 0, 1, 1, 1],
        "baseline": ["as set"] * 3 + ["pad"] * 3,
        "perturbation": "as set",
        "method": ["a", "b", "c"] * 2,
        "row": [0, 1, 2, 3, 4, 2],
    }
)
HIGHER, FAMILIES = {"f": True, "p": False}, {"f": "faithfulness", "p": "plausibility"}


def test_ranks_in_every_world_by_hand():
    found = world_ranks(ROWS, WORLDS, HIGHER, FAMILIES)
    assert found["rank (faithfulness)"].tolist() == [1, 2.5, 2.5, 3, 1, 2]
    assert found["rank (plausibility)"].tolist() == [1, 2, 3, 1, 2, 3]
    assert found["rank"].tolist() == [1, 2.25, 2.75, 2, 1.5, 2.5]
    assert found["same"].tolist() == [0, 0, 0, 1, 1, 1] == found["same (faithfulness)"].tolist()
    assert found["same (plausibility)"].tolist() == [0] * 6


def test_twins_count_once():
    """`d` is `a` in both worlds, `e` as set only."""
    rows = pd.concat([ROWS, ROWS[ROWS["row"].isin([0, 3])].assign(row=[5, 6]), ROWS.iloc[[0]].assign(row=7)])
    more = [(0, "d", 5), (1, "d", 6), (0, "e", 5), (1, "e", 7)]
    more = [{"world": w, "baseline": WORLDS["baseline"][3 * w], "perturbation": "as set", "method": m, "row": r}
            for w, m, r in more]  # fmt: skip
    worlds = pd.concat([WORLDS, pd.DataFrame(more)], ignore_index=True)
    same = copies(rows, worlds, list(FAMILIES), {"d": "a", "e": "a"})
    assert same == {"d": "a"} and copies(rows, worlds, list(FAMILIES), {"d": "gone"}) == {}


def test_wins_by_hand():
    ranked = world_ranks(ROWS, WORLDS, HIGHER, FAMILIES)
    won = wins(ranked).set_index(["first", "second"])
    assert won["share"].to_dict() == {
        ("a", "b"): 0.5, ("b", "a"): 0.5, ("a", "c"): 1, ("c", "a"): 0, ("b", "c"): 1, ("c", "b"): 0,
    }  # fmt: skip
    # b and c tie as set, b is before c otherwise; plausibility has one world
    assert won.loc[("b", "c"), "share (faithfulness)"] == 0.75 and won.loc[("c", "b"), "share (faithfulness)"] == 0.25
    assert won.loc[("a", "b"), ["share (faithfulness)", "share (plausibility)", "worlds"]].tolist() == [0.5, 1, 2]
    ranked.loc[ranked["method"] == "a", "rank"] = [np.nan, 2]
    assert wins(ranked)["worlds"].tolist() == [1, 1, 1, 2, 1, 2] and wins(ranked)["share"].iloc[0] == 0
    ranked.loc[ranked["method"] == "a", "rank"] = np.nan
    assert wins(ranked)["share"].isna().tolist() == [True, True, True, False, True, False]


def test_how_stable_a_ranking_is_by_hand():
    ranked = world_ranks(ROWS, WORLDS, HIGHER, FAMILIES)
    found = stability(ranked, ["baseline", "perturbation"]).set_index(["family", "choice"])
    # overall 1, 2, 3 and 2, 1, 3: rank sums 3, 3, 6, S = 6, 12 * 6 / (4 * 24)
    assert found.loc[("overall", "all"), "kendall_w"] == pytest.approx(0.75)
    assert found.loc[("overall", "baseline"), "moved"] == pytest.approx(2 / 3)
    assert found.loc[("overall", "perturbation"), ["worlds", "moved"]].tolist() == [1, 0]
    # faithfulness 1, 2.5, 2.5 and 3, 1, 2: sums 4, 3.5, 4.5, S = 0.5, T = 6: 12 * 0.5 / (96 - 2 * 6)
    assert found.loc[("faithfulness", "all"), "kendall_w"] == pytest.approx(6 / 84)
    # the same values everywhere: one world
    assert found.loc[("plausibility", "all"), "worlds"] == 1
    places = spans(ranked).set_index(["family", "method"])
    assert places.loc[("overall", "a"), ["as_set", "best", "worst", "first"]].tolist() == [1, 1, 2, 0.5]
    assert places.loc[("faithfulness", "a"), ["best", "worst"]].tolist() == [1, 3]
    text = verdict(wins(ranked), found.reset_index(), places.reset_index())
    assert "depends on your choices: 2 of 3 pairs" in text
    assert "a, first as set, is first in 50% of 2 worlds (place 1 to 2)" in text
    assert "0.75 overall, 0.07 faithfulness" in text and text.endswith("on average: baseline 0.7.")


def test_a_ranking_that_no_choice_moves():
    rows = ROWS.assign(f=[0.9, 0.5, 0.2, 0.8, 0.7], p=[1.0, 2.0, 3.0, 1.0, 2.0])
    ranked = world_ranks(rows, WORLDS, HIGHER, FAMILIES)
    found = stability(ranked, ["baseline", "perturbation"])
    assert found.loc[0, "kendall_w"] == pytest.approx(1)
    text = verdict(wins(ranked), found, spans(ranked))
    assert "does not depend on your choices: 3 of 3 pairs" in text and "first in 100% of 2 worlds" in text


def test_a_row_without_values_has_no_place():
    rows = ROWS.assign(f_n=[4.0, 4.0, 4.0, 1.0, 4.0])  # a in world 1: 1 of 4 examples
    ranked = world_ranks(rows, WORLDS, HIGHER, FAMILIES)
    assert ranked["rank"].isna().tolist() == [False] * 3 + [True, False, False]
    found = stability(ranked, ["baseline", "perturbation"])
    assert found.loc[0, "methods"] == 2 and spans(ranked)["worlds"].iloc[0] == 1


@pytest.fixture(scope="module")
def model(golden_model):
    return golden_model("gpt2")


def evaluated(model, **settings):
    given = {"step_functions": [], "throughput": False, "metrics": ["deletion_auc", "soft_nc"], "fail_fast": True}
    made = EvaluationConfig.from_dict({**given, "methods": ["integrated_gradients", "attention"], **settings})
    data = EvaluationData(inputs=("the cat sat on the mat", "a dog"), targets=("and slept", "barked"))
    evaluation = Evaluation(model, data, made)
    for _ in evaluation.run():
        pass
    return evaluation


def test_rows_have_the_values_of_evaluations_with_these_settings(model, capfd):
    """Each explanation is made once, whatever it is reduced to and scored by."""
    few = {"integrated_gradients": {"n_steps": 3}}
    calls = []
    explain, attribute = model.attribute_examples, lambda *a, **o: (calls.append((a[1], o)), explain(*a, **o))[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "attribute_examples", attribute)
        found = evaluated(model, method_options=few, multiverse=True, multiverse_rows=20)
    rows = found.multiverse.rows()
    assert "multiverse: 20 rows" in capfd.readouterr().err
    names = rows.groupby("method").size()
    assert len(calls) == len(rows[rows["perturbation"] == "as set"].groupby(["method", "baseline", "objective"]))
    assert names["attention"] == 4 and (rows["status"] == "ok").all()
    assert rows["baseline"][rows["method"] == "attention"].eq("-").all()
    own = rows[rows["method"] == "integrated_gradients"].set_index(
        ["reduction", "baseline", "objective", "perturbation"]
    )
    logits = evaluated(model, methods=["integrated_gradients"], method_options=few, attributed_fn="logits")
    for metric, value in logits.results[0].metrics.items():
        assert own.loc[("sum", "unk", "logits", "as set"), metric] == pytest.approx(value, abs=1e-9)
    for chosen in (("norm", "zero", "as set", "as set"), ("sum", "zero", "as set", "mask")):
        row = {**own.loc[chosen], **dict(zip(own.index.names, chosen, strict=True))}
        options = {**few["integrated_gradients"], "reduction": row["reduction"], "baseline": row["baseline"]}
        how = {} if row["perturbation"] == "as set" else {"deletion_auc": {"perturbation": row["perturbation"]}}
        plain = evaluated(
            model,
            methods=["integrated_gradients"],
            method_options={"integrated_gradients": options},
            metric_options=how,
        )
        for metric, value in plain.results[0].metrics.items():
            assert row[metric] == pytest.approx(value, abs=1e-9), row
    worlds = found.multiverse.worlds()
    assert (worlds.groupby("world").size() == 2).all() and worlds["row"].max() == len(rows) - 1
    assert worlds.iloc[0].tolist()[1:5] == ["as set"] * 4


def test_the_picture_shows_shares_and_places():
    from attriflow.views.evaluations.multiverse import multiverse, stability_table

    ranked = world_ranks(ROWS, WORLDS, HIGHER, FAMILIES)
    won, places = wins(ranked), spans(ranked)
    left, right = multiverse(won, places).axes
    names = [t.get_text() for t in left.get_yticklabels()]
    # mean shares 0.75, 0.75 and 0
    assert names == ["a", "b", "c"] == [t.get_text() for t in left.get_xticklabels()]
    texts = {(names[int(t.get_position()[1])], names[int(t.get_position()[0])]): t for t in left.texts}
    assert len(texts) == 6
    for key, text in texts.items():
        share = won.set_index(["first", "second"]).loc[key, "share"]
        assert text.get_text() == f"{round(100 * share)}" and (text.get_fontweight() == "bold") == (share in (0, 1))
    dots = right.collections[-1].get_offsets()[:, 0]
    assert dots.tolist() == [places.set_index(["family", "method"]).loc[("overall", n), "as_set"] for n in names]
    shown = stability_table(stability(ranked, ["baseline", "perturbation"]))
    assert [r["choice"] for r in shown] == ["all together", "baseline alone"] * 2 and shown[0]["kendall_w"] == "0.75"
