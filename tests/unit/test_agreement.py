"""Agreement between methods: single texts, data sets with intervals, and the heat map."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.stats
import torch
from view_data import ANSWER, PROMPT, causal

from attriflow.errors import InputError, UnknownNameError
from attriflow.statistics import agreement as module
from attriflow.statistics import bootstrap_interval
from attriflow.statistics.agreement import agreement, agreement_table, magnitudes
from attriflow.statistics.ranks import MEASURES


def explained(seed, method="saliency", **options):
    return causal(PROMPT, ANSWER, method, seed=seed, **options)


def test_one_text_against_scipy():
    found = agreement({"a": explained(0), "b": explained(1), "twice a": explained(0, scale=-2.0)})
    assert list(found.columns) == ["first", "second", *MEASURES]
    best = found.iloc[0]
    assert (best["first"], best["second"]) == ("a", "twice a")
    assert [best[m] for m in MEASURES] == pytest.approx([1, 1, 1, 1])
    row = found[(found["first"] == "a") & (found["second"] == "b")].iloc[0]
    a, b = explained(0).scores.abs().double().numpy(), explained(1).scores.abs().double().numpy()
    seen = [slice(1, len(PROMPT) + step) for step in range(len(ANSWER))]  # without the special first token
    rho = np.mean([scipy.stats.spearmanr(a[i, s], b[i, s]).statistic for i, s in enumerate(seen)])
    tau = np.mean([scipy.stats.kendalltau(a[i, s], b[i, s]).statistic for i, s in enumerate(seen)])
    top = np.mean([len(set(np.argsort(-a[i, s])[:3]) & set(np.argsort(-b[i, s])[:3])) / 3 for i, s in enumerate(seen)])
    assert [row["spearman"], row["kendall"], row["top_k_overlap"]] == pytest.approx([rho, tau, top])


def test_steps_that_say_nothing_are_left_out():
    flat = explained(0).replace(scores=torch.where(explained(0).scores.isnan(), torch.nan, 1.0))
    nothing = agreement({"a": explained(0), "flat": flat}).iloc[0]
    assert all(np.isnan(nothing[m]) for m in MEASURES)
    partly = flat.scores.clone()
    partly[1] = explained(0).scores[1]
    found = agreement({"a": explained(0), "partly": flat.replace(scores=partly)}).iloc[0]
    assert [found[m] for m in MEASURES] == pytest.approx([1, 1, 1, 1])
    few = agreement({"a": explained(0), "b": explained(1)}, top_k=len(PROMPT) + 5).iloc[0]
    assert np.isnan(few["top_k_overlap"]) and not np.isnan(few["spearman"])


def test_a_data_set_has_intervals_over_examples():
    seeds = range(12)
    outputs = {"a": [explained(s) for s in seeds], "b": [explained(s + 50) for s in seeds]}
    outputs["near a"] = [x.replace(scores=x.scores + 0.3 * y.scores) for x, y in zip(*outputs.values(), strict=True)]
    table = agreement_table(outputs)
    assert list(table.columns) == ["first", "second", "measure", "mean", "low", "high", "n"]
    assert len(table) == 3 * len(MEASURES) and set(table["n"]) == {12}
    assert ((table["low"] <= table["mean"]) & (table["mean"] <= table["high"])).all()
    for measure in MEASURES:
        single = [agreement({"a": a, "b": b})[measure][0] for a, b in zip(outputs["a"], outputs["b"], strict=True)]
        row = table[(table["first"] == "a") & (table["second"] == "b") & (table["measure"] == measure)].iloc[0]
        assert tuple(row[["mean", "low", "high", "n"]]) == pytest.approx(bootstrap_interval(single))
    means = table[table["measure"] == "spearman"].set_index(["first", "second"])["mean"]
    assert means["a", "near a"] > 0.8 > means["a", "b"]
    assert agreement_table({n: [magnitudes(x) for x in v] for n, v in outputs.items()}).equals(table)


def test_inputs_that_some_method_leaves_out():
    partial = explained(1).scores.clone()
    partial[:, 2] = torch.nan
    items = {"a": explained(0), "b": explained(1), "partial": explained(1).replace(scores=partial)}
    found = agreement(items).set_index(["first", "second"])
    assert found.loc[("b", "partial"), "spearman"] == pytest.approx(1)
    assert found.loc[("a", "b"), "spearman"] == pytest.approx(agreement({k: items[k] for k in "ab"})["spearman"][0])


def test_long_data_sets_are_bounded(monkeypatch):
    outputs = {name: [explained(s + add) for s in range(6)] for name, add in (("a", 0), ("b", 9))}
    one = len(ANSWER) * (len(PROMPT) + len(ANSWER)) ** 2
    monkeypatch.setattr(module, "WORK", 4 * one)
    assert set(agreement_table(outputs)["n"]) == {4}
    monkeypatch.setattr(module, "WORK", one // 3)
    short = agreement_table(outputs)
    assert set(short["n"]) == {1} and short["low"].isna().all()
    first = {
        name: items[0].replace(scores=items[0].scores[:1], targets=items[0].targets[:1], step_scores={})
        for name, items in outputs.items()
    }
    assert short["mean"].tolist() == pytest.approx([agreement(first)[m][0] for m in MEASURES])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: agreement({"a": explained(0), "b": causal(PROMPT[:4], ANSWER)}), "different tokens"),
        (lambda: agreement({"a": explained(0), "b": explained(1)}, top_k=0), "top_k must be a positive integer, not 0"),
        (lambda: agreement_table({"a": [explained(0)], "b": []}), "every method needs"),
        (lambda: agreement_table({"a": [explained(0)], "b": [causal(PROMPT[:4], ANSWER)]}), "different tokens"),
    ],
)
def test_what_cannot_be_compared_is_an_error(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_no_pairs_no_rows():
    assert len(agreement({"a": explained(0)})) == 0
    assert len(agreement_table({"a": [explained(0)]})) == 0
    assert len(agreement_table({})) == 0


def test_the_heat_map_puts_alike_methods_side_by_side(tmp_path):
    from matplotlib import pyplot

    from attriflow.views.evaluations.agreement import agreement_heatmap, agreement_matrix

    one, other = [explained(s) for s in range(4)], [explained(s + 50) for s in range(4)]
    near = [[x.replace(scores=x.scores * 1.1 + 0.01) for x in items] for items in (one, other)]
    flat = [x.replace(scores=torch.where(x.scores.isnan(), torch.nan, 1.0)) for x in one]
    table = agreement_table({"one": one, "other": other, "like_one": near[0], "like_other": near[1], "flat": flat})
    before = pyplot.get_fignums()
    grid = agreement_heatmap(table, path=tmp_path / "agreement.png")
    assert pyplot.get_fignums() == before
    names = [t.get_text() for t in grid.ax_heatmap.get_yticklabels()]
    assert abs(names.index("one") - names.index("like_one")) == 1
    assert abs(names.index("other") - names.index("like_other")) == 1
    assert [t.get_text() for t in grid.ax_heatmap.get_xticklabels()] == names
    texts = {t.get_position(): t.get_text() for t in grid.ax_heatmap.texts}
    assert len(texts) == 17  # all but the pairs with the flat one
    matrix = agreement_matrix(table)
    mesh = grid.ax_heatmap.collections[0].get_array().reshape(5, 5)
    for i, a in enumerate(names):
        for j, b in enumerate(names):
            assert (mesh.mask[i, j] and np.isnan(matrix.loc[a, b])) or mesh[i, j] == pytest.approx(matrix.loc[a, b])
    assert (tmp_path / "agreement.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(InputError, match="two methods"):
        agreement_heatmap(agreement_table({"one": one}))
    with pytest.raises(UnknownNameError, match="did you mean 'spearman'"):
        agreement_heatmap(table, "spearmn")


def test_the_title_fits_a_small_heat_map_and_nothing_is_minus_zero():
    import pandas as pd
    from matplotlib.text import Text

    from attriflow.statistics.ranks import MEASURES
    from attriflow.views.evaluations.agreement import agreement_heatmap

    rows = [{"first": "a", "second": "b", **dict.fromkeys(MEASURES, -0.001)}]
    for measure in MEASURES:
        figure = agreement_heatmap(pd.DataFrame(rows), measure).figure
        figure.canvas.draw()
        (title,) = [t for t in figure.findobj(Text) if t.get_text().startswith("Agreement")]
        assert title.get_window_extent().x1 <= figure.bbox.x1
        assert "-0.00" not in {t.get_text() for t in figure.findobj(Text)}


def test_methods_that_agree_fully_are_drawn_without_a_warning():
    import pandas as pd

    from attriflow.statistics.ranks import MEASURES
    from attriflow.views.evaluations.agreement import agreement_heatmap

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grid = agreement_heatmap(pd.DataFrame([{"first": "a", "second": "b", **dict.fromkeys(MEASURES, 1.0)}]))
    assert [t.get_text() for t in grid.ax_heatmap.texts] == ["1.00"] * 4
