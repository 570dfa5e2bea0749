"""The HTML report in a real browser: what it lights up, sorts and how it fits small screens."""

from __future__ import annotations

import importlib.util
import shutil

import pandas as pd
import pytest
import torch

from attriflow.types import Attribution, Provenance, Token
from attriflow.views import plots
from attriflow.views.report import report_html

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or "/usr/bin/chromium"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which(CHROMIUM) is None, reason=f"no browser at {CHROMIUM}"),
    pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="playwright is not installed"),
]

PROMPT = [
    "anna",
    "has",
    "a",
    "red",
    "hat",
    ".",
    "what",
    "color",
    "?",
    "</script><img src=x onerror=alert(1)>",
    "\x00",
    "\n",
]
ANSWER = ["red", "hat", "of-a-name-that-is-much-too-long-for-a-telephone-" * 3]
METHODS = {"occlusion": (0.8, 0.1), "saliency": (0.6, 0.3), "random": (0.1, 0.9)}
DIRECTIONS = {"aopc_compr": True, "aopc_suff": False}


def attribution(method, evidence):
    """Step j sees the prompt and the tokens before it; its evidence is one input, a weaker one counts against it."""
    words = PROMPT + ANSWER
    scores = torch.zeros(len(ANSWER), len(words))
    for step, index in enumerate(evidence):
        scores[step, index] = 2.0
        scores[step, index + 1] = -1.0
        scores[step, len(PROMPT) + step :] = float("nan")
    segments = ["prompt"] * len(PROMPT) + ["generated"] * len(ANSWER)
    inputs = tuple(Token(text=w, id=i, segment=s) for i, (w, s) in enumerate(zip(words, segments, strict=True)))
    return Attribution(
        scores=scores, inputs=inputs, targets=inputs[len(PROMPT) :], start=len(PROMPT),
        provenance=Provenance(method=method), input_text=" ".join(PROMPT), target_text=" ".join(ANSWER),
    )  # fmt: skip


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    rows = [
        {"method": m, "family": "x", "status": "ok", "reason": None, "rank": i + 1.0,
         **dict(zip(DIRECTIONS, v, strict=True)), "forward_equivalents": [22.0, 2.1, 0.0][i], "seconds": 1.0}
        for i, (m, v) in enumerate(METHODS.items())
    ]  # fmt: skip
    rows.append({"method": "deeplift", "family": "x", "status": "failed", "reason": "no rule for this activation"})
    board = pd.DataFrame(rows)
    steps = [
        {"example": e, "step": s, "token": w, "step_function": n, "value": 0.5 + s / 10, "unit": u}
        for e in range(2) for s, w in enumerate(ANSWER)
        for n, u in (("probability", "probability"), ("entropy", "nats"))
    ]  # fmt: skip
    rationale = torch.zeros(len(ANSWER), len(PROMPT) + len(ANSWER), dtype=torch.bool)
    rationale[0, 3] = rationale[1, 4] = True
    html = report_html(
        title="A report", leaderboard=board, directions=DIRECTIONS, scores=pd.DataFrame(),
        step_scores=pd.DataFrame(steps),
        attributions={m: [attribution(m, (3, 4, i)), attribution(m, (0, 1, 2))] for i, m in enumerate(METHODS)},
        rationales=[rationale, None], settings={"model": "toy", "long": "x" * 400},
        figures={"metric_heatmap": plots.to_png(plots.metric_heatmap(board, DIRECTIONS))},
    )  # fmt: skip
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(html, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Without a sandbox of its own: tests run as root in containers, and the page is ours.
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture(params=[1280, 390])
def page(request, browser, page_file):
    """The report in a window; afterwards nothing may have been complained about or asked of the network."""
    page = browser.new_page(viewport={"width": request.param, "height": 900})
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append("dialog"), dialog.dismiss()))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(page_file.as_uri())
    yield page
    assert complaints == []
    assert [url for url in requests if not url.startswith(("data:", page_file.as_uri()))] == []
    page.close()


