"""Plots of attributions and of evaluations, from attributions and tables made up here."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text as PlotText
from view_data import ANSWER, DIRECTIONS, HOSTILE, PROMPT, board, causal, metric_table, step_table

from attriflow.errors import AttriflowError
from attriflow.views import plots
from attriflow.views.colors import color
from attriflow.views.evaluations import plots as drawn
from attriflow.views.figures import save_figure, to_png


def texts_of(figure):
    return [text.get_text() for text in figure.findobj(PlotText) if text.get_text()]


# --- attributions ----------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    from matplotlib import pyplot

    pyplot.close("all")


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_heatmap(scale):
    item = causal([*PROMPT, "$x$", *HOSTILE], ANSWER, scale=scale, foil=("red", "paint", "."))
    axes = plots.heatmap(item)
    assert isinstance(axes, Axes)
    assert [t.get_text() for t in axes.get_xticklabels()] == ["blue\nvs red", "paint", "."]
    down = [t.get_text() for t in axes.get_yticklabels()]
    assert down[:3] == ["<bos>", "tom", "has"] and down[-2:] == ["blue", "paint"] and "$x$" in down
    texts = texts_of(axes.figure)
    assert "not visible to the step" in texts and "saliency · logit" in texts
    assert any("in units of 1e" in text for text in texts) == (scale < 1)
    shades = axes.collections[0].get_array()
    limit = item.scores[item.scores.isfinite()].abs().max()
    assert shades[1, 0] == pytest.approx(float(item.scores[0, 1] / limit)) and shades.mask[-1, 0]
    assert to_png(axes.figure, 40)[:4] == b"\x89PNG"


def test_heatmap_of_one_head_with_limits_of_its_colours():
    item = causal(PROMPT, ANSWER, "attention", ("step", "input", "layer", "head"), sizes=(3, 2))
    axes = plots.heatmap(item, slice_dims={"layer": 2, "head": 1}, min_val=-5, max_val=5, annotate=False)
    assert axes.collections[0].get_array()[4, 1] == pytest.approx(float(item.scores[1, 4, 2, 1]) / 5)
    assert not axes.texts
    bar = axes.figure.axes[1]
    assert [t.get_text() for t in bar.get_yticklabels()] == ["-5", "-2.5", "0", "2.5", "5"]


def test_heatmap_of_long_texts_names_some_of_the_tokens():
    axes = plots.heatmap(causal(["a"] * 400, ["b"] * 130))
    assert len(axes.get_yticklabels()) <= 190 and len(axes.get_xticklabels()) <= 60 and not axes.texts


def test_step_scores_of_attributions():
    item = causal(PROMPT, ANSWER).replace(
        step_scores={"probability": torch.tensor([0.1, 0.2, 0.3]), "rank": torch.ones(3)}
    )
    axes = plots.step_scores(item)
    assert [line.get_label() for line in axes.get_lines()] == ["probability", "rank"]
    assert list(axes.get_lines()[0].get_ydata()) == pytest.approx([0.1, 0.2, 0.3])
    assert [t.get_text() for t in axes.get_xticklabels()] == ANSWER
    assert len(plots.step_scores(item, "rank").get_lines()) == 1
    several = plots.step_scores([item, causal(PROMPT, ["red"], "lime")], "probability")
    assert [line.get_label() for line in several.get_lines()] == ["saliency: probability", "lime: probability"]
    with pytest.raises(AttriflowError, match="did you mean 'rank'"):
        plots.step_scores(item, "rnk")
    with pytest.raises(AttriflowError, match="step_scores="):
        plots.step_scores(item.replace(step_scores={}))


def test_methods_compared():
    items = [causal(PROMPT, ANSWER, name, seed=i, scale=10.0**i) for i, name in enumerate(("saliency", "lime"))]
    axes = plots.comparison(items, step=0)
    assert [t.get_text() for t in axes.get_yticklabels()] == ["saliency", "lime"]
    assert [t.get_text() for t in axes.get_xticklabels()] == PROMPT  # what the step could see
    shown = axes.collections[0].get_array()
    for row, item in enumerate(items):
        seen = item.scores[0, : len(PROMPT)]
        assert shown[row].tolist() == pytest.approx((seen / seen.abs().max()).tolist(), abs=1e-6)
    assert "blue" in axes.get_title(loc="left")
    mean = plots.comparison(items).collections[0].get_array()
    relative = items[1].scores / items[1].scores.nan_to_num().abs().amax(1, keepdim=True)
    assert mean[1, : len(PROMPT)].tolist() == pytest.approx(relative[:, : len(PROMPT)].mean(0).tolist(), abs=1e-6)


@pytest.mark.parametrize(
    ("items", "options", "message"),
    [
        ([causal(PROMPT, ANSWER), causal(PROMPT[:3], ANSWER)], {}, "2 different texts"),
        ([causal(PROMPT, ANSWER)] * 2, {"step": 3}, "there are 3"),
        ([], {}, "no attributions"),
        ([causal(PROMPT, ANSWER)] * 2, {"path": "plot.gif"}, ".png, .svg, .pdf"),
    ],
)
def test_what_cannot_be_compared_is_an_error(items, options, message):
    with pytest.raises(AttriflowError, match=message):
        plots.comparison(items, **options)


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_plots_are_written_as_pictures(tmp_path, suffix, magic):
    path = tmp_path / "new" / f"plot.{suffix}"
    axes = plots.heatmap(causal([*PROMPT, *HOSTILE], ANSWER), path=path)
    assert path.read_bytes().startswith(magic)
    assert save_figure(axes, tmp_path / f"again.{suffix}").read_bytes().startswith(magic)


def test_colours_are_those_of_the_other_views():
    axes = plots.heatmap(causal(["a"], ["b"], scores=torch.tensor([[2.0, 0.0]])))
    mesh = axes.collections[0]
    assert tuple(round(c * 255) for c in mesh.cmap(mesh.norm(1.0))[:3]) == color(1.0)


def test_figures_without_a_place_belong_to_pyplot():
    from matplotlib import pyplot

    assert pyplot.get_fignums() == []
    axes = plots.heatmap(causal(PROMPT, ANSWER))
    assert pyplot.gcf() is axes.figure


# --- evaluations -----------------------------------------------------------------------------------------------------


def test_metric_heatmap():
    figure = drawn.metric_heatmap(board(), DIRECTIONS)
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["occlusion", "saliency", "random", "deeplift"]
    assert [t.get_text().replace("\n", "") for t in axes.get_xticklabels()] == [
        "aopc_compr ↑", "aopc_suff ↓", "token_f1_plau ↑",
    ]  # fmt: skip
    written = texts_of(figure)
    assert "0.800" in written and "failed" in written and "–" in written
    shades = axes.collections[0].get_array()
    assert shades[0, 0] == 1 and shades[0, 1] == 1 and shades[2, 1] == 0  # lower is better in the second column
    bold = {text.get_text() for text in axes.texts if text.get_fontweight() == "bold"}
    assert bold == {"0.800", "0.100", "0.600"}


def test_methods_that_explain_alike_share_a_row_but_not_their_cost():
    same = board().assign(same_as=["", "", "occlusion", ""])  # deeplift, occlusion, saliency, random
    figure = drawn.metric_heatmap(same, DIRECTIONS)
    names = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert names == ["occlusion (+ 1 alike)", "random", "deeplift"]
    assert {"occlusion", "saliency"} <= set(texts_of(drawn.quality_cost(same, DIRECTIONS)))


def test_metric_distributions():
    figure = drawn.metric_distributions(metric_table(), DIRECTIONS)
    assert len(figure.axes) == 3
    first = figure.axes[0]
    assert {t.get_text() for t in first.get_yticklabels()} == {"occlusion", "saliency", "random"}
    assert first.get_title(loc="left") == "aopc_compr ↑"
    assert sum(len(dots.get_offsets()) for dots in first.collections) == 3 * 4  # a dot per method and example
    assert "dashed: median of random" in " ".join(texts_of(figure))


def test_distributions_leave_the_random_generators_alone():
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    one = {"aopc_compr": True}
    png = to_png(drawn.metric_distributions(metric_table(), one), 50)
    assert (np.random.get_state()[1] == before).all()
    assert png == to_png(drawn.metric_distributions(metric_table(), one), 50)


def test_quality_cost_front_and_labels():
    crowd = [(f"method_{i}", "x", float(i), (0.5 + 0.01 * (i % 3), 0.4, 0.3), 2.0 + 0.1 * i) for i in range(8)]
    figure = drawn.quality_cost(board([*crowd, ("random", "baseline", 9.0, (0.1, 0.9, 0.1), 0.0)]), DIRECTIONS)
    axes = figure.axes[0]
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    labels = list(axes.texts)
    assert {text.get_text() for text in labels} == {*(f"method_{i}" for i in range(8)), "random"}
    boxes = [PlotText.get_window_extent(text, renderer) for text in labels]
    frame = axes.get_window_extent(renderer).expanded(1.001, 1.001)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(frame.contains(box.x0, box.y0) and frame.contains(box.x1, box.y1) for box in boxes)
    assert "0" in [t.get_text() for t in axes.get_xticklabels()]  # free methods have a tick of their own
    front = next(line for line in axes.get_lines() if line.get_label() == "Pareto front")
    assert list(front.get_ydata())[:4] == pytest.approx([0.1, 0.5, 0.51, 0.52])


def test_quality_cost_has_better_up_and_a_fallback():
    lower = drawn.quality_cost(board(), DIRECTIONS, "aopc_suff").axes[0]
    assert lower.yaxis_inverted() and "lower is better" in lower.get_ylabel()
    assert "aopc_suff" in drawn.quality_cost(board(), {"aopc_suff": False}).axes[0].get_ylabel()


def test_step_scores_plot():
    figure = drawn.step_scores(step_table())
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["probability", "entropy"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["probability", "nats"]
    line = figure.axes[0].get_lines()[0]
    assert list(line.get_ydata()) == pytest.approx([1.5, 1.6, 1.7])
    assert "mean over 4 examples" in " ".join(texts_of(figure))


@pytest.mark.parametrize(
    "make",
    [
        lambda: drawn.metric_heatmap(pd.DataFrame(), DIRECTIONS),
        lambda: drawn.metric_heatmap(board(), {}),
        lambda: drawn.metric_heatmap(board().drop(columns=[*DIRECTIONS]), DIRECTIONS),
        lambda: drawn.metric_heatmap(board()[:1], DIRECTIONS),
        lambda: drawn.metric_heatmap(board()[:2], DIRECTIONS),
        lambda: drawn.metric_distributions(pd.DataFrame(), DIRECTIONS),
        lambda: drawn.metric_distributions(metric_table(examples=0), DIRECTIONS),
        lambda: drawn.metric_distributions(metric_table(("saliency",), 1), DIRECTIONS),
        lambda: drawn.quality_cost(pd.DataFrame(), DIRECTIONS),
        lambda: drawn.quality_cost(board()[:1], DIRECTIONS),
        lambda: drawn.quality_cost(board()[-1:], DIRECTIONS),
        lambda: drawn.quality_cost(board().drop(columns="forward_equivalents"), DIRECTIONS),
        lambda: drawn.step_scores(pd.DataFrame()),
        lambda: drawn.step_scores(step_table(examples=1)[:1]),
    ],
)  # fmt: skip
def test_plots_of_little_are_still_figures(make):
    figure = make()
    assert isinstance(figure, Figure) and figure.axes
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()


def test_plots_change_no_global_state(tmp_path):
    from matplotlib import pyplot

    before = {key: mpl.rcParams[key] for key in mpl.rcParams if key != "backend"}
    figures = pyplot.get_fignums()
    drawn.metric_heatmap(board(), DIRECTIONS)
    drawn.metric_distributions(metric_table(), {"aopc_compr": True})
    drawn.quality_cost(board(), DIRECTIONS)
    drawn.step_scores(step_table())
    axes = Figure().add_subplot()
    plots.heatmap(causal(PROMPT, ANSWER), ax=axes)
    plots.step_scores(causal(PROMPT, ANSWER), path=tmp_path / "steps.svg")
    assert {key: mpl.rcParams[key] for key in mpl.rcParams if key != "backend"} == before
    assert pyplot.get_fignums() == figures
