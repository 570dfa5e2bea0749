"""The form of the tabs that explain one text: what is asked, of which methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from attriflow.app.explaining import ANSWER, TOKENS, Request
from attriflow.app.widgets import Fields, action, generation_fields, names, options_field, options_help, text
from attriflow.registry import methods, step_functions
from attriflow.texts.target_spans import NAMES

_SPANS = "answer: after </think> or ####; or a pattern, such as \\d+, or JSON: ranges of positions, [[3, 9]]."


def text_form(
    model: gr.Dropdown, example: Mapping[str, str], chosen: Sequence[str], label: str
) -> tuple[Fields, gr.Button, gr.Button]:
    """The widgets, named as the fields of `Request`, and the buttons that begin and stop.

    Args:
        model: The choice of the model, which all tabs share.
        example: Texts to begin with.
        chosen: Methods to begin with.
        label: What the button says.
    """
    fields = Fields(model=model)
    fields["text"] = text("Text", example["text"], lines=3, placeholder="a text, or the messages of a chat as JSON")
    fields["methods"] = names(methods, "Methods", chosen)
    fields["attributed_fn"] = names(step_functions, "Step function to explain", "probability")
    fields["step_scores"] = names(step_functions, "Step scores", ["probability", "entropy"])
    buttons = action(label)
    with gr.Accordion("Target and contrast", open=False):
        fields["generated_text"] = text("Forced target", placeholder="empty: the model generates")
        fields["contrast_target"] = text("Contrast target", placeholder="what might have been generated instead")
        fields["contrast_source"] = text("Contrast source", placeholder="another text to read the same target after")
        fields["contrast_force_inputs"] = gr.Checkbox(
            False, label="Compare with the prediction after the contrastive input"
        )
    with gr.Accordion("Spans and reasoning", open=False):
        fields["spans"] = gr.Dropdown(
            [TOKENS, *NAMES], value=TOKENS, allow_custom_value=True, label="Explain as one step", info=_SPANS
        )
        fields["span_value"] = gr.Radio(["sum", "mean"], value="sum", label="A span's value, of those of its tokens")
        fields["reasoning"] = gr.Dropdown(
            [ANSWER, "think", "sentence"], value=ANSWER, allow_custom_value=True, label="Through the reasoning",
            info="think: up to </think>; sentence: all but the last; or a range of positions, [12, 40].",
        )  # fmt: skip
        fields["hops"] = gr.Number(1, label="Hops", precision=0, minimum=0)
    with gr.Accordion("Generation and options", open=False):
        fields |= generation_fields()
        fields["attribute_target"] = gr.Checkbox(False, label="Encoder-decoders: explain by the target prefix too")
        fields["options"] = options_field()
    options_help((methods, fields["methods"]), (step_functions, fields["attributed_fn"]))
    return fields, *buttons


def read(values: Mapping[str, Any]) -> Request:
    """The request behind the values of a form."""
    return Request(**values)
