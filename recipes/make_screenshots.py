"""Take the pictures of the views and of the app for the docs, docs/images/*.png, with the scores that they show.

Needs Chromium (`make browser`); for the app, gradio; for pictures of evaluations, what `make demo` writes. The scores
are in attributions.json beside the pictures, those of evaluations in docs/leaderboard.csv.
Usage: python recipes/make_screenshots.py [NAME ...] [--output docs/images] [--report demo-output/report.html]
"""

from __future__ import annotations

import argparse
import io
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TEXT = "the house of the old man is red"
FOIL = "la casa di il uomo vecchio è nera"
AGAINST = {"attributed_fn": "contrast_logits_diff", "contrast_targets": FOIL}
EXPLAINED: Mapping[str, tuple[tuple[str, ...], Mapping[str, Any]]] = {
    "console": (
        ("occlusion",),
        {**AGAINST, "attribute_target": False, "step_scores": ["probability", "contrast_prob_diff"]},
    ),
    "text": (("occlusion", "integrated_gradients", "saliency"), {}),
    "heatmap": (("attention",), {}),
    "contrast": (("occlusion", "input_x_gradient"), {**AGAINST, "step_scores": ["contrast_prob_diff"]}),
    "steps": (("occlusion",), {}),
    "phone": (("occlusion",), {}),
    "plot_heatmap": (("integrated_gradients",), {}),
    "plot_comparison": (
        ("occlusion", "lime", "integrated_gradients", "saliency", "attention"),
        {"attribute_target": False},
    ),
}
"""Picture -> the methods whose attributions of `TEXT` it shows, and how they were asked."""
COLORS = 256  # of a picture's palette: half the bytes, and nobody sees it


def explain(model: Any, name: str) -> list[Any]:
    """The attributions that a picture shows."""
    methods, given = EXPLAINED[name]
    options = {
        "step_scores": ["probability", "entropy", "margin"], "attribute_target": True, "show_progress": False, **given,
    }  # fmt: skip
    return [model.attribute(TEXT, method=method, **options)[0] for method in methods]


def scores(name: str, items: list[Any]) -> dict[str, list[Any]]:
    """ "picture: method" -> generated tokens, each with the scores of the inputs it sees."""

    def rounded(row: list[float]) -> list[float]:
        return [round(value, 4) for value in row if value == value]

    return {
        f"{name}: {item.provenance.method}": [
            [token.text, rounded(row)] for token, row in zip(item.targets, item.token_scores().tolist(), strict=True)
        ]
        for item in items
    }


class App:
    """The app in a process of its own, from the first picture of it on."""

    def __init__(self, folder: Path, store: Path) -> None:
        self.folder, self.store = folder, store
        self.process: subprocess.Popen[bytes] | None = None

    def address(self) -> str:
        """Where it is."""
        log = self.folder / "app.log"
        if self.process is None:
            program = "from attriflow.cli import main; main()"
            command = [sys.executable, "-c", program, "app", "--model", "demo/translate", "--port", "0"]
            if self.store.exists():
                command += ["--tracking-uri", f"sqlite:///{self.store.parent.name}/{self.store.name}"]
            home = self.store.parent.parent if self.store.exists() else self.folder
            with log.open("wb") as out:
                self.process = subprocess.Popen(command, stdout=out, stderr=out, cwd=home)
        while self.process.poll() is None:
            if found := re.search(r"attriflow is at (\S+)", log.read_text()):
                return found[1]
            time.sleep(0.2)
        raise SystemExit(f"the app did not start:\n{log.read_text()}")

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait()


