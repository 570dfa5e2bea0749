"""Texts that the app opens with: something to see for the models that come with attriflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

FIELDS = (
    "text",
    "input_context_text",
    "input_current_text",
    "output_context_text",
    "contextless_input_current_text",
    "contextless_output_current_text",
)
# "<unk>" is "no information" to demo/translate, which has never seen half a sentence.
_EXAMPLES: Mapping[str, Mapping[str, str]] = {
    "demo/recall": {
        "text": "paul has a blue book . peter has a green bike . what color is the book ?",
        "input_context_text": "anna has a red hat .",
        "input_current_text": "tom has a blue car . what color is the hat ?",
    },
    "demo/translate": {
        "text": "the house of the old man is red",
        "input_context_text": "the house",
        "input_current_text": "of the old man is red",
        "output_context_text": "la casa",
        "contextless_input_current_text": "<unk> <unk> {current}",
        "contextless_output_current_text": "<unk> <unk> {current}",
    },
}


def example(model: str | None) -> Mapping[str, str]:
    """Field -> text for a model; empty texts for models without an example."""
    return {**dict.fromkeys(FIELDS, ""), **_EXAMPLES.get((model or "").strip(), {})}


def renewed(model: str | None, fields: Sequence[str], texts: Sequence[str]) -> list[str]:
    """The texts for another model: its example, except where somebody has written something else."""
    known = {field: {"", *(e.get(field, "") for e in _EXAMPLES.values())} for field in FIELDS}
    wanted = example(model)
    return [wanted[f] if text.strip() in known[f] else text for f, text in zip(fields, texts, strict=True)]
