"""The app in a real browser: every tab does its work, says what is wrong, fits, and can be used by keyboard."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from browser_support import in_browser, overflow
from mlflow_support import LoggedEvaluation

pytestmark = [
    *in_browser,
    pytest.mark.skipif(
        importlib.util.find_spec("gradio") is None, reason="gradio is not installed: pip install 'attriflow[app]'"
    ),
]
PATIENCE = 60_000  # milliseconds for an answer of the app, on a machine that is busy
TABS = ("Explain", "Compare", "Context", "Runs")


def started(folder: Path, *arguments: str, until: str = "attriflow is at ") -> tuple[subprocess.Popen[bytes], str]:
    """The command in a process of its own, and the word that follows what it says (its address)."""
    # background jobs of a shell ignore the interrupt, and what they start inherits that
    awake = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    awake += "; signal.signal(signal.SIGHUP, signal.SIG_DFL)"  # nohup has it ignored
    log, code = folder / "app.log", f"{awake}; from attriflow.cli import main; main()"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", code, "app", "--port", "0", "--device", "cpu", *arguments],
            stdout=out, stderr=out, cwd=folder, env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
    end = time.monotonic() + 240
    while time.monotonic() < end and process.poll() is None:
        if found := re.search(rf"{until}(\S+)", log.read_text()):
            return process, found[1]
        time.sleep(0.2)
    process.kill()
    pytest.fail(f"the app did not start:\n{log.read_text()[-3000:]}")


def stopped(process: subprocess.Popen[bytes]) -> int:
    process.send_signal(2)
    try:
        return process.wait(60)
    finally:
        process.kill()  # leaves none behind that would not stop


@pytest.fixture(scope="module")
def address(logged_evaluation: LoggedEvaluation, tmp_path_factory: pytest.TempPathFactory):
    """The app, opened with the demo and a tracked evaluation."""
    process, url = started(
        tmp_path_factory.mktemp("app"), "--run", logged_evaluation.run_id, "--tracking-uri", logged_evaluation.uri
    )
    yield url
    assert stopped(process) == 0


@pytest.fixture
def visit(browser, address: str):
    """`visit(width)` opens the app; in the end it may have complained about nothing and asked nobody else."""
    opened, complaints, requests = [], [], []

    def go(width: int = 1280, scheme: str = "light"):
        page = browser.new_page(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            reduced_motion="reduce",
            accept_downloads=True,
        )
        page.set_default_timeout(PATIENCE)
        opened.append(page)
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(address)
        page.get_by_role("heading", name="attriflow").wait_for()
        return page

    yield go
    assert complaints == []
    assert [url for url in requests if not url.startswith((address, "data:", "blob:", "about:"))] == []
    for page in opened:
        page.close()


def tab(page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def press(page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def frame(page, where: str):
    """The page in the frame of a result."""
    page.locator(f"#{where} iframe").wait_for()
    return page.frame_locator(f"#{where} iframe")


def panel(page):
    """What the open tab shows."""
    return page.locator("[role=tabpanel]:visible").first


def test_a_text_is_explained(visit, tmp_path: Path) -> None:
    page = visit()
    tab(page, "Explain")
    press(page, "Explain")
    shown = frame(page, "explained")
    assert shown.locator("h1").inner_text() == "Attributions by occlusion"
    steps = shown.locator(".steps button")
    assert "blue" in steps.first.inner_text()
    steps.first.hover()
    evidence = shown.locator("i, span, b").filter(has_text=re.compile("^blue$")).first
    assert evidence.evaluate("e => getComputedStyle(e).backgroundColor") not in (
        "rgba(0, 0, 0, 0)",
        "rgb(255, 255, 255)",
    )
    with page.expect_download() as download:
        press(page, "Save the page")
    saved = tmp_path / "page.html"
    download.value.save_as(saved)
    assert "Attributions by occlusion" in saved.read_text(encoding="utf-8")
    shown.get_by_role("tab", name="Heat map").click()
    assert shown.locator("td[data-row]").count() > 20
    # the frame is as high as its page: nothing scrolls in it
    height = shown.locator("html").evaluate("e => Math.ceil(e.getBoundingClientRect().height)")
    page.wait_for_function(f"() => document.querySelector('#explained iframe').clientHeight === {height}")
    assert height > 640


def test_methods_are_compared(visit) -> None:
    page = visit()
    tab(page, "Compare")
    press(page, "Compare")
    shown = frame(page, "compared")
    shown.locator(".card").nth(3).wait_for()
    cards = shown.locator(".card").all_inner_texts()
    for method in ("occlusion", "integrated_gradients", "saliency", "attention"):
        assert any(text.startswith(method) for text in cards), method
    cells = page.locator("#agreement td")
    cells.first.wait_for()
    texts = [t.strip() for t in cells.all_inner_texts()]
    assert "occlusion" in texts
    assert sum(bool(re.fullmatch(r"-?[01]\.\d+", t)) for t in texts) == 12  # six pairs, two numbers each
    page.locator("#comparison img").wait_for()


def test_context_reliance(visit) -> None:
    page = visit()
    tab(page, "Context")
    press(page, "Find what depends on context")
    shown = frame(page, "context")
    assert shown.locator("[data-cues]").all_inner_texts() == ["red"]
    assert set(shown.locator("[data-context] i.cue").all_inner_texts()) == {"red", "hat"}


def test_a_run_is_browsed(visit, logged_evaluation: LoggedEvaluation) -> None:
    page = visit()  # opens with the run that the command named
    page.locator("#run-title").get_by_text("small").wait_for()
    page.locator("#leaderboard").get_by_text("aopc_compr").first.wait_for()
    for method in logged_evaluation.methods:
        assert page.locator("#leaderboard").get_by_text(method).count() >= 1
    tab(page, "Report")
    report = frame(page, "report")
    report.locator("table.board").first.wait_for()
    tab(page, "Plots")
    page.locator("#plots img").first.wait_for()
    tab(page, "Attributions")
    press(page, "Show")
    stored = frame(page, "stored")
    assert "il" in stored.locator(".steps button").first.inner_text()
    page.get_by_label("Example").fill("7")
    press(page, "Show")
    page.get_by_text("there is no example 7").wait_for()


def test_the_runs_of_another_store(visit, logged_evaluation: LoggedEvaluation, tmp_path: Path) -> None:
    page = visit()
    page.locator("#run-title").get_by_text("small").wait_for()
    address = page.get_by_label("MLflow tracking URI")
    address.fill(str(tmp_path / "nowhere"))
    press(page, "Find runs")
    page.get_by_text("does not exist").wait_for()
    address.fill(logged_evaluation.uri)
    address.press("Enter")
    page.locator("#run-title").get_by_text("small").wait_for()


def test_another_model_brings_its_text_and_mistakes_are_one_message(visit) -> None:
    page = visit()
    tab(page, "Explain")
    model = page.get_by_label("Model")
    model.fill("demo/translate")
    model.press("Enter")
    page.locator("#facts").get_by_text("encoder-decoder").wait_for()
    text = panel(page).get_by_label("Text", exact=True)
    page.wait_for_function("() => [...document.querySelectorAll('textarea')].some(t => t.value.includes('old man'))")
    text.fill("")
    press(page, "Explain")
    page.get_by_text("there is no text to explain").wait_for()
    model.fill("demo/none <b>x</b>")
    model.press("Enter")
    page.get_by_text("Available: demo/recall, demo/translate").first.wait_for()
    assert page.locator(".toast-wrap b", has_text=re.compile("^x$")).count() == 0


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows(visit, width: int, scheme: str) -> None:
    page = visit(width, scheme)
    for name in TABS:
        tab(page, name)
        assert overflow(page) <= 0, name
        if name in ("Explain", "Compare"):
            press(page, name)
            shown = frame(page, "explained" if name == "Explain" else "compared")
            shown.locator(".steps button").first.wait_for()
            assert overflow(page) <= 0, name
            inside = shown.locator("html").evaluate("e => e.scrollWidth - e.clientWidth")
            assert inside <= 0, name
            assert shown.locator("html").evaluate("e => getComputedStyle(e).colorScheme") == scheme
    facts = page.locator("#facts").bounding_box()
    assert facts["width"] > 200
    assert facts["height"] < 120


def test_the_keyboard_reaches_everything(visit) -> None:
    page = visit()
    tab(page, "Runs")
    page.keyboard.press("Home")
    tab_of = "() => { const e = document.activeElement; return e.getAttribute('role') + ' ' + e.textContent.trim() }"
    page.get_by_role("tab", name="Explain", exact=True).focus()
    assert page.evaluate(tab_of) == "tab Explain"
    page.keyboard.press("Enter")
    reached = []
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("() => document.activeElement.innerText || document.activeElement.value || ''"))
        if reached[-1].strip() == "Explain":
            break
    assert any("what color is the book" in text for text in reached)
    assert reached[-1].strip() == "Explain"
    page.keyboard.press("Enter")
    shown = frame(page, "explained")
    shown.locator(".steps button").first.wait_for()
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("() => document.activeElement !== document.body")


def test_it_listens_at_this_machine_only_and_stops(tmp_path: Path) -> None:
    """Without arguments: the demo model, no store, nothing left behind."""
    process, url = started(tmp_path)
    assert url.startswith("http://127.0.0.1:")
    own = Path(f"/proc/{process.pid}/net/tcp")
    port = int(url.rstrip("/").rsplit(":", 1)[1])
    if own.exists():
        listening = [line.split()[1] for line in own.read_text().splitlines()[1:] if line.split()[3] == "0A"]
        assert f"0100007F:{port:04X}" in listening
    assert stopped(process) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["app.log"]
    assert "Traceback" not in (tmp_path / "app.log").read_text()
