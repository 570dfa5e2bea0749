"""The views: what they print, draw and write, from attributions and tables made up here."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text as PlotText
from rich.console import Console

from attriflow.types import Attribution, Provenance, Token
from attriflow.views import plots
from attriflow.views.common import best, color, compact, goodness, ink, number, printable, token_text
from attriflow.views.console import leaderboard_table, show
from attriflow.views.report import report_html

DIRECTIONS = {"aopc_compr": True, "aopc_suff": False, "token_f1_plau": True}
HOSTILE = [
    "</script><img src=x onerror=alert(1)>",
    "\"'`=",
    "\x00",
    "\u202eevil",
    "\n",
    "\t",
    " ",
    "",
    "שלום",
    "{{ 7*7 }}",
]


def tokens(words, segment, special=()):
    return tuple(Token(text=w, id=i, segment=segment, special=w in special) for i, w in enumerate(words))


def causal(prompt, generated, method="saliency", axes=("step", "input"), scale=1.0, seed=0):
    """A decoder-only attribution: every step sees the prompt and the tokens generated before it."""
    inputs = tokens(prompt, "prompt", ("<bos>",)) + tokens(generated, "generated")
    steps, extra = len(generated), (2,) * (len(axes) - 2)
    scores = torch.randn(steps, len(inputs), *extra, generator=torch.Generator().manual_seed(seed)) * scale
    scores[torch.arange(len(inputs))[None] >= len(prompt) + torch.arange(steps)[:, None]] = float("nan")
    return Attribution(
        scores=scores, axes=axes, inputs=inputs, targets=tokens(generated, "generated"), start=len(prompt),
        step_scores={"probability": torch.linspace(0.25, 0.75, steps)},
        provenance=Provenance(method=method, attributed_fn="logit", model="toy"),
        input_text=" ".join(prompt), target_text=" ".join(generated),
    )  # fmt: skip


PROMPT = ["<bos>", "tom", "has", "a", "blue", "car", ".", "what", "color", "is", "the", "car", "?"]
ANSWER = ["blue", "paint", "."]


def printed(*args, width=100, color_system=None, **options):
    console = Console(file=io.StringIO(), width=width, color_system=color_system, force_terminal=bool(color_system))
    show(*args, console=console, **options)
    return console.file.getvalue()


def board(rows=None):
    rows = rows or [
        ("occlusion", "perturbation", 1.0, (0.8, 0.1, 0.5), 22.4),
        ("saliency", "gradient", 2.0, (0.6, 0.2, 0.6), 2.1),
        ("random", "baseline", 3.0, (0.2, 0.6, None), 0.0),
    ]
    table = [
        {
            "method": m, "family": f, "status": "ok", "reason": None, "rank": rank,
            **dict(zip(DIRECTIONS, values, strict=True)),
            "seconds": 0.5, "target_tokens_per_second": 90.0, "forward_equivalents": cost, "peak_memory_mb": 10.0,
            "n_examples": 4,
        }
        for m, f, rank, values, cost in rows
    ]  # fmt: skip
    failed = {"method": "deeplift", "family": "gradient", "status": "failed", "reason": "no rule for <b>GELU</b>"}
    return pd.DataFrame([failed, *table])


def metric_table(methods=("occlusion", "saliency", "random"), examples=4):
    values = np.random.default_rng(0).random
    return pd.DataFrame(
        [
            {"example": e, "step": s, "token": "t", "method": m, "metric": k, "value": float(values()), "skipped": None}
            for e in range(examples) for s in range(2) for m in methods for k in DIRECTIONS
        ]
        + [{"example": 0, "step": 2, "token": "t", "method": m, "metric": "token_f1_plau", "value": None,
            "skipped": "empty rationale"} for m in methods]
    )  # fmt: skip


def step_table(names=(("probability", "probability"), ("entropy", "nats")), examples=4):
    return pd.DataFrame(
        [
            {"example": e, "step": s, "token": "t", "step_function": n, "value": e + s / 10, "unit": unit}
            for e in range(examples) for s in range(3) for n, unit in names
        ]
    )  # fmt: skip


# --- common ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("car", "car"), (" car", "car"), ("", "∅"), (" ", "␣"), ("  ", "␣␣"), ("\n", "⏎"), ("\t", "⇥"), ("a\nb", "a⏎b"),
        ("\x00", "<U+0000>"), ("\u202eab", "<U+202E>ab"), ("\u200b", "<U+200B>"), ("\ud800", "\ufffd"),
        ("שלום", "שלום"),
        ("new york", "new york"), ("\u00a0", "⍽"), ("\u2028", "<U+2028>"),
    ],
)  # fmt: skip
def test_tokens_are_visible(raw, shown):
    assert token_text(raw) == shown


def test_printable_keeps_line_breaks_and_normal_text():
    assert printable("a\n\tb é 🙂") == "a\n\tb é 🙂"
    assert printable("\x1b[31m\u2066x") == "<U+001B>[31m<U+2066>x"


def test_colors_are_ordered_and_readable():
    assert color(0) == (247, 247, 247)
    assert color(1)[0] > color(1)[2] and color(-1)[2] > color(-1)[0]

    def luminance(rgb):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in rgb)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for value in np.linspace(-1, 1, 41):
        pair = sorted([luminance(color(value)), luminance(ink(color(value)))])
        assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, value


def test_goodness_and_best_know_the_direction():
    assert goodness([1, None, 3, 2], True) == [0, None, 1, 0.5]
    assert goodness([1, float("nan"), 3], False) == [1, None, 0]
    assert goodness([2, 2], True) == [0.5, 0.5]
    assert best([1, 3, None], True) == 3 and best([1, 3], False) == 1
    assert best([1], True) is None and best([None], True) is None


def test_numbers():
    assert [number(v) for v in (0.5, None, float("nan"), 0, 12345.6, 1e-7)] == [
        "0.500",
        "–",
        "–",
        "0.000",
        "12,346",
        "1.0e-07",
    ]
    assert [compact(v) for v in (1.0, 2.333333, 45600, None)] == ["1", "2.33", "45,600", "–"]


# --- console ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [40, 80, 200])
def test_every_column_is_printed_within_the_width(width):
    words = ["la", "vecchia", "donna", "legge", "il", "libro", "rosso", "nella", "piccola", "casa", "di", "legno", "."]
    text = printed(causal(PROMPT, words), width=width)
    assert max(map(len, text.splitlines())) <= width
    heads = [
        line.split() for line, after in zip(text.splitlines(), text.splitlines()[1:], strict=False) if "──────" in after
    ]
    assert [word for head in heads for word in head] == words
    assert len(heads) > 1 if width < 200 else len(heads) == 1
    assert "saliency · logit · toy" in text
    assert "── prompt" in text and "── generated" in text


def test_blank_is_not_zero_and_the_last_token_gets_no_row():
    item = causal(PROMPT, ANSWER)
    item.scores[0, 1] = 0.0
    lines = printed(item).splitlines()
    row = {line.split()[0]: line.split()[1:] for line in lines if line.split()}
    assert row["tom"][0] == "0.000" and len(row["tom"]) == 3
    assert len(row["paint"]) == 1  # visible to the last step only
    generated = lines[next(i for i, line in enumerate(lines) if "── generated" in line) :]
    assert not any(line.startswith(" . ") for line in generated)
    assert row["probability"] == ["0.250", "0.500", "0.750"]
    assert "blank: not visible to the step" in lines[-1]


def test_max_columns_splits_into_tables():
    text = printed(causal(PROMPT, ANSWER), max_columns=2)
    assert "steps 0–1 of 3" in text and "steps 2–2 of 3" in text


def test_colors_only_in_a_terminal():
    item = causal(PROMPT, ANSWER)
    assert "\x1b[" not in printed(item) and "blue −" not in printed(item)
    text = printed(item, color_system="truecolor")
    strongest = "48;2;" + ";".join(
        map(str, color(1.0 if item.scores.nan_to_num().max() == item.scores.nan_to_num().abs().max() else -1))
    )
    assert strongest in text and "blue −" in text


def test_small_scores_get_a_common_power_of_ten():
    text = printed(causal(PROMPT, ANSWER, scale=1e-6))
    assert "in units of 1e-0" in text
    assert re.search(r"\d\.\d{3}", text) and "0.000 " not in text.split("probability")[0].split("tom")[1].split("\n")[0]


def test_extra_axes_are_reduced_and_several_are_shown():
    granular = causal(PROMPT, ANSWER, "attention", ("step", "input", "layer", "head"))
    text = printed([granular, causal(PROMPT, ANSWER, "occlusion")], precision=2)
    assert "reduced over layer, head" in text and "attention · logit" in text and "occlusion · logit" in text
    assert f"{granular.token_scores()[0, 1]:.2f}" in text


def test_hostile_tokens_do_not_break_the_terminal():
    text = printed(causal(HOSTILE, ["\x1b[31m", "[bold]x[/bold]"]), width=120)
    assert "\x1b" not in text and "\x00" not in text and "\u202e" not in text
    assert "<U+001B>[31m" in text and "[bold]x" in text


def test_attribution_shows_itself(capsys):
    causal(PROMPT, ANSWER).show()
    assert "── prompt" in capsys.readouterr().out


@pytest.mark.parametrize("width", [80, 100, 120])
def test_leaderboard_table_fits_and_says_why_methods_failed(width):
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system="truecolor")
    console.print(leaderboard_table(board(), DIRECTIONS, "A title"))
    text = console.file.getvalue()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert "A title" in plain and "compr ↑" in plain and "suff ↓" in plain
    assert "deeplift: no rule for <b>GELU</b>" in " ".join(plain.split())
    assert all(name in plain for name in ("occlusion", "saliency", "random", "22.4", "90"))
    assert re.search(r"\x1b\[1;32m *0\.800", text) and re.search(r"\x1b\[1;32m *0\.100", text)
    assert not re.search(r"\x1b\[1;32m *0\.200", text)
    assert plain.index("occlusion") < plain.index("saliency") < plain.index("random") < plain.index("deeplift")


# --- plots -----------------------------------------------------------------------------------------------------------


def texts_of(figure):
    return [text.get_text() for text in figure.findobj(PlotText) if text.get_text()]


def test_metric_heatmap():
    figure = plots.metric_heatmap(board(), DIRECTIONS)
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


def test_metric_distributions():
    figure = plots.metric_distributions(metric_table(), DIRECTIONS)
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
    png = plots.to_png(plots.metric_distributions(metric_table(), one), 50)
    assert (np.random.get_state()[1] == before).all()
    assert png == plots.to_png(plots.metric_distributions(metric_table(), one), 50)


def test_quality_cost_front_and_labels():
    crowd = [(f"method_{i}", "x", float(i), (0.5 + 0.01 * (i % 3), 0.4, 0.3), 2.0 + 0.1 * i) for i in range(8)]
    figure = plots.quality_cost(board([*crowd, ("random", "baseline", 9.0, (0.1, 0.9, 0.1), 0.0)]), DIRECTIONS)
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
    lower = plots.quality_cost(board(), DIRECTIONS, "aopc_suff").axes[0]
    assert lower.yaxis_inverted() and "lower is better" in lower.get_ylabel()
    assert "aopc_suff" in plots.quality_cost(board(), {"aopc_suff": False}).axes[0].get_ylabel()


def test_step_scores_plot():
    figure = plots.step_scores(step_table())
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["probability", "entropy"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["probability", "nats"]
    line = figure.axes[0].get_lines()[0]
    assert list(line.get_ydata()) == pytest.approx([1.5, 1.6, 1.7])
    assert "mean over 4 examples" in " ".join(texts_of(figure))


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_attribution_heatmap(scale):
    figure = plots.attribution_heatmap(causal([*PROMPT, "$x$", *HOSTILE], ANSWER, scale=scale))
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ANSWER
    down = [t.get_text() for t in axes.get_yticklabels()]
    assert down[:3] == ["<bos>", "tom", "has"] and down[-2:] == ["blue", "paint"] and "$x$" in down
    assert "not visible to the step" in texts_of(figure) and "saliency\nlogit" in texts_of(figure)
    assert any("in units of 1e" in text for text in texts_of(figure)) == (scale < 1)
    assert plots.to_png(figure, 40)[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    "make",
    [
        lambda: plots.metric_heatmap(pd.DataFrame(), DIRECTIONS),
        lambda: plots.metric_heatmap(board(), {}),
        lambda: plots.metric_heatmap(board().drop(columns=[*DIRECTIONS]), DIRECTIONS),
        lambda: plots.metric_heatmap(board()[:1], DIRECTIONS),
        lambda: plots.metric_heatmap(board()[:2], DIRECTIONS),
        lambda: plots.metric_distributions(pd.DataFrame(), DIRECTIONS),
        lambda: plots.metric_distributions(metric_table(examples=0), DIRECTIONS),
        lambda: plots.metric_distributions(metric_table(("saliency",), 1), DIRECTIONS),
        lambda: plots.quality_cost(pd.DataFrame(), DIRECTIONS),
        lambda: plots.quality_cost(board()[:1], DIRECTIONS),
        lambda: plots.quality_cost(board()[-1:], DIRECTIONS),
        lambda: plots.quality_cost(board().drop(columns="forward_equivalents"), DIRECTIONS),
        lambda: plots.step_scores(pd.DataFrame()),
        lambda: plots.step_scores(step_table(examples=1)[:1]),
        lambda: plots.attribution_heatmap(causal(["a"], ["b"])),
        lambda: plots.attribution_heatmap(causal(["a"] * 200, ["b"] * 65)),
    ],
)  # fmt: skip
def test_plots_of_little_are_still_figures(make):
    figure = make()
    assert isinstance(figure, Figure) and figure.axes
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()


def test_plots_change_no_global_state():
    from matplotlib import pyplot

    before = {key: mpl.rcParams[key] for key in mpl.rcParams if key != "backend"}
    figures = pyplot.get_fignums()
    plots.metric_heatmap(board(), DIRECTIONS)
    plots.metric_distributions(metric_table(), {"aopc_compr": True})
    plots.quality_cost(board(), DIRECTIONS)
    plots.step_scores(step_table())
    plots.attribution_heatmap(causal(PROMPT, ANSWER))
    assert {key: mpl.rcParams[key] for key in mpl.rcParams if key != "backend"} == before
    assert pyplot.get_fignums() == figures


# --- report ----------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Collects elements, and checks that tags are balanced."""

    VOID = frozenset({"meta", "link", "img", "br", "hr", "input", "wbr"})

    def __init__(self, html):
        super().__init__()
        self.elements, self.open, self.texts = [], [], {}
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        for tag in set(self.open):
            self.texts[tag] = self.texts.get(tag, "") + data

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


