"""One attribution: its settings checked before any model runs, and a batch of examples sent through the engine."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from attriflow.aggregation._apply import reduce_spans
from attriflow.aggregation._spans import merged_token, span_function
from attriflow.engine.baselines import Baseline, TokenBaseline, every, named
from attriflow.engine.bound import Counter, Objective
from attriflow.engine.engine import Engine
from attriflow.engine.finite import not_finite, reasons
from attriflow.engine.memory import LONG, give_back
from attriflow.engine.scores import Scores, mean, of_spans
from attriflow.engine.spans import Spans
from attriflow.errors import (
    AttriflowError,
    InputError,
    NotFiniteError,
    OptionError,
    OutOfMemoryError,
    UnknownNameError,
    check_keywords,
    out_of_memory,
)
from attriflow.kernels.annotations import check_value, hints_of
from attriflow.kernels.devices import synchronize
from attriflow.kernels.transfer import home
from attriflow.models.base import LanguageModel
from attriflow.models.offload import places_of
from attriflow.registry import PartInfo, methods, step_functions
from attriflow.texts.tokens import decode
from attriflow.types import Attribution, Example, Forward, Provenance, SpanValue, StepFunction, Token
from attriflow.versions import versions


@dataclasses.dataclass(frozen=True)
class Job:
    """Everything about a call that is the same for all its batches, checked before any model runs."""

    name: str
    method: Callable[[Engine], Any]
    options: Mapping[str, Any]
    objective: Objective
    fn_name: str
    fn_args: Mapping[str, Any]
    steps: Mapping[str, StepFunction]
    step_args: Mapping[str, Any]
    blocks: tuple[str, ...]
    seed: int
    eos_baseline: bool
    granular: bool
    force_contrast: bool
    internals: bool
    knows_spans: bool
    span_value: str


def make_job(
    name: str,
    *,
    encoder_decoder: bool,
    attributed_fn: str | Callable[[Forward], Tensor],
    attributed_fn_args: Mapping[str, Any],
    step_scores: str | Sequence[str],
    step_scores_args: Mapping[str, Any],
    attribute_target: bool,
    include_eos_baseline: bool,
    granular: bool,
    seed: int,
    method_options: Mapping[str, Any],
    force_contrast: bool,
    span_value: SpanValue | None = None,
) -> Job:
    """Check the settings of an attribution and bind them."""
    info = methods.info(name)
    seed = check_value("seed", seed, int)
    flags = {
        "attribute_target": attribute_target,
        "include_eos_baseline": include_eos_baseline,
        "granular": granular,
        "contrast_force_inputs": force_contrast,
    }
    for flag, value in flags.items():
        check_value(flag, value, bool)
    check_gradient(info, attributed_fn)
    blocks = ("source", "target") if attribute_target else ("source",)
    if span_value is not None:
        attributed_fn_args = of_a_span(attributed_fn, attributed_fn_args, span_value)
    objective, fn_name = make_objective(attributed_fn, attributed_fn_args)
    return Job(
        name=info.name,
        method=over_baselines(info.build(**method_options)),
        options={**info.options, **info.checked(method_options)},
        objective=objective,
        fn_name=fn_name,
        fn_args=attributed_fn_args,
        steps=bind_step_functions(step_scores, step_scores_args),
        step_args=step_scores_args,
        blocks=blocks if encoder_decoder else ("target",),
        seed=seed,
        eos_baseline=include_eos_baseline,
        granular=granular,
        force_contrast=force_contrast or contrast_kind(attributed_fn) == "inputs",
        internals=info.meta["family"] == "internals",
        knows_spans=info.meta["family"] != "internals" if info.meta["spans"] is None else info.meta["spans"],
        span_value=span_value or "",
    )


def over_baselines(method: Callable[[Engine], Any]) -> Callable[[Engine], Any]:
    """A method with several baselines as the mean over them, unless it draws from them itself."""
    given: Any = getattr(method, "baseline", None)
    ours = given is not None and hints_of(type(method)).get("baseline") in (Baseline, TokenBaseline)
    if not ours or getattr(method, "draws_baselines", False):
        return method
    several = every(given)
    if not several:
        raise InputError("baseline must name at least one baseline")
    if several == [given]:
        return method
    each = [dataclasses.replace(method, baseline=one) for one in several]  # type: ignore[type-var]
    return lambda engine: mean([one(engine) for one in each])


def explain_batch(
    model: LanguageModel, batch: Sequence[Example], job: Job, generated: bool
) -> list[Attribution | NotFiniteError]:
    """Run one batch: method, step scores from the same pass, and per example its attribution or why there is none.

    Examples with something that is not finite are left out; the others are explained again without them. Methods of
    the family "internals" do without logits, so what they give is kept, with a warning.
    """
    counter, begin = Counter(), time.perf_counter()
    engine = Engine(
        model,
        batch,
        job.objective,
        job.blocks,
        seed=job.seed,
        include_eos_baseline=job.eos_baseline,
        granular=job.granular,
        force_contrast=job.force_contrast,
        spanned=job.knows_spans,
        counter=counter,
    )
    scores = _scores(engine, job)
    bad_scores, bad_logits = (False, True) if scores is None else not_finite(engine, scores)
    if bad_scores or bad_logits:
        errors = reasons(engine)
        if scores is not None and not any(errors):
            errors = reasons(engine, scores, job.name)
        if scores is not None and not bad_scores and job.internals:
            warnings.warn(str(next(e for e in errors if e is not None)), stacklevel=8)
        else:
            rest = [example for example, error in zip(batch, errors, strict=True) if error is None]
            others = iter(explain_batch(model, rest, job, generated) if rest else ())
            return [next(others) if error is None else error for error in errors]
    assert scores is not None  # noqa: S101
    with torch.no_grad():
        values = step_values(engine, job.steps)
    scores, values = _at_home(scores, values)
    spans = Spans.of(batch, engine.read.host)
    if spans is not None:
        if engine.spans is None:
            scores = of_spans(scores, spans, engine.read.host)
        values = _of_spans(values, spans, job)
    values.update(scores.step_scores)
    synchronize(model.device)
    seconds = time.perf_counter() - begin
    if seconds >= LONG:
        give_back()
    absent = sorted(engine.absent_ids)
    provenance = Provenance(
        method=job.name,
        options={k: named(model, v) if k == "baseline" else v for k, v in job.options.items()},
        attributed_fn=job.fn_name,
        attributed_fn_args=job.fn_args,
        step_scores_args=job.step_args,
        seed=job.seed,
        model=model.name,
        revision=model.revision,
        versions=versions(),
        dtype=str(model.dtype).removeprefix("torch."),
        device=", ".join(places_of(model.hf, model.devices)),
        batch_size=len(batch),
        forward_rows=counter.forward_rows / len(batch),
        forward_calls=counter.forward_calls / len(batch),
        backward_rows=counter.backward_rows / len(batch),
        seconds=seconds / len(batch),
        generated=generated,
        attribute_target=model.is_encoder_decoder and "target" in job.blocks,
        include_eos_baseline=job.eos_baseline,
        contrast_force_inputs=job.force_contrast,
        span_value=job.span_value,
        baseline_ids=tuple(absent),
        baseline_tokens=tuple(t.text for t in model.tokens(absent)),
    )
    steps = (engine.read if spans is None else spans.batch).host
    visible = {block: steps.visible(block) for block in engine.blocks}
    return [_unbatch(engine, i, scores, values, visible, provenance) for i in range(len(batch))]


def _of_spans(values: Mapping[str, Tensor], spans: Spans, job: Job) -> dict[str, Tensor]:
    """Values of step functions, `[batch, span]`, of those of tokens: as the functions are registered to combine."""
    out = {}
    for name, found in values.items():
        pooled = found.new_zeros(spans.batch.step_mask.shape)
        for row, own in enumerate(spans.owner):
            numbers = range(int(own.max()) + 1)
            ranges = [(int(at[0]), int(at[-1]) + 1) for at in ((own == n).nonzero().flatten() for n in numbers)]
            pooled[row, : len(ranges)] = reduce_spans(span_function(name, job.step_args), found[row], ranges, 0)
        out[name] = pooled
    return out


def _at_home(scores: Scores, values: Mapping[str, Tensor]) -> tuple[Scores, dict[str, Tensor]]:
    """All that comes out of a batch on the host."""
    stores = (scores.blocks, scores.norms or {}, scores.sequence_scores, values)
    found = iter(home([t for store in stores for t in store.values()]))
    blocks, norms, squares, steps = ({name: next(found) for name in store} for store in stores)
    return dataclasses.replace(scores, blocks=blocks, norms=norms or None, sequence_scores=squares), steps


def _scores(engine: Engine, job: Job) -> Scores | None:
    """What the method gave; None where it failed on logits that are not finite: each method fails in its own way."""
    try:
        return _checked(job.name, engine, job.method(engine))
    except Exception as error:
        if out_of_memory(error) or isinstance(error, (OutOfMemoryError, OptionError, UnknownNameError)):
            raise
        if isinstance(error, AttriflowError) and not engine.counter.forward_calls:
            raise  # said of the input, before the model ran
        try:
            sound = not any(reasons(engine))
        except Exception:  # the model does not run at all
            sound = True
        if sound:
            raise
        return None


def names_of(step_scores: str | Sequence[str]) -> list[str]:
    """One name or several as a list."""
    if isinstance(step_scores, str):
        return [step_scores]
    if not isinstance(step_scores, Iterable):
        raise InputError(f"step_scores must be names of step functions, not {step_scores!r}")
    return list(step_scores)


def route(
    name: str,
    attributed_fn: Any,
    step_scores: str | Sequence[str],
    own_args: tuple[Mapping[str, Any] | None, Mapping[str, Any] | None],
    given: Mapping[str, Any],
    *,
    keywords: Sequence[str],
    defaults: Mapping[str, Any],
) -> dict[str, Any]:
    """Sort keywords into options of the method, of the attributed function and of the step scores."""
    for label, value in zip(("attributed_fn_args", "step_scores_args"), own_args, strict=True):
        check_value(label, value, Mapping | None)
    attributed_fn_args, step_scores_args = own_args
    method_options = methods.info(name).options
    fn_options = step_functions.info(attributed_fn).options if isinstance(attributed_fn, str) else {}
    score_options = {o for s in names_of(step_scores) for o in step_functions.info(s).options}
    allowed = {*method_options, *fn_options, *score_options}
    check_keywords(f"attribute with method '{name}'", given, [*sorted(allowed), *keywords])
    return {
        "method_options": {**defaults, **{k: v for k, v in given.items() if k in method_options}},
        "attributed_fn_args": {**{k: v for k, v in given.items() if k in fn_options}, **(attributed_fn_args or {})},
        "step_scores_args": {**{k: v for k, v in given.items() if k in score_options}, **(step_scores_args or {})},
    }


def make_objective(fn: str | Callable[[Forward], Tensor], args: Mapping[str, Any]) -> tuple[Objective, str]:
    """What is explained, and its name."""
    if callable(fn):
        bound = (lambda forward: fn(forward, **args)) if args else fn
        stepwise, passes = (getattr(fn, name, False) is True for name in ("stepwise", "passes"))
        return Objective(bound, stepwise=stepwise, passes=passes), getattr(fn, "__name__", type(fn).__name__)
    info = step_functions.info(fn)
    stepwise, passes = bool(info.meta.get("stepwise", True)), bool(info.meta.get("passes", False))
    logarithm = info.meta.get("span") == "prod" and bool(args.get("logprob"))
    return Objective(info.build(**args), stepwise=stepwise, passes=passes, logarithm=logarithm), info.name


def of_a_span(fn: str | Callable[[Forward], Tensor], args: Mapping[str, Any], value: SpanValue) -> dict[str, Any]:
    """Options of a step function whose values are added up over a span: probabilities as their logarithms.

    A warning says so where their sum has no meaning of its own.
    """
    if not isinstance(fn, str):
        return dict(args)
    info = step_functions.info(fn)
    if info.meta.get("span") == "prod" and "logprob" in info.options:
        args = {"logprob": True, **args}
    how = span_function(info.name, args)
    if value == "sum" and how != "sum":
        warnings.warn(
            f"a sum of '{info.name}' over a span has no meaning of its own (its values combine by '{how}'); "
            "span_value='mean' explains their mean",
            stacklevel=5,
        )
    return dict(args)


def check_gradient(method: PartInfo, fn: str | Callable[[Forward], Tensor]) -> None:
    """Raise `InputError` when a method needs the gradient of a function that has none."""
    if not isinstance(fn, str) or method.meta.get("family") not in ("gradient", "path"):
        return
    info = step_functions.info(fn)
    if not info.meta.get("differentiable", True):
        raise InputError(
            f"step function '{info.name}' is a count and has no gradient, which '{method.name}' needs; explain it with "
            "a perturbation method (such as 'occlusion') or an internals method"
        )


def contrast_kind(fn: str | Callable[[Forward], Tensor]) -> str | None:
    """What a step function compares: "tokens", "inputs", or nothing (None)."""
    return step_functions.info(fn).meta.get("contrast") if isinstance(fn, str) else None


def is_difference(fn: str) -> bool:
    """Whether a step function subtracts the foil's value from the target's."""
    return bool(step_functions.info(fn).meta.get("difference"))


def check_contrast(functions: Sequence[Any], contrasted: bool) -> None:
    """Raise `InputError` when a contrastive step function is used without contrastive inputs."""
    for name in functions:
        if contrast_kind(name) and not contrasted:
            raise InputError(f"step function '{name}' compares with a foil: pass contrast_targets or contrast_sources")


def step_values(engine: Engine, functions: Mapping[str, StepFunction]) -> dict[str, Tensor]:
    """Values of step functions, name -> `[batch, step]`; without foils, of those that need none."""
    needing = {name for name in functions if name in step_functions and contrast_kind(name)}
    return {name: fn(engine.scored()) for name, fn in functions.items() if engine.contrasted or name not in needing}


def bind_step_functions(names: str | Sequence[str], args: Mapping[str, Any]) -> dict[str, StepFunction]:
    """Name -> step function with its options bound.

    Args:
        names: Registered names (an alias keeps its own name in the result).
        args: `{option: value}` for every function that takes it, or `{name: {option: value}}`.
    """
    names = names_of(names)
    infos = {name: step_functions.info(name) for name in names}
    known = {o for info in infos.values() for o in info.options}
    check_keywords("step_scores_args", args, [*known, *infos])
    bound: dict[str, StepFunction] = {}
    for name, info in infos.items():
        own = {k: v for k, v in args.items() if k in info.options and k not in infos}
        nested = args.get(name, {}) if name in args else {}
        bound[name] = info.build(**{**own, **nested})
    return bound


def _checked(name: str, engine: Engine, scores: Any) -> Scores:
    """What a method returned, once it is known to be scores of this batch."""
    if not isinstance(scores, Scores):
        raise InputError(f"method '{name}' must return attriflow.engine.Scores, not {type(scores).__name__}")
    axes = ("batch", "step", "position", *scores.axes)
    for block in engine.blocks:
        found, wanted = scores.blocks.get(block), (engine.batch.size, engine.batch.n_steps, engine.ids(block).shape[1])
        if not isinstance(found, Tensor) or found.shape[:3] != wanted or found.ndim != len(axes):
            shape = list(found.shape) if isinstance(found, Tensor) else f"a {type(found).__name__}"
            what = f"scores [{', '.join(axes)}] that begin with {list(wanted)} for the block '{block}'"
            raise InputError(f"method '{name}' must return {what}, not {'nothing' if found is None else shape}")
    return scores


def _unbatch(
    engine: Engine,
    row: int,
    scores: Scores,
    values: Mapping[str, Tensor],
    visible: Mapping[str, Tensor],
    provenance: Provenance,
) -> Attribution:
    """One example's attribution, without padding and with NaN where a step cannot see an input; all on the host."""
    example: Example = engine.examples[row]
    n_steps, spans = example.n_steps, example.spans
    start = example.start if spans is None else spans[0][0]
    parts, norms, tokens = [], [], list[Token]()
    for block in engine.blocks:
        shown = example.source if block == "source" else example.target[: example.stop]
        tokens += shown
        seen = visible[block][row, :n_steps]
        parts.append(_masked(scores.blocks[block][row, :n_steps], seen, len(shown)))
        if scores.norms is not None:
            norms.append(_masked(scores.norms[block][row, :n_steps], seen, len(shown)))
    return Attribution(
        scores=torch.cat(parts, 1),
        axes=("step", "input", *scores.axes),
        inputs=tuple(tokens),
        targets=step_tokens(example),
        start=start,
        norms=torch.cat(norms, 1) if norms else None,
        step_scores={name: v[row, :n_steps].clone() for name, v in values.items()},
        sequence_scores={name: _square(example, name, v[row]) for name, v in scores.sequence_scores.items()},
        provenance=_with_foil(provenance, engine.model, example),
        input_text=example.input_text,
        target_text=example.target_text,
        segments=example.segments,
        turns=example.turns,
        spans=spans,
    )