class Studio:
    """A browser, and attributions of the demo models to take pictures of."""

    def __init__(self, browser: Any, folder: Path, report: Path) -> None:
        import attriflow

        self.browser, self.folder, self.report = browser, folder, report
        self.app = App(folder, report.with_name("mlflow.db").absolute())
        self.model = attriflow.load_model("demo/translate", device="cpu")
        self.shown: dict[str, Any] = {}

    def explain(self, name: str) -> list[Any]:
        """The attributions that a picture shows; their scores are kept."""
        items = explain(self.model, name)
        self.shown |= scores(name, items)
        return items

    @contextmanager
    def page(self, source: str | Path, width: int = 1120, height: int = 700, scheme: str = "light") -> Iterator[Any]:
        """A page, from its text or its file."""
        if isinstance(source, str):
            path = self.folder / "page.html"
            path.write_text(source, encoding="utf-8")
            source = path
        page = self.browser.new_page(
            viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
        )
        page.goto(source.resolve().as_uri())
        yield page
        page.close()

    @contextmanager
    def app_tab(self, name: str, width: int = 1280, height: int = 900, scheme: str = "light") -> Iterator[Any]:
        """A tab of the app."""
        page = self.browser.new_page(
            viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
        )
        page.set_default_timeout(120_000)
        page.goto(self.app.address())
        page.get_by_role("tab", name=name, exact=True).click()
        yield page
        page.close()


def console(studio: Studio) -> bytes:
    """A table in the terminal, with a contrast."""
    from rich.console import Console

    terminal = Console(record=True, width=96, force_terminal=True, color_system="truecolor", file=io.StringIO())
    (item,) = studio.explain("console")
    item.show(console=terminal, precision=2)
    body = terminal.export_html(inline_styles=True, code_format="<pre>{code}</pre>")
    style = (
        "body{margin:0;display:inline-block;padding:14px 18px;background:#fff}pre{margin:0;font:13px/1.25 monospace}"
    )
    with studio.page(f"<!doctype html><meta charset=utf-8><style>{style}</style>{body}") as page:
        return page.locator("body").screenshot()


def text(studio: Studio) -> bytes:
    """Methods side by side; the pointer is on a generated token."""
    from attriflow.views.html import to_html

    with studio.page(to_html(studio.explain("text"), title=TEXT), width=1280, height=690) as page:
        page.locator(".steps button").nth(7).hover()
        return page.screenshot()


def heatmap(studio: Studio) -> bytes:
    """A heat map of one head, chosen with the sliders."""
    from attriflow.views.html import to_html

    with studio.page(to_html(studio.explain("heatmap"), mode="heatmap"), width=860, height=860) as page:
        page.locator("input[data-axis=layer]").fill("2")
        page.locator("input[data-axis=head]").fill("3")
        page.locator("input[data-axis=head]").blur()
        page.locator('td[data-row="7"][data-column="7"]').hover()
        return page.screenshot()


def contrast(studio: Studio) -> bytes:
    """Why one word and not another."""
    from attriflow.views.html import to_html

    with studio.page(
        to_html(studio.explain("contrast"), title="Why “rossa” and not “nera”?"), width=900, height=660
    ) as page:
        return page.screenshot()


def steps(studio: Studio) -> bytes:
    """Step scores as lines."""
    from attriflow.views.html import to_html

    with studio.page(to_html(studio.explain("steps"), mode="steps"), height=690) as page:
        page.locator(".chart circle").nth(7).hover()
        return page.screenshot()


def phone(studio: Studio) -> bytes:
    """A small screen in the dark."""
    from attriflow.views.html import to_html

    with studio.page(to_html(studio.explain("phone")), width=390, height=760, scheme="dark") as page:
        page.locator(".steps button").nth(6).click()
        return page.screenshot()


def plot_heatmap(studio: Studio) -> bytes:
    """The heat map as a plot."""
    from attriflow.views import plots

    return _plot(plots.heatmap(studio.explain("plot_heatmap")[0]))


def plot_comparison(studio: Studio) -> bytes:
    """Methods compared as a plot."""
    from attriflow.views import plots

    return _plot(plots.comparison(studio.explain("plot_comparison"), step=7))


def _plot(axes: Any) -> bytes:
    from attriflow.views.figures import to_png

    return to_png(axes.figure, dpi=80)


def report(studio: Studio) -> bytes:
    """The leaderboard of the demo."""
    with studio.page(studio.report, height=760) as page:
        return page.screenshot()