@functools.cache
def picture():
    return plots.to_png(plots.metric_heatmap(board(), DIRECTIONS), 40)


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
        "step_scores": step_table(), "attributions": items, "rationales": [rationale, None],
        "settings": {"model": 'toy"><script>alert(3)</script>', "seed": 0, "versions": {"torch": "2", "x": ["a", "b"]}},
        "figures": {"metric_heatmap": picture()},
    }  # fmt: skip
    return report_html(**{**options, **changes})


def test_report_is_well_formed_and_accessible():
    html = report()
    page = Page(html)
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert all(attrs.get("alt") and attrs.get("width") for attrs in page.all("img"))
    assert {attrs["href"][1:] for attrs in page.all("a")} <= set(ids)
    assert page.all("html")[0]["lang"] == "en"
    assert all(attrs["aria-labelledby"] in ids for _, attrs in page.elements if "aria-labelledby" in attrs)
    assert page.texts["title"] == "Toy <report> & more"
    for text in ("no rule for <b>GELU</b>", "empty rationale", "versions.torch", "a, b", "aopc_suff\u00a0↓"):
        assert text in page.texts["main"], text
    radios = [attrs for attrs in page.all("button") if attrs.get("role") == "radio"]
    assert [r["aria-checked"] for r in radios] == ["true", "false", "false", "true", "false"]


