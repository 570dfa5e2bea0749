"""The page of context reliance in a real browser, and the same in the terminal."""

from __future__ import annotations

import io

import pytest
from browser_support import in_browser, nameless, overflow, poor_contrasts
from rich.console import Console

from attriflow.context import ContextAttribution, ContextCues, ContextOutput
from attriflow.views.context import show


def example(**changes):
    fields = {
        "input_current": "of the <old> man is red",
        "output_current": "è rossa",
        "output_current_tokens": ["è", "rossa", "<b>&"],
        "cti_scores": [0.001, 3.74, -2.0],
        "cti_threshold": 1.9,
        "input_context": "the house",
        "input_context_tokens": ["the", "house"],
        "output_context": "la casa",
        "output_context_tokens": ["la", "casa"],
        "cci_scores": [
            ContextCues(
                cti_idx=1, cti_token="rossa", cti_score=3.74, contextual_output="la casa è rossa",
                contrast_token="rosso", contextless_output="è rosso", input_context_scores=[0.01, 0.46],
                output_context_scores=[0.0, -0.2], input_cues=[1], output_cues=[1],
            ),
            ContextCues(
                cti_idx=2, cti_token="<b>&", cti_score=-2.0, contextual_output="la casa è rossa <b>&",
                input_context_scores=[0.3, 0.0], output_context_scores=[0.0, 0.0], input_cues=[0],
            ),
        ],
    }  # fmt: skip
    return ContextAttribution(**{**fields, **changes})


class TestTerminal:
    def printed(self, *results, **options):
        stream = io.StringIO()
        show(results, console=Console(file=stream, width=100, **options))
        return stream.getvalue()

    def test_marks_without_colour(self):
        text = self.printed(example())
        assert "the [house](0.46)" in text
        assert "la [casa](-0.2)" in text
        assert "è *rossa*(3.74) <b>&" in text
        assert "Instead of:     rosso" in text
        assert "rossa *<b>&*(-2)" in text

    def test_colours_instead_of_marks(self):
        text = self.printed(example(), force_terminal=True)
        assert "[house]" not in text
        assert "\x1b[1;32mhouse(0.46)" in text

    def test_nothing_found(self):
        text = self.printed(example(cci_scores=[], cti_threshold=9.0))
        assert "No token of the output is sensitive" in text

    def test_the_same_token_is_explained(self):
        cues = example().cci_scores[0]
        same = ContextCues(**{**{f: getattr(cues, f) for f in cues.__dataclass_fields__}, "contrast_token": "rossa"})
        assert "rossa (the same, after the input without context)" in self.printed(example(cci_scores=[same]))


class TestPage:
    pytestmark = in_browser

    @pytest.fixture(scope="class")
    def page_of(self, tmp_path_factory):
        path = tmp_path_factory.mktemp("context") / "context.html"
        long = example(
            input_context=None, input_context_tokens=[f"word{i}" for i in range(300)] + ["x" * 200],
            cci_scores=[
                ContextCues(
                    cti_idx=0, cti_token="è", cti_score=1.0, contextual_output="è",
                    input_context_scores=[i / 300 for i in range(301)], output_context_scores=[0.0, 0.0],
                    input_cues=[299],
                )
            ],
        )  # fmt: skip
        ContextOutput([example(), example(cci_scores=[]), long]).to_html(path)
        return path

    @pytest.mark.parametrize("width", [1280, 390])
    def test_cues_light_up(self, visit, page_of, width):
        page = visit(page_of, width)
        first = page.locator("[data-case]").first
        cues = first.locator("[data-context] i.cue")
        assert cues.all_inner_texts() == ["house", "casa"]
        assert first.locator("i", has_text="house").get_attribute("class") == "p20 cue"
        assert first.locator("i", has_text="casa").get_attribute("class").startswith("n")
        first.locator("button[data-cues]").nth(1).click()
        assert cues.all_inner_texts() == ["the"]
        first.locator("button[data-cues]").nth(0).focus()
        assert cues.all_inner_texts() == ["house", "casa"]
        assert overflow(page) <= 0

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_readable(self, visit, page_of, scheme):
        page = visit(page_of, scheme=scheme)
        assert not poor_contrasts(page)
        assert not nameless(page)

    def test_texts_are_never_markup(self, visit, page_of):
        page = visit(page_of)
        assert page.locator("[data-case]").first.locator(".output button").nth(1).inner_text() == "<b>&"
        assert page.locator(".current b").count() == 0