def step_tokens(example: Example) -> tuple[Token, ...]:
    """A token per step: the explained one, or what the tokens of a span are together."""
    if example.spans is None:
        return example.target[example.start : example.stop]
    return tuple(merged_token(example, example.target[first:stop]) for first, stop in example.spans)


def _with_foil(provenance: Provenance, model: LanguageModel, example: Example) -> Provenance:
    """The provenance with what the example was compared with."""
    foil = example.contrast
    if foil is None:
        return provenance
    given = example.prompt_length
    own, other = example.source_ids, list(foil.source_ids)
    if not example.source and list(foil.target_ids[:given]) != example.target_ids[:given]:
        own, other = example.target_ids[: example.start], list(foil.target_ids[: foil.positions[0]])
    before = decode(model.tokenizer, other) if other != own else ""
    return dataclasses.replace(
        provenance,
        foil=tuple(t.text for t in model.tokens(foil.ids)),
        foil_input=before,
        foil_text=decode(model.tokenizer, list(foil.target_ids)),
    )


def _square(example: Example, name: str, scores: Tensor) -> Tensor:
    """Scores between the tokens of one side, without padding; the last decoder token is never read."""
    n = len(example.source) if name.startswith("encoder") else example.stop - 1
    return scores[:n, :n]


def _masked(scores: Tensor, seen: Tensor, width: int) -> Tensor:
    """Scores `[step, width, ...]`, NaN where not seen (and beyond what the model read)."""
    n = min(width, scores.shape[1])
    out = scores.new_full((scores.shape[0], width, *scores.shape[2:]), torch.nan)
    seen = seen[:, :n].view(seen.shape[0], n, *([1] * (scores.ndim - 2)))
    out[:, :n] = torch.where(seen, scores[:, :n], torch.nan)
    return out