def report_methods(studio: Studio) -> bytes:
    """The demo's methods on one example."""
    with studio.page(studio.report, height=900) as page:
        page.locator("[data-frame='1']").click()
        frame = page.frame_locator("iframe:not([hidden])")
        frame.locator("[data-tab=methods]").click()
        frame.locator("#methods .steps button").nth(1).click()
        return page.screenshot()


def app_explain(studio: Studio) -> bytes:
    """A text explained live."""
    with studio.app_tab("Explain", height=800) as page:
        page.get_by_role("button", name="Explain", exact=True).click()
        frame = page.frame_locator("#explained iframe")
        frame.locator(".steps button").nth(7).hover()
        return _settled(page)


def app_compare(studio: Studio) -> bytes:
    """Methods compared, and how far they agree."""
    with studio.app_tab("Compare", height=1860) as page:
        page.get_by_role("button", name="Compare", exact=True).click()
        frame = page.frame_locator("#compared iframe")
        frame.locator(".steps button").nth(7).hover()
        page.locator("#comparison img").wait_for()
        return _settled(page)


def app_context(studio: Studio) -> bytes:
    """What depends on context."""
    with studio.app_tab("Context", height=880) as page:
        page.get_by_role("button", name="Find what depends on context", exact=True).click()
        page.frame_locator("#context iframe").locator("[data-cues]").first.click()
        return _settled(page)


def app_runs(studio: Studio) -> bytes:
    """The leaderboard of a tracked run."""
    with studio.app_tab("Runs", height=900) as page:
        page.get_by_label("Evaluation").click()
        page.get_by_role("option").first.click()
        page.locator("#leaderboard").get_by_text("occlusion").locator("visible=true").first.wait_for()
        return _settled(page)


def app_phone(studio: Studio) -> bytes:
    """The app on a small screen in the dark."""
    with studio.app_tab("Context", width=390, height=1180, scheme="dark") as page:
        page.get_by_role("button", name="Find what depends on context", exact=True).click()
        page.frame_locator("#context iframe").locator("[data-cues]").first.click()
        return _settled(page)


def _settled(page: Any) -> bytes:
    page.wait_for_timeout(2500)  # frames take the height of what is in them
    return page.screenshot()


SHOTS: tuple[Callable[[Studio], bytes], ...] = (
    console, text, heatmap, contrast, steps, phone, plot_heatmap, plot_comparison, report, report_methods,
    app_explain, app_compare, app_context, app_runs, app_phone,
)  # fmt: skip


def small(png: bytes) -> bytes:
    """The picture with few colours."""
    from PIL import Image

    picture = Image.open(io.BytesIO(png)).convert("RGB").quantize(COLORS, dither=Image.Dither.NONE)
    out = io.BytesIO()
    picture.save(out, format="PNG", optimize=True)
    return min(png, out.getvalue(), key=len)


def keep(shown: Mapping[str, Any], path: Path) -> None:
    """Write the scores of the pictures that were taken; those of others stay."""
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    lines = [f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in sorted({**before, **shown}.items())]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def main(names: list[str], output: Path, demo: Path) -> int:
    """Take the pictures."""
    known = {shot.__name__: shot for shot in SHOTS}
    unknown = sorted(set(names) - set(known))
    if unknown:
        print(f"no picture named {', '.join(unknown)}. Allowed: {', '.join(known)}")
        return 2
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        print("Chromium is not installed: `make browser` does it as root on Debian")
        return 1
    from playwright.sync_api import sync_playwright

    output.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        studio = Studio(browser, Path(folder), demo)
        try:
            for name in names or known:
                if name in ("report", "report_methods", "app_runs") and not demo.exists():
                    print(f"{name}: left out, since there is no {demo} (`make demo` writes it)")
                    continue
                path = output / f"{name}.png"
                path.write_bytes(small(known[name](studio)))
                print(f"{path}: {path.stat().st_size // 1000} kB", flush=True)
        finally:
            studio.app.stop()
            browser.close()
    keep(studio.shown, output / "attributions.json")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="pictures to take; all by default")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--report", type=Path, default=ROOT / "demo-output" / "report.html")
    arguments = parser.parse_args()
    sys.exit(main(arguments.names, arguments.output, arguments.report))
