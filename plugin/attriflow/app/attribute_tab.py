"""Tab: a text explained live."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from attriflow.app.explaining import explain
from attriflow.app.models import Models
from attriflow.app.text_form import read, text_form
from attriflow.app.widgets import (
    ONE_AT_A_TIME,
    PRIVATE,
    Fields,
    download,
    fresh_folder,
    page_frame,
    ready,
    stops,
    tracker,
    warn,
)

_EMPTY = '<p class="hint">Point at a generated token of the result, and its evidence lights up.</p>'


def add(models: Models, model: gr.Dropdown, example: Mapping[str, str]) -> Fields:
    """Build the tab; returns its fields."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=320, elem_classes="form"):
            fields, button, stop = text_form(model, example, ["occlusion"], "Explain")
        with gr.Column(scale=3, min_width=320):
            result = gr.HTML(_EMPTY, elem_id="explained", padding=False)
            with gr.Row(elem_classes="downloads"):
                page, scores = download("Save the page"), download("Save the scores")

    def run(values: Mapping[str, Any], progress: gr.Progress) -> tuple[Any, ...]:
        from attriflow.output import AttributionOutput
        from attriflow.views.html import to_html

        found = explain(models, read(values), tracker(progress, "methods"))
        warn(found.problems)
        folder = fresh_folder()
        html = to_html(found.attributions, folder / "attributions.html")
        saved = AttributionOutput(found.attributions).save(folder / "attributions.safetensors")
        return page_frame(html, "Attributions"), ready(folder / "attributions.html"), ready(saved)

    event = gr.on(
        [button.click, fields["text"].submit],
        fields.call(models.jobs, run), fields.inputs, [result, page, scores],
        show_progress_on=result, **ONE_AT_A_TIME, **PRIVATE,
    )  # fmt: skip
    stops(stop, models.jobs, event)
    return fields
