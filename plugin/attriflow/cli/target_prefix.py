"""Encoder-decoders whose generation begins with a given text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from attriflow.errors import InputError
from attriflow.model import AttributionModel
from attriflow.models.generation import beginning_with
from attriflow.output import AttributionOutput
from attriflow.texts.target_spans import TargetSpans, for_texts, with_spans
from attriflow.types import SpanValue


def attribute_from_prefix(
    model: AttributionModel,
    input_texts: Sequence[str],
    generated_texts: Sequence[str],
    *,
    method: str,
    generation_args: Mapping[str, Any] | None = None,
    seed: int = 0,
    attr_pos_start: int | None = None,
    attr_pos_end: int | None = None,
    target_spans: TargetSpans | None = None,
    span_value: SpanValue = "sum",
    **options: Any,
) -> AttributionOutput:
    """Let the model continue beginnings of targets, and explain beginnings and continuations.

    Texts are continued one at a time: their beginnings have different lengths.

    Args:
        model: An encoder-decoder.
        input_texts: Sources.
        generated_texts: Beginnings of the targets, one per source.
        method, seed, attr_pos_start, attr_pos_end, target_spans, span_value, **options: See
            `AttributionModel.attribute` and `attribute_examples`.
        generation_args: Arguments of `generate`.
    """
    if not model.is_encoder_decoder:
        raise InputError("only encoder-decoders have a target prefix; here, append it to the input text")
    if len(input_texts) != len(generated_texts):
        raise InputError(f"{len(input_texts)} input texts but {len(generated_texts)} generated texts")
    examples = []
    for text, prefix in zip(input_texts, generated_texts, strict=True):
        given = {**(generation_args or {}), **beginning_with(model.wrapped, prefix)}
        examples += model.encode(
            text, generation_args=given, seed=seed, attr_pos_start=attr_pos_start, attr_pos_end=attr_pos_end
        )
    if target_spans is not None:
        each = for_texts(target_spans, len(examples))
        examples = [with_spans(e, wanted, span_value) for e, wanted in zip(examples, each, strict=True)]
    found = model.attribute_examples(examples, method, seed=seed, **options)
    return AttributionOutput(a.replace(provenance=dataclasses.replace(a.provenance, generated=True)) for a in found)
