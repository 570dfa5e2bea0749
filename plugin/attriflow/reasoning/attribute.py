"""Where an answer comes from, through the reasoning that was written before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from attriflow.errors import InputError, check_choice
from attriflow.model import AttributionModel
from attriflow.output import AttributionOutput
from attriflow.reasoning.parts import Reasoning, reasoning_spans
from attriflow.registry import methods
from attriflow.texts.segments import Inputs


def attribute_reasoning(
    model: AttributionModel,
    input_texts: Inputs,
    generated_texts: str | Sequence[str] | None = None,
    *,
    method: str | None = None,
    reasoning: Reasoning = "think",
    unit: Literal["sentence", "token"] = "sentence",
    hops: int = 1,
    sign: Literal["absolute", "positive", "signed"] = "absolute",
    generation_args: dict[str, Any] | None = None,
    seed: int = 0,
    **options: Any,
) -> AttributionOutput:
    """Explain the answer of a text that reasons first, and pass the credit of the reasoning on to what it rests on.

    Every part of the reasoning and the answer is explained as one span (`target_spans`), and their scores are combined
    by the aggregator "hops", which says how.

    Args:
        model: The model.
        input_texts, generated_texts, generation_args, seed: See `AttributionModel.attribute`.
        method: Attribution method; the one given to `load_model` when None.
        reasoning: What of the generated text is reasoning (see `Reasoning`); the answer is what follows it.
        unit: The parts of the reasoning: its sentences, or its tokens.
        hops: How often credit is passed on; 0 shows where the answer looks itself.
        sign: How signs of scores are treated (see the aggregator).
        **options: Of `AttributionModel.attribute_examples` and of the method.

    Returns:
        One attribution per text, with the steps "direct", "hop 1", ..., "all hops". `target_attributions` of
        encoder-decoders are always included, since that is where the reasoning stands.

    Raises:
        InputError: A text without such a reasoning or without anything behind it.

    Complexity: one explanation of as many spans as the reasoning has parts, and one more.
    """
    name = method or model.method
    if name is None:
        raise InputError(f"no attribution method: pass method= ({', '.join(methods.names())})")
    check_choice("unit", unit, ("sentence", "token"))
    if isinstance(reasoning, str):
        check_choice("reasoning", reasoning, ("think", "sentence"))
    examples = model.encode(input_texts, generated_texts, generation_args=generation_args, seed=seed)
    spans = []
    for i, example in enumerate(examples):
        try:
            spans.append(replace(example, spans=reasoning_spans(example, reasoning, unit)))
        except InputError as error:
            raise type(error)(f"text {i}: {error}" if len(examples) > 1 else str(error)) from None
    options = {**(model.method_options if name == model.method else {}), **options}
    found = model.attribute_examples(
        spans, name, seed=seed, **{"attribute_target": model.is_encoder_decoder, **options}
    )
    return AttributionOutput(found).aggregate("hops", hops=hops, sign=sign)
