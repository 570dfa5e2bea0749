"""What was asked for in the app, checked; no widgets here, so that it can be tested and read without them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, cast, get_args

from attriflow.errors import AttriflowError, InputError, check_choice, check_keywords
from attriflow.kernels.annotations import check_value, hints_of
from attriflow.registry import methods as method_registry
from attriflow.registry import step_functions
from attriflow.texts.chats import of_cell
from attriflow.texts.target_spans import NAMES, as_json

if TYPE_CHECKING:
    from attriflow.app.models import Models
    from attriflow.context import ContextOutput
    from attriflow.model import AttributionModel
    from attriflow.reasoning.parts import Reasoning
    from attriflow.types import Attribution

TOKENS, ANSWER = "every token", "the answer alone"
"""What the fields of spans and of reasoning say where they ask for nothing."""
_logger = logging.getLogger(__name__)
Track = Callable[[Iterable[str]], Iterable[str]]


@dataclass(frozen=True, kw_only=True)
class _Checked:
    """Fields of a form: what the page sends has their types, what others send may not."""

    def __post_init__(self) -> None:
        hints = hints_of(type(self))
        for name in (f.name for f in fields(self)):
            value, kinds = getattr(self, name), (hints[name], *get_args(hints[name]))
            if isinstance(value, float) and not value.is_integer() and float not in kinds:
                raise InputError(f"{name} must be a positive whole number, not {value:g}")
            check_value(name.replace("_", " "), value, hints[name])


@dataclass(frozen=True, kw_only=True)
class Request(_Checked):
    """A text to be explained by one or several methods; empty texts count as not given.

    Attributes:
        model: Name, path or URI.
        text: Prompt or source; or a chat, as the JSON of its messages.
        methods: Names of attribution methods.
        attributed_fn: Name of the step function that is explained.
        step_scores: Names of those that are recorded.
        generated_text: Forced target; for decoder-only models a continuation, or the whole text.
        contrast_target: Target that it is compared with; likewise.
        contrast_source: Other source or prompt to compare with.
        contrast_force_inputs, attribute_target, seed: As in `AttributionModel.attribute`.
        spans: What is explained as one step: "" or `TOKENS` (every token is one), a name or JSON as `target_spans`
            takes it, or a pattern.
        span_value: As in `AttributionModel.attribute`.
        reasoning, hops: As in `attribute_reasoning`; "" or `ANSWER` where there is nothing to pass on.
        max_new_tokens: Longest generated text.
        options: JSON object: options of the methods and step functions by name (each goes to all that take it), or
            `{method: {option: value}}`.
    """

    model: str | None
    text: str
    methods: Sequence[str]
    attributed_fn: str = "probability"
    step_scores: Sequence[str] = ()
    generated_text: str = ""
    contrast_target: str = ""
    contrast_source: str = ""
    contrast_force_inputs: bool = False
    attribute_target: bool = False
    spans: str = ""
    span_value: str = "sum"
    reasoning: str = ""
    hops: int = 1
    max_new_tokens: int = 20
    seed: int = 0
    options: str = ""


@dataclass(frozen=True, kw_only=True)
class ContextRequest(_Checked):
    """A text whose reliance on context is wanted; fields as in `attriflow.context.ContextSettings`."""

    model: str | None
    input_context_text: str
    input_current_text: str
    output_context_text: str = ""
    output_current_text: str = ""
    contextless_input_current_text: str = ""
    contextless_output_current_text: str = ""
    input_template: str = ""
    output_template: str = ""
    context_sensitivity_metric: str = "kl_divergence"
    attribution_method: str = "saliency"
    attributed_fn: str = "contrast_prob_diff"
    context_sensitivity_std_threshold: float | None = 1.0
    context_sensitivity_topk: int | None = None
    attribution_std_threshold: float | None = 1.0
    attribution_topk: int | None = None
    max_new_tokens: int = 20
    seed: int = 0
    options: str = ""


@dataclass(frozen=True)
class Explained:
    """Attributions of one text, and why some methods have none."""

    attributions: Sequence[Attribution]
    problems: Mapping[str, str] = field(default_factory=dict)


def explain(models: Models, request: Request, track: Track = iter) -> Explained:
    """Explain a text with every method; those that fail do not take the others' results with them.

    Args:
        models: Where the model is.
        request: What is wanted.
        track: Shows how far it is.

    Raises:
        AttriflowError: A wrong setting, before the model is loaded; or no method succeeded.
    """
    from attriflow.engine.job import check_contrast, check_gradient

    if not request.text.strip():
        raise InputError("there is no text to explain")
    given = of_cell("the text", request.text)
    spans, reasoning = spans_of(request), _reasoning_of(request)
    if spans and reasoning is not None:
        raise InputError("the spans of a reasoning are found by themselves: choose spans or reasoning")
    if not request.methods:
        raise InputError("choose at least one method")
    functions = [request.attributed_fn, *request.step_scores]
    options = _options(request, functions)
    check_contrast(functions, bool(request.contrast_target or request.contrast_source))
    for name in request.methods if len(request.methods) == 1 else ():
        check_gradient(method_registry.info(name), request.attributed_fn)
    model = models.get(request.model)
    texts = {
        "generated_texts": request.generated_text,
        "contrast_targets": request.contrast_target,
        "contrast_sources": request.contrast_source,
    }
    keywords: dict[str, Any] = {name: text for name, text in texts.items() if text.strip()}
    if not model.is_encoder_decoder and isinstance(given, str):
        whole = {name: _continued(request.text, keywords[name]) for name in list(texts)[:2] if name in keywords}
        keywords.update(whole)
    if "generated_texts" not in keywords:
        keywords["generation_args"] = {"max_new_tokens": int(request.max_new_tokens)}
    found, problems = list["Attribution"](), dict[str, str]()
    for name in track(request.methods):
        try:
            if reasoning is not None:
                found.extend(_reasoned(model, given, request, reasoning, name, keywords, options[name]))
                continue
            out = model.attribute(
                given,
                method=name,
                attributed_fn=request.attributed_fn,
                step_scores=list(request.step_scores),
                attribute_target=request.attribute_target and model.is_encoder_decoder,
                contrast_force_inputs=request.contrast_force_inputs,
                seed=int(request.seed),
                show_progress=False,
                **spans,
                **keywords,
                **options[name],
            )
        except Exception as error:  # of one method among several; told to the user
            problems[name] = message_of(error)
        else:
            found.extend(out)
    if not found:
        raise InputError("; ".join(dict.fromkeys(problems.values())))
    return Explained(found, problems)


def spans_of(request: Request) -> dict[str, Any]:
    """Which spans of the target are asked for, as `attribute` takes them: a name, JSON or else a pattern."""
    asked = request.spans.strip()
    if asked in ("", TOKENS):
        return {}
    found: Any = asked if asked in NAMES else _json("spans", asked) if asked[:1] in ("[", "{") else {"pattern": asked}
    return {"target_spans": as_json(found), "span_value": request.span_value}


def _reasoning_of(request: Request) -> Reasoning | None:
    """Which reasoning is meant, as `attribute_reasoning` takes it; None for none."""
    asked = request.reasoning.strip()
    if asked in ("", ANSWER):
        return None
    found: Any = asked
    if asked[:1] == "[":
        found = _json("reasoning", asked)
        if len(found) != 2 or not all(type(i) is int for i in found):
            raise InputError(f"a reasoning is a range of two positions, such as [12, 40], not {asked}")
        return found[0], found[1]
    check_choice("reasoning", found, ("think", "sentence"))
    return cast("Reasoning", found)


def _reasoned(
    model: AttributionModel,
    given: Any,
    request: Request,
    reasoning: Reasoning,
    method: str,
    texts: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Iterable[Attribution]:
    """The answer, with the credit of the reasoning before it passed on."""
    from attriflow.reasoning.attribute import attribute_reasoning

    if "contrast_targets" in texts or "contrast_sources" in texts:
        raise InputError("the reasoning before an answer is followed without contrast: leave the contrastive texts out")
    own = method_registry.info(method).options
    of_function = step_functions.info(request.attributed_fn).options
    return attribute_reasoning(
        model,
        given,
        **texts,
        method=method,
        reasoning=reasoning,
        hops=int(request.hops),
        seed=int(request.seed),
        attributed_fn=request.attributed_fn,
        attributed_fn_args={k: v for k, v in options.items() if k in of_function and k not in own},
        **{k: v for k, v in options.items() if k in own},
    )


def _json(field: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{field}: {text!r} is not JSON ({error})") from None


def explain_context(models: Models, request: ContextRequest) -> ContextOutput:
    """Context reliance of a text.

    Raises:
        AttriflowError: A wrong setting, before the model is loaded.
    """
    from attriflow.context import ContextSettings, attribute_context
    from attriflow.context.prepare import check_texts
    from attriflow.context.settings import ContextTexts

    given = read_options(request.options)
    own = method_registry.info(request.attribution_method).options
    of_function = step_functions.info(request.attributed_fn).options
    of_metric = step_functions.info(request.context_sensitivity_metric).options
    check_keywords("the method and step functions", given, [*own, *of_function, *of_metric])
    same = (
        "attribution_method", "attributed_fn", "context_sensitivity_metric", "context_sensitivity_std_threshold",
        "attribution_std_threshold",
    )  # fmt: skip
    texts = ("input_template", "output_template", "contextless_input_current_text", "contextless_output_current_text")
    settings: dict[str, Any] = {
        **{name: getattr(request, name) for name in same},
        **{name: text for name in texts if (text := getattr(request, name)).strip()},
        **{name: _count(name, getattr(request, name)) for name in ("context_sensitivity_topk", "attribution_topk")},
        "attribution_kwargs": {k: v for k, v in given.items() if k in own},
        "attributed_fn_args": {k: v for k, v in given.items() if k in of_function and k not in own},
        "context_sensitivity_metric_args": {k: v for k, v in given.items() if k in of_metric and k not in own},
        "generation_kwargs": {"max_new_tokens": int(request.max_new_tokens)},
    }
    contexts: dict[str, Any] = {
        "input_context": request.input_context_text.strip() or None,
        "output_context": request.output_context_text.strip() or None,
        "output_current": request.output_current_text.strip() or None,
    }
    check_texts(ContextTexts(input_current=request.input_current_text, **contexts), ContextSettings.of(settings))
    return attribute_context(
        models.get(request.model),
        request.input_current_text,
        seed=int(request.seed),
        show_progress=False,
        **{f"{name}_text": text for name, text in contexts.items()},
        **settings,
    )


def read_options(text: str) -> dict[str, Any]:
    """Options from a JSON object; none from an empty text."""
    if not text.strip():
        return {}
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f'the options are not JSON ({error}); an example: {{"n_steps": 20}}') from error
    if not isinstance(found, dict):
        raise InputError('the options are JSON, but not an object such as {"n_steps": 20}')
    return found


def message_of(error: Exception) -> str:
    """An error in one line; those that are no mistakes of a user also go to the log, with where they happened."""
    if isinstance(error, (AttriflowError, OSError)) or type(error).__name__ == "MlflowException":
        return " ".join(str(error).split())
    _logger.error("%s", error, exc_info=error)
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _options(request: Request, functions: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Per method what it takes of the options; every wrong name is an error before anything runs."""
    given = read_options(request.options)
    infos = {name: method_registry.info(name) for name in request.methods}
    shared = {option for name in functions for option in step_functions.info(name).options}
    named = {name: given.pop(name) for name in infos if name in given}
    every = {option for info in infos.values() for option in info.options}
    check_keywords("the chosen methods and step functions", given, sorted({*every, *shared}))
    found = {}
    for name, info in infos.items():
        own = named.get(name, {})
        if not isinstance(own, dict):
            raise InputError(f'the options of {name} must be an object such as {{"n_steps": 20}}, not {own!r}')
        check_keywords(f"{info.kind} '{name}'", own, sorted({*info.options, *shared}))
        found[name] = {**{k: v for k, v in given.items() if k in info.options or k in shared}, **own}
        info.build(**{k: v for k, v in found[name].items() if k in info.options})
    return found


def _continued(text: str, continuation: str) -> str:
    """A text and what follows it; the continuation itself where it begins with the text."""
    if continuation.startswith(text):
        return continuation
    return f"{text}{'' if text[-1:].isspace() or continuation[:1].isspace() else ' '}{continuation}"


def _count(name: str, value: float | None) -> int | None:
    """A whole number of a field that may be empty."""
    if value is None or value == 0:
        return None
    if value != int(value) or value < 0:
        raise InputError(f"{name} must be a positive whole number, not {value:g}")
    return int(value)