def strongest(page, card, example=0):
    """Texts of the tokens with the strongest colours of a card: for the step, against it."""
    tokens = page.locator(".example").nth(example).locator("[data-card]").nth(card).locator(".tokens i")
    found = tokens.evaluate_all("all => all.map(one => [one.className.split(' ')[0], one.textContent])")
    return [text for name, text in found if name == "p20"], [text for name, text in found if name == "n10"]


def test_first_step_is_shown_and_hover_lights_up_the_evidence(page):
    assert strongest(page, 0) == (["red"], ["hat"])
    buttons = page.locator(".example").first.locator(".steps button")
    buttons.nth(1).hover()
    for card in range(len(METHODS)):
        assert strongest(page, card) == (["hat"], ["."])
    card = page.locator("[data-card]").first
    assert "hat 2.0" in card.locator(".top").inner_text()
    assert card.locator(".tokens i.r").all_inner_texts() == ["hat"]  # the data's evidence, underlined
    assert page.locator(".readout output").all_inner_texts()[:2] == ["0.600", "0.600"]
    color = card.locator(".tokens i.p20").evaluate("one => getComputedStyle(one).backgroundColor")
    assert color == "rgb(178, 24, 43)"
    page.mouse.move(1, 1)
    assert strongest(page, 0) == (["red"], ["hat"])  # back to the selected token


def test_click_and_keyboard_select_tokens(page):
    buttons = page.locator(".example").first.locator(".steps button")
    buttons.nth(1).click()
    page.mouse.move(1, 1)
    assert strongest(page, 1) == (["hat"], ["."])
    assert buttons.nth(1).get_attribute("aria-checked") == "true"
    page.keyboard.press("ArrowRight")
    assert buttons.nth(2).evaluate("one => one === document.activeElement")
    assert [strongest(page, card)[0] for card in range(3)] == [["anna"], ["has"], ["a"]]
    page.keyboard.press("ArrowRight")
    assert strongest(page, 0) == (["red"], ["hat"])  # round to the first
    page.keyboard.press("End")
    assert strongest(page, 0)[0] == ["anna"]
    assert strongest(page, 0, example=1)[0] == ["anna"]  # the other example is on its own
    page.locator(".example").nth(1).locator(".steps button").first.focus()
    page.keyboard.press("ArrowDown")
    assert strongest(page, 0, example=1)[0] == ["has"]


def test_sorting_by_mouse_and_keyboard(page):
    names = page.locator("table.board tbody th bdi")
    heads = page.locator("table.board thead th")
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
    assert page.locator("table.board thead [aria-sort]").count() == 1
    assert "no rule for this activation" in page.locator("table.board tbody tr.failed").inner_text()


def test_matrix_opens(page):
    card = page.locator("[data-card]").first
    card.locator(".matrix summary").click()
    cells = card.locator(".matrix tbody tr").nth(3).locator("td")
    assert cells.all_inner_texts() == ["2.0", "0", "0"]
    assert cells.first.get_attribute("class") == "p20 r"
    assert card.locator(".matrix tbody td.x").count() == 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows(page, scheme):
    page.emulate_media(color_scheme=scheme)
    for summary in page.locator("summary").all():
        summary.click()
    widths = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert widths[0] <= widths[1]
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 28)")
    # Of every coloured token, text against what is behind it.
    contrasts = page.evaluate(
        """() => {
        const parse = (text) => text.match(/[\\d.]+/g).map(Number);
        const linear = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
        const luminance = (c) => 0.2126 * linear(c[0]) + 0.7152 * linear(c[1]) + 0.0722 * linear(c[2]);
        const paper = parse(getComputedStyle(document.body).backgroundColor);
        const token = document.querySelector(".tokens i"), found = [];
        for (const sign of "pn") for (let level = 0; level <= 20; level++) {
            token.className = sign + level;
            const style = getComputedStyle(token), back = parse(style.backgroundColor), ink = parse(style.color);
            const alpha = back.length > 3 ? back[3] : 1;
            const pair = [paper.map((c, i) => c + (back[i] - c) * alpha), ink].map(luminance).sort((a, b) => a - b);
            found.push((pair[1] + 0.05) / (pair[0] + 0.05));
        }
        return found;
    }"""
    )
    assert len(contrasts) == 42 and min(contrasts) >= 4.5
