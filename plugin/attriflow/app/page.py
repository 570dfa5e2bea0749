"""The page: model, tabs, looks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from attriflow.app import attribute_tab, compare_tab, context_tab, runs_tab
from attriflow.app.examples import FIELDS, example, renewed
from attriflow.app.models import DEMO, Models, describe
from attriflow.app.widgets import ONE_AT_A_TIME, PRIVATE, told

if TYPE_CHECKING:
    from attriflow.tracking.stored import EvaluationStore, StoredEvaluation

_HERE = Path(__file__).parent
CSS = (_HERE / "app.css").read_text(encoding="utf-8")
HEAD = f"<script>{(_HERE / 'frames.js').read_text(encoding='utf-8')}</script>"


def theme() -> gr.themes.Base:
    """Fonts of the system (nothing is loaded from elsewhere), the blue of the other pages."""
    return gr.themes.Base(
        primary_hue="blue",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(body_background_fill_dark="#14171c", background_fill_primary_dark="#14171c")  # as the pages in frames


def build(
    models: Models,
    first: str,
    *,
    store: EvaluationStore | None = None,
    uri: str = "",
    evaluation: StoredEvaluation | None = None,
) -> gr.Blocks:
    """The app.

    Args:
        models: Loads what is chosen.
        first: Model to begin with.
        store: Tracking store to begin with, None where there is none.
        uri: What its field says.
        evaluation: A tracked run to open.
    """
    texts = example(first)
    with gr.Blocks(title="attriflow", analytics_enabled=False) as blocks:
        gr.HTML(
            "<h1>attriflow <small>why a generation model wrote what it wrote</small></h1>",
            elem_id="head",
            padding=False,
        )
        with gr.Row(equal_height=True, elem_id="model"):
            model = gr.Dropdown(
                list(dict.fromkeys((first, *DEMO))), value=first, allow_custom_value=True, label="Model", scale=1,
                info="or a folder, a Hugging Face name, an MLflow model URI", min_width=300,
            )  # fmt: skip
            facts = gr.Markdown(describe(models.get(first)), elem_id="facts")
        tabs = (("explain", "Explain"), ("compare", "Compare"), ("context", "Context"), ("runs", "Runs"))
        with gr.Tabs(selected="explain" if evaluation is None else "runs"):
            forms = []
            for (name, label), tab in zip(tabs, (attribute_tab, compare_tab, context_tab), strict=False):
                with gr.Tab(label, id=name):
                    forms.append(tab.add(models, model, texts))
            with gr.Tab("Runs", id="runs"):
                runs_tab.add(blocks, store, uri, evaluation)

        filled = [(name, form[name]) for form in forms for name in FIELDS if name in form]

        def choose(wanted: str, *given: str) -> list[Any]:
            facts = describe(models.get(wanted))
            return [facts, *renewed(wanted, [name for name, _ in filled], given)]

        widgets: list[Any] = [widget for _, widget in filled]
        model.change(
            told(choose), [model, *widgets], [facts, *widgets], show_progress_on=facts, **ONE_AT_A_TIME, **PRIVATE
        )
    return blocks
