"""`attribute-context`: which generated tokens depend on context, and on what in it (PECoRe)."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from attriflow.cli.attribute import generation_arguments, load, steps_of, write_page
from attriflow.cli.console import console, say
from attriflow.cli.options import ModelOptions, json_option, known, option, overwrite_option

if TYPE_CHECKING:
    from attriflow.output import AttributionOutput

_TEXTS, _TOKENS, _CUES, _SHOWN = "Texts", "Context-sensitive tokens", "Contextual cues", "Aggregation and output"
_PLACES = "{context} and {current}"


@dataclass(kw_only=True)
class ContextOptions(ModelOptions):
    """Options of `attribute-context`."""

    input_current_text: Annotated[str, option("Prompt, or source text.", panel=_TEXTS)]
    input_context_text: Annotated[str | None, option("Context of the input.", panel=_TEXTS)] = None
    input_template: Annotated[
        str | None, option(f"Model input with the places {_PLACES}.", panel=_TEXTS, show_default=False)
    ] = None
    output_context_text: Annotated[
        str | None, option("Context of the output: a prefix of it, such as the translated context.", panel=_TEXTS)
    ] = None
    output_current_text: Annotated[
        str | None, option("Output whose tokens are tested; generated when not given.", panel=_TEXTS)
    ] = None
    output_template: Annotated[
        str | None, option(f"Model output with the places {_PLACES}.", panel=_TEXTS, show_default=False)
    ] = None
    contextless_input_current_text: Annotated[
        str, option("What stands in for the input without context, with {current} in it.", panel=_TEXTS)
    ] = "{current}"
    contextless_output_current_text: Annotated[
        str, option("What stands in for the output without context, with {current} in it.", panel=_TEXTS)
    ] = "{current}"
    special_tokens_to_keep: Annotated[
        list[str] | None,
        option("Special tokens that belong to the texts, such as <brk>.", panel=_TEXTS, show_default=False),
    ] = None
    decoder_input_output_separator: Annotated[
        str, option("Between input and output of decoder-only models.", panel=_TEXTS)
    ] = " "
    handle_output_context_strategy: Annotated[
        Literal["manual", "auto", "pre"],
        option(
            "How a generated output context is told from the output: manual asks, auto looks at separator, punctuation "
            "and attention, pre wants it given.",
            panel=_TEXTS,
        ),
    ] = "manual"
    context_sensitivity_metric: Annotated[
        str,
        option(
            "Step function that finds sensitive tokens (see attriflow step-functions).",
            panel=_TOKENS,
            autocompletion=known("step_functions"),
        ),
    ] = "kl_divergence"
    context_sensitivity_metric_kwargs: Annotated[dict[str, Any] | None, json_option("Its options", panel=_TOKENS)] = (
        None
    )
    context_sensitivity_std_threshold: Annotated[
        float, option("Standard deviations above the mean from which on a token is sensitive.", panel=_TOKENS)
    ] = 1.0
    context_sensitivity_topk: Annotated[int | None, option("At most so many tokens.", min=1, panel=_TOKENS)] = None
    contextless_output_next_tokens: Annotated[
        list[str] | None,
        option(
            "Tokens to compare the sensitive ones with, one each, instead of what the model would write.",
            panel=_CUES,
            show_default=False,
        ),
    ] = None
    prompt_user_for_contextless_output_next_tokens: Annotated[
        bool, option("Ask for each of them.", "--prompt-user-for-contextless-output-next-tokens", panel=_CUES)
    ] = False
    attribution_std_threshold: Annotated[
        float, option("Standard deviations above the mean from which on a context token is a cue.", panel=_CUES)
    ] = 1.0
    attribution_topk: Annotated[int | None, option("At most so many cues.", min=1, panel=_CUES)] = None
    show_intermediate_outputs: Annotated[
        bool, option("Print the attributions behind the cues.", "--show-intermediate-outputs", panel=_SHOWN)
    ] = False
    save_path: Annotated[
        Path | None,
        option("JSON file to write.", "--save-path", "--output", "-o", metavar="FILE", panel=_SHOWN),
    ] = None
    add_output_info: Annotated[
        bool,
        option("Write the settings, too.", "--add-output-info/--no-add-output-info", panel=_SHOWN),
    ] = True
    viz_path: Annotated[Path | None, option("HTML page to write.", metavar="FILE", panel=_SHOWN)] = None
    overwrite: Annotated[bool, overwrite_option(_SHOWN)] = False
    show_viz: Annotated[bool, option("Print what was found.", "--show-viz/--no-show-viz", panel=_SHOWN)] = True


def attribute_context(options: ContextOptions) -> None:
    """Find the generated tokens that depend on context, and what in the context they depend on.

    The method is PECoRe (Sarti et al. 2024): tokens whose prediction changes with the context, then their attribution.
    """
    from attriflow.context.attribute import attribute_context as run
    from attriflow.context.prepare import check_texts
    from attriflow.context.settings import ContextSettings, ContextTexts
    from attriflow.io import check_outputs

    check_outputs((options.save_path, options.viz_path), options.overwrite)
    settings = _settings(options)
    texts = ContextTexts(
        input_current=options.input_current_text,
        input_context=options.input_context_text,
        output_current=options.output_current_text,
        output_context=options.output_context_text,
        contextless_input=options.contextless_input_current_text,
        contextless_output=options.contextless_output_current_text,
    )
    check_texts(texts, ContextSettings.of(settings))  # every mistake before a model is loaded
    model = load(options)
    out = run(
        model,
        texts.input_current,
        texts.input_context,
        output_current_text=texts.output_current,
        output_context_text=texts.output_context,
        contextless_input_current_text=texts.contextless_input,
        contextless_output_current_text=texts.contextless_output,
        seed=options.seed,
        ask=_ask if sys.stdin.isatty() else None,
        show=_show if options.show_intermediate_outputs else None,
        **{**settings, "generation_kwargs": generation_arguments(model, options)},
    )
    if options.show_viz:
        out.show(console=console())
    if options.save_path is not None:
        out.save(options.save_path, overwrite=options.overwrite, info=options.add_output_info)
        say(f"wrote {options.save_path}")
    write_page(out, options.viz_path, options.overwrite)


def _settings(options: ContextOptions) -> dict[str, Any]:
    """Keywords of `ContextSettings`."""
    asked = steps_of(options, options.attribution_aggregators or ["scores"])
    same = (
        "input_template",
        "output_template",
        "attribution_method",
        "attributed_fn",
        "context_sensitivity_metric",
        "context_sensitivity_std_threshold",
        "context_sensitivity_topk",
        "attribution_std_threshold",
        "attribution_topk",
        "handle_output_context_strategy",
        "prompt_user_for_contextless_output_next_tokens",
        "decoder_input_output_separator",
    )
    return {
        **{name: getattr(options, name) for name in same},
        "attribution_kwargs": options.given_to_method(),
        "context_sensitivity_metric_args": options.context_sensitivity_metric_kwargs or {},
        "contextless_output_next_tokens": options.contextless_output_next_tokens or (),
        "special_tokens_to_keep": options.special_tokens_to_keep or (),
        "generation_kwargs": options.generation_kwargs or {},
        "aggregators": asked["aggregator"],
        "aggregator_options": asked["options"],
    }


def _ask(question: str, proposed: str | None) -> str:
    from rich.prompt import Prompt

    return Prompt.ask(question, default=proposed, console=console()) or ""


def _show(attributions: AttributionOutput) -> None:
    attributions.show(console=console(), view="console")
