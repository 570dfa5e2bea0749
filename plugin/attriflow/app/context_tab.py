"""Tab: which generated tokens depend on context, and on what in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from attriflow.app.explaining import ContextRequest, explain_context
from attriflow.app.models import Models
from attriflow.app.widgets import (
    ONE_AT_A_TIME,
    PRIVATE,
    Fields,
    action,
    download,
    fresh_folder,
    generation_fields,
    names,
    options_field,
    options_help,
    page_frame,
    ready,
    stops,
    text,
)
from attriflow.registry import methods, step_functions

_EMPTY = '<p class="hint">Tokens that depend on the context, and what in it they depend on, will be marked.</p>'


def add(models: Models, model: gr.Dropdown, example: Mapping[str, str]) -> Fields:
    """Build the tab; returns its fields."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=320, elem_classes="form"):
            fields, button, stop = _form(model, example)
        with gr.Column(scale=3, min_width=320):
            result = gr.HTML(_EMPTY, elem_id="context", padding=False)
            with gr.Row(elem_classes="downloads"):
                page, data = download("Save the page"), download("Save the scores")

    def run(values: Mapping[str, Any], progress: gr.Progress) -> tuple[Any, ...]:
        found = explain_context(models, ContextRequest(**values))
        folder = fresh_folder()
        html = found.to_html(folder / "context.html")
        saved = found.save(folder / "context.json")
        return page_frame(html, "Context reliance"), ready(folder / "context.html"), ready(saved)

    event = button.click(
        fields.call(models.jobs, run), fields.inputs, [result, page, data],
        show_progress_on=result, **ONE_AT_A_TIME, **PRIVATE,
    )  # fmt: skip
    stops(stop, models.jobs, event)
    return fields


def _form(model: gr.Dropdown, example: Mapping[str, str]) -> tuple[Fields, gr.Button, gr.Button]:
    """Widgets, named as the fields of `ContextRequest`, and the buttons that begin and stop."""

    def example_text(name: str, label: str, lines: int = 1, **settings: Any) -> None:
        fields[name] = text(label, example.get(name, ""), lines, **settings)

    fields = Fields(model=model)
    example_text("input_context_text", "Context of the input", lines=2)
    example_text("input_current_text", "Input", lines=2)
    fields["attribution_method"] = names(methods, "Method", "occlusion")
    fields["attributed_fn"] = names(step_functions, "Step function to explain", "contrast_prob_diff")
    fields["context_sensitivity_metric"] = names(
        step_functions, "Step function that finds sensitive tokens", "kl_divergence"
    )
    buttons = action("Find what depends on context")
    with gr.Accordion("Output and templates", open=False):
        example_text("output_context_text", "Context of the output", placeholder="a prefix of the output")
        example_text("output_current_text", "Output", placeholder="empty: the model generates")
        example_text("input_template", "Input template", placeholder="{context} {current}")
        example_text("output_template", "Output template", placeholder="{context} {current}")
        example_text("contextless_input_current_text", "Input without context", placeholder="{current}")
        example_text("contextless_output_current_text", "Output without context", placeholder="{current}")
    with gr.Accordion("Thresholds", open=False), gr.Row():
        fields["context_sensitivity_std_threshold"] = _deviations("Sensitive from (deviations)")
        fields["context_sensitivity_topk"] = _most("Most sensitive tokens")
        fields["attribution_std_threshold"] = _deviations("Cues from (deviations)")
        fields["attribution_topk"] = _most("Most cues per token")
    with gr.Accordion("Generation and options", open=False):
        fields |= generation_fields()
        fields["options"] = options_field()
    options_help(
        (methods, fields["attribution_method"]),
        (step_functions, fields["attributed_fn"]),
        (step_functions, fields["context_sensitivity_metric"]),
    )
    return fields, *buttons


def _deviations(label: str) -> gr.Number:
    return gr.Number(1.0, label=label, step=0.1, min_width=130)


def _most(label: str) -> gr.Number:
    return gr.Number(None, label=label, precision=0, minimum=0, placeholder="all", min_width=130)
