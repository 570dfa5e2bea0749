"""Context attribution: find the generated tokens that depend on context, then what in the context they depend on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from attriflow.aggregation._pipeline import unnormalized
from attriflow.context.prepare import Pair, prepare
from attriflow.context.result import ContextAttribution, ContextCues, ContextOutput, cues_of
from attriflow.context.selection import select, threshold
from attriflow.context.settings import CURRENT, ContextSettings, ContextTexts
from attriflow.context.split import Ask
from attriflow.engine.job import contrast_kind
from attriflow.errors import InputError
from attriflow.output import AttributionOutput
from attriflow.texts.tokens import decode, special_ids
from attriflow.types import Attribution, Contrast, Example
from attriflow.versions import versions

if TYPE_CHECKING:
    from attriflow.model import AttributionModel

Texts = str | Sequence[str]
OptionalTexts = str | Sequence["str | None"] | None


def attribute_context(
    model: AttributionModel | Any,
    input_current_text: Texts,
    input_context_text: OptionalTexts = None,
    *,
    output_current_text: OptionalTexts = None,
    output_context_text: OptionalTexts = None,
    contextless_input_current_text: Texts = CURRENT,
    contextless_output_current_text: Texts = CURRENT,
    batch_size: int | None = None,
    seed: int = 0,
    show_progress: bool = True,
    ask: Ask | None = None,
    show: Callable[[AttributionOutput], None] | None = None,
    **settings: Any,
) -> ContextOutput:
    """Which tokens of an output depend on context, and on which tokens of the context (PECoRe, arXiv:2310.01188).

    1. The output is generated with all context, or given. Its tokens are scored by a step function that compares the
       predictions without and with context (the contextual input is the contrastive one); those with large scores are
       context-sensitive (CTI).
    2. Each sensitive token is attributed to the context with any method, for a contrastive function against the token
       that the model would write without context; context tokens with large scores are its cues (CCI).

    Args:
        model: A loaded model, or anything that `load_model` takes.
        input_current_text: Prompt or source; one text or several.
        input_context_text: Context of the input.
        output_current_text: Output to test; generated where None.
        output_context_text: Context of the output (a prefix of it).
        contextless_input_current_text, contextless_output_current_text: What stands in for input and output without
            context, with `{current}` in it; one for all texts or one per text.
        batch_size: Texts per batch; by length when None.
        seed: For sampling and for stochastic methods.
        show_progress: Show a progress bar for the attributions.
        ask: Asks the user, for the strategies that do.
        show: Called with the attributions behind the scores.
        **settings: See `ContextSettings`.

    Returns:
        One `ContextAttribution` per text.

    Complexity: two forwards for CTI (one each with and without context), and one attribution of the range of sensitive
    tokens (two where some of them are compared with the same token without context).
    """
    checked = ContextSettings.of(
        {
            "contextless_input_current_text": _first(contextless_input_current_text),
            "contextless_output_current_text": _first(contextless_output_current_text),
            **settings,
        }
    )
    given = _requests(
        input_current=input_current_text,
        input_context=input_context_text,
        output_current=output_current_text,
        output_context=output_context_text,
        contextless_input=contextless_input_current_text,
        contextless_output=contextless_output_current_text,
    )
    from attriflow.model import AttributionModel, load_model

    loaded = model if isinstance(model, AttributionModel) else load_model(model)
    pairs = prepare(loaded, given, checked, ask, seed)
    scores = _sensitivity(loaded, pairs, checked, batch_size, seed)
    least = _thresholds(scores, checked)
    chosen = [select(s, t, checked.context_sensitivity_topk) for s, t in zip(scores, least, strict=True)]
    cues = _cues(loaded, pairs, scores, chosen, checked, batch_size, seed, show_progress, ask, show)
    info = _info(loaded, checked, seed)
    return ContextOutput(_result(pair, s, t, c, info) for pair, s, t, c in zip(pairs, scores, least, cues, strict=True))


def _first(texts: Texts) -> str:
    return texts if isinstance(texts, str) else next(iter(texts), CURRENT)


def _requests(**columns: Any) -> list[ContextTexts]:
    """Texts by row; a single text or None goes with every row."""
    first = columns["input_current"]
    n = 1 if isinstance(first, str) else len(first)
    if not n:
        raise InputError("input_current_text is empty")
    rows: dict[str, list[Any]] = {}
    for name, value in columns.items():
        if isinstance(value, str) or value is None:
            rows[name] = [value] * n
        elif len(value) != n:
            raise InputError(f"{n} current inputs but {len(value)} values of {name}")
        else:
            rows[name] = [None if v != v else v for v in value]
        for v in rows[name]:
            if v is not None and not isinstance(v, str):
                raise InputError(f"{name} must be a text or a list of texts; found {type(v).__name__}: {v!r}"[:200])
    return [ContextTexts(**{name: values[i] for name, values in rows.items()}) for i in range(n)]


# -- context-sensitive tokens -----------------------------------------------------------------------------------------


def _sensitivity(
    model: AttributionModel, pairs: Sequence[Pair], settings: ContextSettings, batch_size: int | None, seed: int
) -> list[list[float]]:
    """Scores of the current tokens, the contextless prediction against the contextual one."""
    examples = [dataclasses.replace(p.contextless, contrast=_foil(p.contextual)) for p in pairs]
    name = settings.context_sensitivity_metric
    found = model.score_steps(examples, {name: dict(settings.context_sensitivity_metric_args)}, batch_size, seed)
    return [[float(f[name][s]) for s in p.steps] for f, p in zip(found, pairs, strict=True)]


def _foil(example: Example, step_ids: Sequence[int] | None = None) -> Contrast:
    """An example as what another one is compared with."""
    return Contrast(
        source_ids=tuple(example.source_ids),
        target_ids=tuple(example.target_ids[: example.stop]),
        positions=tuple(range(example.start, example.stop)),
        step_ids=None if step_ids is None else tuple(step_ids),
    )


def _thresholds(scores: Sequence[Sequence[float]], settings: ContextSettings) -> list[float]:
    stds = settings.context_sensitivity_std_threshold
    if settings.context_sensitivity_scope == "dataset":
        return [threshold([v for s in scores for v in s], stds)] * len(scores)
    return [threshold(s, stds) for s in scores]


# -- cues -------------------------------------------------------------------------------------------------------------


def _cues(
    model: AttributionModel,
    pairs: Sequence[Pair],
    scores: Sequence[Sequence[float]],
    chosen: Sequence[Sequence[int]],
    settings: ContextSettings,
    batch_size: int | None,
    seed: int,
    show_progress: bool,
    ask: Ask | None,
    show: Callable[[AttributionOutput], None] | None,
) -> list[list[ContextCues]]:
    """Scores of the contexts, for every sensitive token of every text."""
    kind = contrast_kind(settings.attributed_fn)
    foils = _foil_ids(model, pairs, chosen, settings, batch_size, ask) if kind else [{} for _ in pairs]
    jobs: list[tuple[int, list[int], bool]] = []  # text, places of sensitive tokens, compared through another input
    for i, places in enumerate(chosen):
        same = [k for k in places if kind and foils[i][k] == pairs[i].current_tokens()[k].id]
        other = list(places) if kind == "inputs" else same
        jobs += [(i, ks, f) for ks, f in (([k for k in places if k not in other], False), (other, True)) if ks]
    out: list[dict[int, ContextCues]] = [{} for _ in pairs]
    for forced in (False, True):
        group = [(i, ks) for i, ks, f in jobs if f == forced]
        examples = [_explained(pairs[i], ks, foils[i]) for i, ks in group]
        if not examples:
            continue
        attributions = model.attribute_examples(
            examples,
            settings.attribution_method,
            attributed_fn=settings.attributed_fn,
            attributed_fn_args=dict(settings.attributed_fn_args),
            attribute_target=model.is_encoder_decoder and any(pairs[i].output_context is not None for i, _ in group),
            batch_size=batch_size,
            seed=seed,
            show_progress=show_progress,
            contrast_force_inputs=forced,
            **dict(settings.attribution_kwargs),
        )
        options = settings.aggregator_options
        reduced = AttributionOutput(attributions).aggregate(unnormalized(settings.aggregators, options), **options)
        if any(len(a.axes) > 2 for a in reduced):  # a function alone reduces one axis: of layers and heads, one is left
            reduced = reduced.aggregate("scores", normalize=False)
        if show is not None:
            show(reduced)
        for (i, ks), attribution in zip(group, reduced, strict=True):
            for k in ks:
                out[i][k] = _one(model, pairs[i], scores[i], k, foils[i].get(k), attribution, settings)
    return [[out[i][k] for k in places] for i, places in enumerate(chosen)]


def _explained(pair: Pair, places: Sequence[int], foils: dict[int, int]) -> Example:
    """The contextual example, cut to the range of some sensitive tokens."""
    steps = [pair.steps[k] for k in places]
    low, high = min(steps), max(steps) + 1
    start = pair.contextual.start
    example = dataclasses.replace(pair.contextual, start=start + low, stop=start + high)
    if not foils:
        return example
    ids = list(pair.contextual.target_ids[start + low : start + high])
    for k in places:
        ids[pair.steps[k] - low] = foils[k]
    begin = pair.contextless.start
    other = dataclasses.replace(pair.contextless, start=begin + low, stop=begin + high)
    return dataclasses.replace(example, contrast=_foil(other, ids))


def _one(
    model: AttributionModel,
    pair: Pair,
    scores: Sequence[float],
    place: int,
    foil: int | None,
    attribution: Attribution,
    settings: ContextSettings,
) -> ContextCues:
    step = pair.contextual.start + pair.steps[place] - attribution.start
    row = attribution.scores[step].nan_to_num()
    shift = len(pair.contextual.source)
    inputs = None if pair.input_context is None else [float(row[j]) for j in pair.input_context]
    outputs = None if pair.output_context is None else [float(row[shift + j]) for j in pair.output_context]
    input_cues, output_cues = cues_of(inputs, outputs, settings.attribution_std_threshold, settings.attribution_topk)
    at = pair.contextual.start + pair.steps[place]
    before = pair.contextless.start + pair.steps[place]
    allowed = set(model.tokenizer.convert_tokens_to_ids(list(settings.special_tokens_to_keep)) or ())
    hidden = special_ids(model.tokenizer) - allowed

    def text(ids: Sequence[int]) -> str:
        return decode(model.tokenizer, [i for i in ids if i not in hidden], special=True).strip(" ")

    return ContextCues(
        cti_idx=place,
        cti_token=pair.current_tokens()[place].text,
        cti_score=scores[place],
        contextual_output=text(pair.contextual.target_ids[: at + 1]),
        contrast_token=None if foil is None else model.wrapped.tokens([foil])[0].text,
        contextless_output=None if foil is None else text([*pair.contextless.target_ids[:before], foil]),
        input_context_scores=inputs,
        output_context_scores=outputs,
        input_cues=input_cues,
        output_cues=output_cues,
    )


@torch.no_grad()
def _foil_ids(
    model: AttributionModel,
    pairs: Sequence[Pair],
    chosen: Sequence[Sequence[int]],
    settings: ContextSettings,
    batch_size: int | None,
    ask: Ask | None,
) -> list[dict[int, int]]:
    """For every sensitive token, the token to compare with: given, asked for, or the likeliest without context."""
    named = list(settings.contextless_output_next_tokens)
    if named and len(named) != sum(map(len, chosen)):
        raise InputError(
            f"contextless_output_next_tokens has {len(named)} tokens for {sum(map(len, chosen))} sensitive tokens: "
            + ", ".join(repr(p.current_tokens()[k].text) for p, ks in zip(pairs, chosen, strict=True) for k in ks)
        )
    likely = _likeliest(model, [p.contextless for p in pairs], batch_size)
    out: list[dict[int, int]] = []
    for pair, places, ids in zip(pairs, chosen, likely, strict=True):
        found = {}
        for k in places:
            word = named.pop(0) if named else _asked(pair, k, settings, ask)
            found[k] = ids[pair.steps[k]] if not word else _word_id(model, pair, word)
        out.append(found)
    return out


def _asked(pair: Pair, place: int, settings: ContextSettings, ask: Ask | None) -> str | None:
    if not settings.prompt_user_for_contextless_output_next_tokens:
        return None
    if ask is None:
        raise InputError("prompt_user_for_contextless_output_next_tokens asks the user, which is not possible here")
    token = pair.current_tokens()[place].text
    return ask(f"{token!r} is sensitive to context. Compare it with (empty: what the model would write)", "").strip()


def _word_id(model: AttributionModel, pair: Pair, word: str) -> int:
    """The first token of a word where it follows other text."""
    tokenizer = model.tokenizer
    known = tokenizer.convert_tokens_to_ids(word)
    if isinstance(known, int) and known >= 0 and known != tokenizer.unk_token_id:
        return known
    ids = tokenizer(f" {word.strip()}", add_special_tokens=False)["input_ids"]
    if not ids:
        raise InputError(f"{word!r} has no token to compare with")
    return int(ids[0])


def _likeliest(model: AttributionModel, examples: Sequence[Example], batch_size: int | None) -> list[list[int]]:
    """The likeliest token of every step."""
    likeliest = {"likeliest": lambda forward: forward.logits.argmax(-1)}
    return [found["likeliest"].tolist() for found in model.step_values(examples, likeliest, batch_size)]


# -- results ----------------------------------------------------------------------------------------------------------


def _result(
    pair: Pair, scores: list[float], least: float, cues: list[ContextCues], info: dict[str, Any]
) -> ContextAttribution:
    inputs, outputs, current = pair.input_tokens(), pair.output_tokens(), pair.current_tokens()
    texts = {"input_context": inputs, "output_context": outputs, "output_current": current}
    return ContextAttribution(
        input_context=pair.texts.input_context,
        input_context_tokens=None if inputs is None else [t.text for t in inputs],
        output_context=pair.texts.output_context,
        output_context_tokens=None if outputs is None else [t.text for t in outputs],
        input_current=pair.texts.input_current,
        output_current=pair.texts.output_current or "",
        output_current_tokens=[t.text for t in current],
        cti_scores=scores,
        cti_threshold=least,
        cci_scores=cues,
        token_spans={name: _spans(tokens) for name, tokens in texts.items() if tokens is not None},
        info=info,
    )


def _spans(tokens: Sequence[Any]) -> list[tuple[int, int] | None]:
    """Spans in the text itself: offsets of its first character taken off."""
    first = next((t.start for t in tokens if t.start is not None), 0)
    return [None if t.start is None or t.end is None else (t.start - first, t.end - first) for t in tokens]


def _info(model: AttributionModel, settings: ContextSettings, seed: int) -> dict[str, Any]:
    values = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
    fn = settings.attributed_fn
    values["attributed_fn"] = fn if isinstance(fn, str) else getattr(fn, "__name__", repr(fn))
    plain = {k: list(v) if isinstance(v, tuple) else dict(v) if hasattr(v, "items") else v for k, v in values.items()}
    return {"model": model.name, "seed": seed, "versions": versions(), **plain}