def test_report_needs_no_network():
    html = report()
    page = Page(html)
    for _, attrs in page.elements:
        for name, value in attrs.items():
            assert not (name in ("src", "href") and re.match(r"(https?:)?//", value or "")), attrs
    assert "url(" not in html and "@import" not in html and "fetch(" not in html
    policy = next(attrs["content"] for attrs in page.all("meta") if attrs.get("http-equiv"))
    assert "default-src 'none'" in policy
    script = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    assert len(script) == 1
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert f"'sha256-{digest}'" in policy  # else browsers would not run it


def test_report_escapes_hostile_text():
    html = report()
    page = Page(html)
    assert [attrs.get("type") for attrs in page.all("script")] == ["application/json", None]
    assert "onerror" not in {name for _, attrs in page.elements for name in attrs}
    assert len(page.all("img")) == 1
    assert not set(html) & {"\x00", "\u202e"}
    chips = page.texts["i"]
    for text in (HOSTILE[0], HOSTILE[1], "<U+0000>", "<U+202E>evil", "⏎", "⇥", "␣", "∅", "שלום", "{{ 7*7 }}"):
        assert text in chips, text
    html.encode("utf-8")


def test_report_carries_the_scores():
    items = [causal(PROMPT, ANSWER)]
    html = report(attributions={"saliency": items}, rationales=None)
    data = json.loads(re.search(r'id="data">(.*?)</script>', html, flags=re.DOTALL)[1])
    card = data[0]["cards"][0]
    values = np.frombuffer(base64.b64decode(card["scores"]), dtype=np.int8).reshape(3, card["inputs"]).astype(float)
    limits = np.array(card["limits"])[:, None]
    expected = items[0].scores[:, : card["inputs"]].numpy()
    assert ((values == -128) == np.isnan(expected)).all()
    seen = ~np.isnan(expected)
    error = np.abs(values * limits / 127 - expected)[seen] / np.broadcast_to(limits, seen.shape)[seen]
    assert error.max() < 0.5 / 127 + 1e-3


def test_report_stays_small():
    assert len(report().encode()) < 300_000
    long = [f"token{i}" for i in range(350)]
    items = {f"method_{i}": [causal(long, long[:60], seed=i)] * 5 for i in range(12)}
    html = report(attributions=items, step_scores=pd.DataFrame())
    assert len(html.encode()) < 300_000
    assert "examples are shown" in html and "not shown" in html
    Page(html)


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


def test_the_package_is_light():
    code = (
        "import sys, attriflow.views; print([m for m in ('torch', 'matplotlib', 'rich', 'jinja2') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
