"""Settings of context attribution, checked before any model runs; names are those of Inseq's command."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from attriflow.errors import InputError, check_choice, check_keywords
from attriflow.registry import methods, step_functions

CURRENT, CONTEXT = "{current}", "{context}"
STRATEGIES = ("manual", "auto", "pre")
SCOPES = ("example", "dataset")


@dataclass(frozen=True, kw_only=True)
class ContextSettings:
    """How texts are put together, what counts as sensitive to context, and how cues are found.

    Attributes:
        input_template: Model input, with `{current}` and possibly `{context}`; by default "{context} {current}" where
            there is an input context, else "{current}".
        output_template: The same for the output; `{context}` must come first.
        contextless_input_current_text, contextless_output_current_text: What stands in for input and output without
            context, with `{current}` in it.
        attribution_method: Any registered method.
        attributed_fn: What is explained at a sensitive token; with a contrastive function, against the token that
            the model would write without context.
        attributed_fn_args, attribution_kwargs: Options of both; those of the function may stand among the others.
        context_sensitivity_metric: Any step function, the contrastive ones among them: `kl_divergence`, `pcxmi`, ...
        context_sensitivity_metric_args: Its options.
        context_sensitivity_std_threshold: A token is sensitive where the magnitude of its score is at least the mean of
            the magnitudes plus so many standard deviations; None: all tokens.
        context_sensitivity_topk: At most so many tokens, those with the largest magnitudes.
        context_sensitivity_scope: Mean and deviation over the tokens of an "example" or of the whole "dataset".
        attribution_std_threshold, attribution_topk: The same for the cues of a sensitive token among its context.
        handle_output_context_strategy: Where the output context is generated with the output: "auto" tells them apart
            by the template's separator, punctuation, or cross-attention; "manual" asks the user to confirm; "pre" wants
            the output context to be given.
        contextless_output_next_tokens: The tokens to compare with, one per sensitive token from the most sensitive
            down, in place of what the model would write.
        prompt_user_for_contextless_output_next_tokens: Ask for each of them.
        special_tokens_to_keep: Special tokens that belong to the text (a separator such as "<brk>"); others are dropped
            from generated outputs and never count as sensitive.
        decoder_input_output_separator: Between input and output of decoder-only models.
        generation_kwargs: Arguments of `model.generate`, where no output is given.
        aggregators, aggregator_options: How attributions become scores per token (see `AttributionOutput.aggregate`);
            they are not normalised without `{"normalize": True}`.
    """

    input_template: str | None = None
    output_template: str | None = None
    contextless_input_current_text: str = CURRENT
    contextless_output_current_text: str = CURRENT
    attribution_method: str = "saliency"
    attributed_fn: str | Any = "probability"
    attributed_fn_args: Mapping[str, Any] = field(default_factory=dict)
    attribution_kwargs: Mapping[str, Any] = field(default_factory=dict)
    context_sensitivity_metric: str = "kl_divergence"
    context_sensitivity_metric_args: Mapping[str, Any] = field(default_factory=dict)
    context_sensitivity_std_threshold: float | None = 1.0
    context_sensitivity_topk: int | None = None
    context_sensitivity_scope: Literal["example", "dataset"] = "example"
    attribution_std_threshold: float | None = 1.0
    attribution_topk: int | None = None
    handle_output_context_strategy: Literal["manual", "auto", "pre"] = "auto"
    contextless_output_next_tokens: Sequence[str] = ()
    prompt_user_for_contextless_output_next_tokens: bool = False
    special_tokens_to_keep: Sequence[str] = ()
    decoder_input_output_separator: str = " "
    generation_kwargs: Mapping[str, Any] = field(default_factory=dict)
    aggregators: Any = "scores"
    aggregator_options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> ContextSettings:
        """Checked settings from keywords."""
        check_keywords("attribute_context", given, [f.name for f in dataclasses.fields(cls)])
        return cls(**given)

    def __post_init__(self) -> None:
        """Check names, options and templates."""
        self._sort_options()
        methods.build(self.attribution_method, **self.attribution_kwargs)
        step_functions.build(self.context_sensitivity_metric, **self.context_sensitivity_metric_args)
        if isinstance(self.attributed_fn, str):
            step_functions.build(self.attributed_fn, **self.attributed_fn_args)
        check_choice("handle_output_context_strategy", self.handle_output_context_strategy, STRATEGIES)
        check_choice("context_sensitivity_scope", self.context_sensitivity_scope, SCOPES)
        for name in ("context_sensitivity_topk", "attribution_topk"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise InputError(f"{name} must be a positive integer or None, not {value!r}")
        for name in ("input_template", "output_template"):
            template = getattr(self, name)
            if template is not None:
                check_template(name, template)
        for name in ("contextless_input_current_text", "contextless_output_current_text"):
            if CURRENT not in getattr(self, name):
                raise InputError(f"{name} must have the placeholder {CURRENT} in it, not {getattr(self, name)!r}")
        output = self.output_template or ""
        if CONTEXT in output and output.index(CONTEXT) > output.index(CURRENT):
            raise InputError(f"in output_template {CONTEXT} must come before {CURRENT}: {output!r}")
        if self.contextless_output_next_tokens and self.prompt_user_for_contextless_output_next_tokens:
            raise InputError("give contextless_output_next_tokens or have the user asked for them, not both")

    def _sort_options(self) -> None:
        """Options of the attributed function that stand among those of the method go to the function."""
        if not isinstance(self.attributed_fn, str):
            return
        own = methods.info(self.attribution_method).options
        taken = step_functions.info(self.attributed_fn).options
        moved = {k: v for k, v in self.attribution_kwargs.items() if k in taken and k not in own}
        if moved:
            rest = {k: v for k, v in self.attribution_kwargs.items() if k not in moved}
            object.__setattr__(self, "attribution_kwargs", rest)
            object.__setattr__(self, "attributed_fn_args", {**moved, **self.attributed_fn_args})

    def input_of(self, has_context: bool) -> str:
        """The input template of an example."""
        return self._template("input_template", has_context)

    def output_of(self, has_context: bool) -> str:
        """The output template of an example."""
        return self._template("output_template", has_context)

    def _template(self, name: str, has_context: bool) -> str:
        template: str | None = getattr(self, name)
        if template is None:
            return f"{CONTEXT} {CURRENT}" if has_context else CURRENT
        if has_context and CONTEXT not in template:
            side = name.removesuffix("_template")
            raise InputError(f"{side}_context_text is given, but {name} {template!r} has no place {CONTEXT} for it")
        return template


def check_template(name: str, template: str) -> None:
    """Raise `InputError` for a template without `{current}` or with a placeholder twice."""
    if template.count(CURRENT) != 1 or template.count(CONTEXT) > 1:
        raise InputError(f"{name} must have {CURRENT} once and {CONTEXT} at most once in it, not {template!r}")


def fill(template: str, current: str, context: str | None = None) -> tuple[str, dict[str, tuple[int, int]]]:
    """A filled template, and the character spans of "current" and "context" in it; other braces are left alone."""
    text, spans = "", dict[str, tuple[int, int]]()
    rest = template
    while rest:
        places = {name: rest.find(f"{{{name}}}") for name in ("current", "context")}
        found = [name for name, place in places.items() if place >= 0]
        if not found:
            return text + rest, spans
        name = min(found, key=lambda n: places[n])
        text += rest[: places[name]]
        value = current if name == "current" else context or ""
        spans[name] = (len(text), len(text) + len(value))
        text += value
        rest = rest[places[name] + len(name) + 2 :]
    return text, spans


@dataclass(frozen=True, kw_only=True)
class ContextTexts:
    """One text to be explained; see `attribute_context`."""

    input_current: str
    input_context: str | None = None
    output_current: str | None = None
    output_context: str | None = None
    contextless_input: str = CURRENT
    contextless_output: str = CURRENT
