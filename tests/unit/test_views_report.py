"""The report of an evaluation: what it holds, from attributions and tables made up here."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd
import pytest
import torch
from view_data import ANSWER, CARD, DIRECTIONS, HOSTILE, PROMPT, Page, board, causal, metric_table, step_table

from attriflow.evaluation.significance import comparison_table, summary_table
from attriflow.views.common import compact
from attriflow.views.evaluations import plots as plots
from attriflow.views.evaluations.boards import column, cost_table
from attriflow.views.evaluations.certainty import certainty
from attriflow.views.evaluations.report import report_html
from attriflow.views.figures import to_png


@functools.cache
def picture():
    return to_png(plots.metric_heatmap(board(), DIRECTIONS), 40)


def report(**changes):
    methods = ("occlusion", "saliency", "attention", "random")
    examples = [(PROMPT, ANSWER), (HOSTILE, HOSTILE[:2])]
    axes = {"attention": ("step", "input", "layer", "head")}
    items = {
        m: [causal(*e, m, axes.get(m, ("step", "input")), seed=i) for e in examples] for i, m in enumerate(methods)
    }
    rationale = torch.zeros(3, 16, dtype=torch.bool)
    rationale[0, [4, 5]] = True
    options = {
        "title": "Toy <report> & more", "leaderboard": board(), "directions": DIRECTIONS, "scores": metric_table(),
        "step_scores": step_table(), "summary": summary_table(metric_table()),
        "comparisons": comparison_table(metric_table(), DIRECTIONS), "attributions": items,
        "rationales": [rationale, None],
        "settings": {"model": 'toy"><script>alert(3)</script>', "seed": 0, "versions": {"torch": "2", "x": ["a", "b"]}},
        "figures": {"metric_heatmap": picture()},
    }  # fmt: skip
    return report_html(**{**options, **changes})


def test_report_is_well_formed_and_accessible():
    page = Page(report())
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert all(attrs.get("alt") and attrs.get("width") for attrs in page.all("img"))
    for name in ("aria-labelledby", "aria-controls"):
        assert {attrs[name] for _, attrs in page.elements if name in attrs} <= set(ids)
    assert page.texts["title"] == "Toy <report> & more"
    for text in ("no rule for <b>GELU</b>", "empty rationale", "versions.torch", "a, b", "aopc_suff\u00a0↓"):
        assert text in page.texts["main"], text
    tabs = [attrs["data-tab"] for attrs in page.all("button") if "data-tab" in attrs]
    assert tabs == ["leaderboard", "certainty", "methods", "steps", "throughput", "cards", "settings"]
    assert [attrs["id"] for attrs in page.all("section")] == tabs
    assert [attrs["data-explorer"] for attrs in page.all("div") if "data-explorer" in attrs] == [
        "text heatmap",
        "steps",
    ]


def test_choices_have_a_tab_where_they_were_tried():
    columns = ["family", "choice", "kendall_w", "worlds", "methods", "moved"]
    stable = pd.DataFrame([("overall", "all", 0.754, 9, 4, 1.5), ("overall", "baseline", 1, 1, 4, 0)], columns=columns)
    html = report(choices=("Your ranking depends.", stable), figures={"multiverse": picture()})
    page = Page(html)
    assert "choices" in [attrs["data-tab"] for attrs in page.all("button") if "data-tab" in attrs]
    text = page.texts["main"]
    assert "Your ranking depends." in text and "0.75" in text and "1.50" in text and "baseline alone" not in text
    assert html.index('id="choices"') < html.index("<img") < html.index('id="methods"')


def test_report_escapes_hostile_text():
    html = report()
    page = Page(html)
    assert [attrs.get("type") for attrs in page.all("script")] == ["application/json", None]
    assert "onerror" not in {name for _, attrs in page.elements for name in attrs}
    assert len(page.all("img")) == 1
    assert not set(html) & {"\x00", "\u202e"}


def test_report_has_a_card_for_each_method():
    text = " ".join(Page(report(cards=[CARD])).texts["main"].split())
    for shown in (
        "occlusion gated, not ranked", "Score <b>minus</b> score.", "<unk> (id 1; norm above 93.9% of the vocabulary)",
        "n steps: auto, n steps used: 40", "0.003 of the sum", "per example 26 forward passes; 0.5 s in all",
        "✗ control missed: 0.400, must be above 0, n=12", "randomisation: not tested (too few examples)",
        "Blind spots One token at a time.",
    ):  # fmt: skip
        assert shown in text, shown


def test_why_a_row_has_no_rank_stands_below_its_name():
    rows = board()
    rows["gates_failed"] = rows["status"].map({"ok": "control (-0.22)"}).fillna("")
    rows.loc[rows["status"] == "ok", ["status", "rank"]] = "gated", None
    page = Page(report(leaderboard=rows))
    assert "gate not passed: control (-0.22)" in page.texts["small"] and "not ranked" not in page.texts["thead"]


def test_report_shows_every_method_on_every_example():
    first, second = Page(report()).data()["examples"]
    assert [view["label"] for view in first["views"]] == ["occlusion", "saliency", "random", "attention"]  # by rank
    assert first["missing"] == [["deeplift", "no rule for <b>GELU</b>"]]
    assert first["views"][0]["evidence"] == [[4, 5], [], []] and second["views"][0]["evidence"] is None
    assert [name for name, _ in first["views"][0]["metrics"]] == list(DIRECTIONS)
    assert [axis["name"] for axis in first["views"][3]["axes"]] == ["layer", "head"]
    assert [(score["name"], score["unit"]) for score in first["scores"]] == [("probability", ""), ("entropy", "nats")]
    assert second["scores"][0]["values"] == [1.0, 1.1]


def test_certainty_counts_what_the_tests_decided():
    rng = np.random.default_rng(0)
    means = {"good": 0.8, "fair": 0.79, "random": 0.1}
    scores = pd.DataFrame(
        {"example": e, "step": 0, "method": m, "metric": "aopc_suff", "value": v + rng.normal(0, 0.05)}
        for e in range(20)
        for m, v in means.items()
    )
    pairs = comparison_table(scores, {"aopc_suff": False})
    table = certainty(summary_table(scores), pairs, {"aopc_suff": False})
    heads = [column["label"] for column in table["head"]]
    rows = {row["cells"][1]["text"]: dict(zip(heads, row["cells"], strict=True)) for row in table["rows"]}
    assert next(iter(rows)) == "random"  # lower is better here
    counts = {m: [row[k]["text"] for k in ("better than", "not told apart", "worse than")] for m, row in rows.items()}
    assert counts == {"random": ["2", "0", "0"], "fair": ["0", "1", "1"], "good": ["0", "1", "1"]}
    undecided = pairs[pairs["better"].isna()].iloc[0]
    missing = undecided["examples_needed"] - 20
    assert {rows[m]["examples missing"]["text"] for m in ("good", "fair")} == {compact(missing)}
    assert rows["good"]["p against random"]["text"] == "< 0.001" and rows["random"]["p against random"]["text"] == "–"
    assert certainty(pd.DataFrame(), pd.DataFrame(), {"aopc_suff": False}) == {"head": [], "rows": []}


def test_throughput_is_a_table_from_cheap_to_dear():
    html = report()
    table = html[html.index('aria-label="Throughput table"') :]
    table = table[: table.index("</table>")]
    assert table.index("random") < table.index("saliency") < table.index("occlusion") and "deeplift" not in table
    assert 'style="--part: 1.0"' in table and "22.4" in table and "90" in table


def test_report_stays_small():
    plain = len(report(figures={}).encode())
    assert plain < 150_000
    long = [f"token{i}" for i in range(350)]
    items = {f"method_{i}": [causal(long, long[:60], seed=i)] * 5 for i in range(12)}
    html = report(attributions=items, step_scores=pd.DataFrame(), figures={})
    assert len(html.encode()) < 1_500_000 + 300_000
    assert "examples are shown" in html


def test_report_says_how_many_examples_there_are():
    assert "The first 1 of 2 examples" in report(max_examples=1)


@pytest.mark.parametrize(
    "changes",
    [
        {"leaderboard": pd.DataFrame(), "attributions": {}, "figures": {}, "settings": {}, "directions": {}},
        {"scores": pd.DataFrame(), "step_scores": pd.DataFrame(), "rationales": None},
        {"leaderboard": board()[:1], "attributions": {"deeplift": []}},
        {"leaderboard": board().drop(columns=list(DIRECTIONS))},
        {"leaderboard": board()[["method", "status", "reason"]][:1], "directions": {}},
        {"max_examples": 0},
        {"rationales": [torch.ones(1, 1, dtype=torch.bool)]},
        {"figures": {"unknown_plot": b"not a picture"}},
    ],
)
def test_report_of_little_is_still_a_page(changes):
    page = Page(report(**changes))
    assert "Settings" in page.texts["main"]


def test_report_is_reproducible():
    assert report() == report()


@pytest.mark.parametrize(
    ("costs", "order"), [(("seconds", "peak_memory_mb"), "bac"), (("target_tokens_per_second",), "cab")]
)
def test_costs_are_sorted_from_the_best_by_the_first(costs, order):
    rows = [
        {"method": "a", "seconds": 2.0, "target_tokens_per_second": 5.0, "peak_memory_mb": None},
        {"method": "b", "seconds": 1.0, "target_tokens_per_second": 1.0, "peak_memory_mb": 4.0},
        {"method": "c", "seconds": 4.0, "target_tokens_per_second": 9.0, "peak_memory_mb": 8.0},
    ]
    made = cost_table([column("method", kind="name")], lambda row: [{"text": row["method"]}], rows, costs)
    assert "".join(row["cells"][0]["text"] for row in made["rows"]) == order
    assert [head["sorted"] for head in made["head"]] == [False, True, *[False] * (len(costs) - 1)]
    parts = [[cell["part"] for cell in row["cells"][1:]] for row in made["rows"]]
    assert parts == ([[0.25, 0.5], [0.5, None], [1, 1]] if len(costs) == 2 else [[1], [0.556], [0.111]])
    assert cost_table([], lambda row: [], rows, []) == {"head": [], "rows": []}
