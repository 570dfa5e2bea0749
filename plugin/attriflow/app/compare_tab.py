"""Tab: methods on one text side by side, and how far they agree."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

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
from attriflow.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


TOP = 3
_HEADS = ["Method", "and", "Rank correlation", f"Same top {TOP}"]
_EMPTY = '<p class="hint">Choose two methods or more.</p>'


def add(models: Models, model: gr.Dropdown, example: Mapping[str, str]) -> Fields:
    """Build the tab; returns its fields."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=320, elem_classes="form"):
            chosen = ["occlusion", "integrated_gradients", "saliency", "attention"]
            fields, button, stop = text_form(model, example, chosen, "Compare")
        with gr.Column(scale=3, min_width=320):
            result = gr.HTML(_EMPTY, elem_id="compared", padding=False)
            with gr.Column(visible=False) as numbers:
                plot = gr.Image(
                    label="Mean over the generated tokens", show_label=False, interactive=False, buttons=["fullscreen"],
                    elem_id="comparison",
                )  # fmt: skip
                table = gr.HTML(elem_id="agreement", padding=False)
                gr.Markdown(
                    f"Means over the generated tokens, of magnitudes: Spearman's rank correlation (1: the same "
                    f"order), and the share of the {TOP} strongest tokens that both have.",
                    elem_classes="hint",
                )
            with gr.Row(elem_classes="downloads"):
                page = download("Save the page")

    def run(values: Mapping[str, Any], progress: gr.Progress) -> tuple[Any, ...]:
        from attriflow.statistics.agreement import agreement
        from attriflow.views import plots
        from attriflow.views.comparisons import compare
        from attriflow.views.html import to_html

        request = read(values)
        if len(request.methods) < 2:
            raise InputError("choose two methods or more to compare")
        found = explain(models, request, tracker(progress, "methods"))
        warn(found.problems)
        if len(found.attributions) < 2:
            raise InputError("one method is left, which there is nothing to compare with")
        folder = fresh_folder()
        html = to_html(found.attributions, folder / "comparison.html")
        plots.comparison(found.attributions, path=folder / "comparison.png")
        pairs = agreement(compare(found.attributions)[0].attributions, TOP)
        return (
            page_frame(html, "Methods side by side"),
            _table(pairs),
            str(folder / "comparison.png"),
            gr.update(visible=True),
            ready(folder / "comparison.html"),
        )

    event = button.click(
        fields.call(models.jobs, run), fields.inputs, [result, table, plot, numbers, page],
        show_progress_on=result, **ONE_AT_A_TIME, **PRIVATE,
    )  # fmt: skip
    stops(stop, models.jobs, event)
    return fields


def _table(pairs: pd.DataFrame) -> str:
    from attriflow.views.common import number

    rows = [
        (escape(str(row.first)), escape(str(row.second)), number(row.spearman), number(row.top_k_overlap))
        for row in pairs.itertuples()
    ]
    head = "".join(f'<th scope="col">{name}</th>' for name in _HEADS)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
