"""The HTML report in a real browser: its tabs, what lights up, sorts and how it fits small screens."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from browser_support import in_browser, nameless, overflow, poor_contrasts
from view_data import CARD, causal

from attriflow.evaluation.significance import comparison_table, summary_table
from attriflow.views.evaluations import plots as evaluation_plots
from attriflow.views.evaluations.report import report_html
from attriflow.views.figures import to_png
from attriflow.views.page import in_tabs

pytestmark = in_browser

PROMPT = [*"anna has a red hat . what color ?".split(), "</script><img src=x onerror=alert(1)>", "\x00", "\n"]
ANSWER = ["red", "hat", "of-a-name-that-is-much-too-long-for-a-telephone-" * 3]
METHODS = {"occlusion": (0.8, 0.1), "saliency": (0.6, 0.3), "random": (0.1, 0.9)}
DIRECTIONS = {"aopc_compr": True, "aopc_suff": False}
TABS = ("leaderboard", "certainty", "methods", "steps", "throughput", "cards", "settings")


def attribution(method, evidence):
    """Each step has its evidence, and beside it an input that counts against it."""
    scores = torch.zeros(len(ANSWER), len(PROMPT) + len(ANSWER))
    for step, index in enumerate(evidence):
        scores[step, index], scores[step, index + 1] = 2.0, -1.0
    return causal(PROMPT, ANSWER, method, scores=scores)


def report(title="A report"):
    rows = [
        {"method": m, "family": "x", "status": "ok", "reason": None, "rank": i + 1.0,
         **dict(zip(DIRECTIONS, v, strict=True)), "forward_equivalents": (22.0, 2.1, 0)[i], "seconds": (3, 1, 2)[i]}
        for i, (m, v) in enumerate(METHODS.items())
    ]  # fmt: skip
    rows.append({"method": "deeplift", "family": "x", "status": "failed", "reason": "no rule for this activation"})
    board = pd.DataFrame(rows)
    steps = [
        {"example": e, "step": s, "token": w, "step_function": n, "value": 0.5 + s / 10, "unit": u}
        for e in range(2) for s, w in enumerate(ANSWER)
        for n, u in (("entropy", "nats"), ("probability", "probability"))
    ]  # fmt: skip
    rationale = torch.zeros(len(ANSWER), len(PROMPT) + len(ANSWER), dtype=torch.bool)
    rationale[0, 3] = rationale[1, 4] = True
    scores = pd.DataFrame(
        {"example": e, "step": 0, "token": "t", "method": m, "metric": k, "value": v + e % 3 / 100, "skipped": None}
        for e in range(12) for m, values in METHODS.items() for k, v in zip(DIRECTIONS, values, strict=True)
    )  # fmt: skip
    return report_html(
        title=title, leaderboard=board, directions=DIRECTIONS, scores=pd.DataFrame(), step_scores=pd.DataFrame(steps),
        attributions={m: [attribution(m, (3, 4, i)), attribution(m, (0, 1, 2))] for i, m in enumerate(METHODS)},
        summary=summary_table(scores), comparisons=comparison_table(scores, DIRECTIONS),
        rationales=[rationale, None], settings={"model": "toy", "long": "x" * 400},
        figures={"metric_heatmap": to_png(evaluation_plots.metric_heatmap(board, DIRECTIONS))}, cards=[CARD],
    )  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    (folder / "report.html").write_text(report(), encoding="utf-8")
    tabs = in_tabs("Two reports", {"one": report("First"), "two": report("Second")})
    (folder / "tabs.html").write_text(tabs, encoding="utf-8")
    return folder


@pytest.fixture(params=[1280, 390])
def page(request, visit, files):
    return visit(files / "report.html", request.param)


def choose(page, tab):
    page.locator(f"[data-tab={tab}]").click()
    return page.locator(f"#{tab}")


def strongest(panel, card):
    """Texts of the tokens with the strongest colours of a card: for the step, against it."""
    tokens = panel.locator("[data-card]").nth(card).locator(".tokens i")
    found = tokens.evaluate_all("all => all.map(one => [one.className.split(' ')[0], one.textContent])")
    return [text for name, text in found if name == "p20"], [text for name, text in found if name == "n10"]


def test_tabs_by_mouse_keyboard_and_address(page, files):
    shown = [tab for tab in TABS if page.locator(f"#{tab}").is_visible()]
    assert shown == ["leaderboard"]
    choose(page, "throughput")
    assert [tab for tab in TABS if page.locator(f"#{tab}").is_visible()] == ["throughput"]
    page.keyboard.press("ArrowRight")
    assert page.locator("#cards").is_visible() and page.url.endswith("#cards")
    page.keyboard.press("ArrowRight")
    assert page.locator("#settings").is_visible() and page.url.endswith("#settings")
    page.keyboard.press("ArrowRight")  # round to the first
    assert page.locator("#leaderboard").is_visible()
    page.goto(f"{(files / 'report.html').as_uri()}#steps")
    page.reload()
    assert (
        page.locator("#steps").is_visible()
        and page.locator("[data-tab=steps]").get_attribute("aria-selected") == "true"
    )


def test_methods_light_up_on_the_chosen_example(page):
    panel = choose(page, "methods")
    assert strongest(panel, 0) == (["red"], ["hat"])
    buttons = panel.locator(".steps button")
    buttons.nth(1).hover()
    for card in range(len(METHODS)):
        assert strongest(panel, card) == (["hat"], ["."])
    card = panel.locator("[data-card]").first
    assert card.locator(".tokens i.r").all_inner_texts() == ["hat"]  # the data's evidence, underlined
    assert panel.locator(".steps .value").all_inner_texts() == ["0.5", "0.6", "0.7"]
    assert "no rule for this activation" in panel.locator(".card.failed").inner_text()
    page.mouse.move(1, 1)
    assert strongest(panel, 0) == (["red"], ["hat"])  # back to the selected token
    panel.get_by_label("Example", exact=True).select_option("1")
    assert strongest(panel, 0) == (["anna"], ["has"]) and panel.locator(".tokens i.r").count() == 0
    buttons.first.focus()
    page.keyboard.press("ArrowRight")
    assert strongest(panel, 2) == (["has"], ["a"])


def test_heat_map_marks_the_evidence(page):
    panel = choose(page, "methods")
    panel.locator("[data-mode=heatmap]").click()
    cell = panel.locator('[data-card=occlusion] td[data-row="3"][data-column="0"]')
    assert cell.inner_text() == "2.000" and cell.get_attribute("class").split()[:2] == ["p20", "r"]


def test_step_scores_of_the_chosen_example(page):
    panel = choose(page, "steps")
    assert panel.locator(".chart").count() == 2
    panel.get_by_role("button", name="Next example").click()
    panel.locator(".scores summary").click()
    assert panel.locator(".scores tbody tr").nth(1).locator("td").all_inner_texts() == ["0.5", "0.6", "0.7"]


def test_sorting_by_mouse_and_keyboard(page):
    panel = page.locator("#leaderboard")
    names, heads = panel.locator("table.board tbody th bdi"), panel.locator("table.board thead th")
    assert names.all_inner_texts() == ["occlusion", "saliency", "random", "deeplift"]
    suffering = heads.filter(has_text="suff")
    suffering.locator("button").click()  # lower is better: best first
    assert suffering.get_attribute("aria-sort") == "ascending"
    suffering.locator("button").press("Enter")
    assert names.all_inner_texts() == ["random", "saliency", "occlusion", "deeplift"]
    assert suffering.get_attribute("aria-sort") == "descending"
    heads.filter(has_text="method").locator("button").press("Space")
    assert names.all_inner_texts() == ["deeplift", "occlusion", "random", "saliency"]
    heads.filter(has_text="compr").locator("button").click()
    assert names.all_inner_texts() == ["occlusion", "saliency", "random", "deeplift"]
    assert panel.locator("table.board thead [aria-sort]").count() == 1
    assert "no rule for this activation" in panel.locator("table.board tbody tr.failed").inner_text()
    costs = choose(page, "throughput")
    assert costs.locator("tbody th bdi").all_inner_texts() == ["random", "saliency", "occlusion"]
    costs.locator("thead th", has_text="seconds").locator("button").click()
    assert costs.locator("tbody th bdi").all_inner_texts() == ["saliency", "random", "occlusion"]


def test_certainty_of_every_method_on_every_metric(page):
    panel = choose(page, "certainty")
    rows = panel.locator("tbody tr")
    assert rows.count() == len(METHODS) * len(DIRECTIONS)
    first = rows.first.locator("td, th").all_text_contents()
    # the values 0.8, 0.81 and 0.82, each four times; both other methods are beaten
    assert [text.strip() for text in first[:3]] == ["aopc_compr\u00a0↑", "occlusion", "0.810"]
    assert [text.strip() for text in first[4:8]] == ["12", "2", "0", "0"]
    panel.get_by_role("button", name="worse than").click()
    assert panel.locator("th[aria-sort]").text_content().strip() == "worse than"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_fits_has_a_name_and_can_be_read(page, scheme):
    page.emulate_media(color_scheme=scheme)
    for tab in TABS:
        choose(page, tab)
        for summary in page.locator(f"#{tab} summary").all():
            summary.click()
        assert overflow(page) <= 0, tab
        assert poor_contrasts(page) == [], tab
        assert nameless(page) == [], tab


@pytest.mark.parametrize("width", [1280, 390])
def test_reports_in_tabs_share_one_theme(visit, files, width):
    page = visit(files / "tabs.html", width)
    first, second = (page.frame_locator("iframe").nth(i) for i in range(2))
    assert first.locator("h1").inner_text() == "First" and not second.locator("h1").is_visible()
    page.locator("[data-frame='1']").click()
    assert second.locator("h1").is_visible() and not first.locator("h1").is_visible()
    page.locator(".frame-bar [data-theme-toggle]").click()
    for frame in (first, second):
        frame.locator(":root[data-theme=dark]").wait_for(state="attached")
        assert not frame.locator("[data-theme-toggle]").is_visible()  # the one around is for all
    second.locator("[data-tab=methods]").click()
    second.locator(".steps button").nth(1).click()
    assert second.locator("[data-card=occlusion] .tokens i.p20").all_inner_texts() == ["hat"]
    assert overflow(page) <= 0
