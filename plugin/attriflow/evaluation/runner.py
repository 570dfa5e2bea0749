"""Runs an evaluation and yields each result as soon as it exists."""

from __future__ import annotations

import dataclasses
import gc
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from attriflow.engine.job import of_a_span
from attriflow.engine.masked import use_masked_lm
from attriflow.errors import InputError, NotFiniteError, reason_of
from attriflow.evaluation.chance import chance
from attriflow.evaluation.changes import target_function
from attriflow.evaluation.choices import choices
from attriflow.evaluation.circularity import token_of
from attriflow.evaluation.config import EvaluationConfig
from attriflow.evaluation.data import EvaluationData, encoded
from attriflow.evaluation.multiverse import Multiverse
from attriflow.evaluation.planning import Plan, make_plan, say
from attriflow.evaluation.rationale import in_template, rationale_matrix, rationale_size
from attriflow.evaluation.reexplaining import Reexplainer, spread
from attriflow.evaluation.rescoring import VariantScorer
from attriflow.evaluation.results import (
    Attributed,
    Event,
    Finished,
    MethodResult,
    StepScored,
    StepScores,
    facts_of,
)
from attriflow.evaluation.scoring import MetricRunner
from attriflow.evaluation.selection import part_of
from attriflow.evaluation.twins import Explanations, without_sign
from attriflow.kernels import devices
from attriflow.measuring.cost import measure, old_objects_uncollected
from attriflow.models.contrast import add_foil
from attriflow.progress import track
from attriflow.registry import PartInfo, methods, metrics, step_functions
from attriflow.texts.target_spans import with_spans
from attriflow.types import Attribution, Example

if TYPE_CHECKING:
    from attriflow.model import AttributionModel

TRY_FROM = 8
"""Examples from which one explanation more per method is little."""
_logger = logging.getLogger(__name__)


class Evaluation:
    """Methods x metrics x step functions over one data set and one model.

    `run` yields events; at any time `results` and `step_scores` hold what is known so far. `chance` has the curves of
    random tokens, in the end and where a metric has curves.
    """

    def __init__(self, model: AttributionModel, data: EvaluationData, config: EvaluationConfig) -> None:
        self.model, self.data, self.config = model, data, config
        self.examples: list[Example] = []
        self.results: list[MethodResult] = []
        self.step_scores: list[StepScores] = []
        self.rationales: list[Tensor | None] = []
        self.metric_options: dict[str, dict[str, Any]] = {}
        self.plan: Plan | None = None
        self.chance: MethodResult | None = None
        self.multiverse: Multiverse | None = None
        self._runner: MetricRunner | None = None
        self._explaining = self._in_worlds = self._rescored_in_worlds = 0.0
        self._tried: set[str] = set()
        self._step_tensors: list[dict[str, Tensor]] = []
        self._why_not = ""
        self._explained = Explanations()

    @property
    def n_tokens(self) -> int:
        """Explained tokens in the data set, alone or in spans."""
        return sum(e.n_tokens for e in self.examples)

    def run(self) -> Iterator[Event]:
        """Encode (or generate), then step functions, then every method with its metrics."""
        with old_objects_uncollected():
            yield from self._run()

    def _run(self) -> Iterator[Event]:
        self._prepare()
        self.step_scores = self._score_steps()
        yield StepScored(self.step_scores)
        self._runner = runner = self._metric_runner()
        if not self._why_not:
            self._make_plan(runner)
            self.multiverse = self._make_multiverse(runner.scorer) if self.config.multiverse else None
        if self.config.throughput:
            self.model.teacher_forced(self.examples, batch_size=self.config.explicit_batch_size)  # warm-up
        for name in track(self.config.methods, "attribution methods"):
            result = MethodResult(name=name)
            self.results.append(result)
            if self._attribute(result):
                yield Attributed(result)
                runner.score(result)
                result.same_as, result.unsigned = self._explained.first_alike(result), without_sign(result)
            explained = result.attributions  # whoever hears of the result may shorten them
            yield Finished(result)
            if self.multiverse is not None:
                began, before = time.perf_counter(), runner.scorer.seconds
                self.multiverse.add(result, explained)
                rescored = runner.scorer.seconds - before
                self._rescored_in_worlds += rescored
                self._in_worlds += time.perf_counter() - began - rescored
        if any(result.ok for result in self.results):
            self.chance = chance(runner, self.examples)
        say(f"time: {', '.join(f'{seconds:.1f} s {what}' for what, seconds in self.seconds.items() if seconds)}")

    @property
    def seconds(self) -> dict[str, float]:
        """Where the time went so far; all but the last is the model's."""
        runner = self._runner
        rescored = runner.scorer.seconds if runner else 0.0
        again = runner.reexplainer.seconds if runner and runner.reexplainer else 0.0
        return {
            "explaining": self._explaining,
            "explaining again": again,
            "scoring changed inputs": rescored,
            "in metrics (ferret, numpy)": max(0.0, runner.seconds - (rescored - self._rescored_in_worlds) - again)
            if runner
            else 0.0,
            **({"explaining in other worlds and in their metrics": self._in_worlds} if self.multiverse else {}),
        }

    def _make_plan(self, runner: MetricRunner) -> None:
        """Say what is going to be computed; methods are tried if that replaces a warm-up or is little of the work."""
        tried = self.config.throughput or len(self.examples) >= TRY_FROM

        def explain_one(name: str) -> Callable[[Example], Attribution] | None:
            return (lambda example: self._explain(name, [example])[0]) if tried else None

        try:
            explained = {name: explain_one(name) for name in self.config.methods}
            options = {
                n: {**methods.info(part_of(n)).options, **self.config.method_options.get(n, {})} for n in explained
            }
            options |= {n: {**part.options, **self.metric_options.get(n, {})} for n, part in runner.parts.items()}
            self.plan = make_plan(self.model, self.examples, explained, runner, options)
        except Exception as error:
            _logger.debug("no plan: %s", error)  # whatever is wrong is reported by the part that fails
            return
        if tried:
            self._tried = set(self.config.methods) - set(self.plan.untried)
            if self.plan.untried:
                self._free_memory()
        say(str(self.plan))

    def _prepare(self) -> None:
        """Tokenise or generate; a row that cannot be explained is left out of `data` and noted there."""
        config = self.config
        if config.masked_lm is not None:
            use_masked_lm(self.model, config.masked_lm)
        examples, self.data = encoded(
            self.model,
            self.data,
            generation_args=dict(config.generation_args),
            batch_size=config.explicit_batch_size,
            seed=config.seed,
        )
        wrong: dict[int, str] = {}
        for i, example in enumerate(examples):
            try:
                if config.target_spans is not None:
                    example = with_spans(example, config.target_spans, config.span_value)
                found = self._with_foil(i, example)
                self.rationales.append(self._match_rationale(i, found))
                self.examples.append(found)
            except InputError as error:
                wrong[i] = str(error)
        self.data = self.data.without(wrong)
        if config.fail_fast:
            for number, why in self.data.failed.items():
                raise InputError(f"row {number}: {why}")

    def _with_foil(self, i: int, example: Example) -> Example:
        foil = (self.data.foils or {i: None})[i]
        if foil is None:
            return example
        alignment = self.config.contrast_targets_alignments or ()
        return add_foil(self.model.wrapped, example, source=foil.source, target=foil.target, alignment=alignment)

    def _match_rationale(self, i: int, example: Example) -> Tensor | None:
        """Evidence as bool `[step, input]`; None where a row has none."""
        row = (self.data.rationales or {i: None})[i]
        try:
            if row is not None and not isinstance(given := self.data.inputs[i], str):
                row = in_template(row, given, example.input_text)
            return None if row is None else rationale_matrix(row, example, self.config.attribute_target)
        except InputError:
            if self.data.targets is not None:
                raise
            return None  # a generated target need not have the words that the rationale speaks of

    def _without_not_finite(self) -> bool:
        """Leave out rows for which the model gives NaN or infinity; False when these are all, or none alone."""
        wrong: dict[int, str] = {}
        for i, example in enumerate(self.examples):
            try:
                self.model.score_steps([example], {}, batch_size=1, seed=self.config.seed)
            except NotFiniteError as error:
                wrong[i] = reason_of(error)
        if not wrong or len(wrong) == len(self.examples):
            return False
        self.data = self.data.without(wrong)
        self.examples = [e for i, e in enumerate(self.examples) if i not in wrong]
        self.rationales = [r for i, r in enumerate(self.rationales) if i not in wrong]
        return True

    def _score_steps(self) -> list[StepScores]:
        names, options = self.config.step_functions, self.config.step_function_options
        wanted = {n: options.get(n, {}) for n in names}
        reasons: dict[str, str] = {}
        try:
            self._step_tensors = self._steps(wanted)
        except Exception as error:
            if self.config.fail_fast:
                raise
            if isinstance(error, NotFiniteError) and self._without_not_finite():
                return self._score_steps()
            if isinstance(error, NotFiniteError):  # nobody can explain what is not a number
                self._why_not = reason_of(error)
                _logger.warning("nothing can be explained: %s", self._why_not)
            _logger.debug("step functions fail together, trying one at a time: %s", error)
            self._step_tensors = [{} for _ in self.examples]
            for name in names:
                try:
                    self._check_logits()
                    for known, new in zip(self._step_tensors, self._steps({name: wanted[name]}), strict=True):
                        known.update(new)
                except Exception as alone:
                    reasons[name] = reason_of(alone)
        return [
            StepScores(
                name=name,
                unit=str(step_functions.info(name).meta.get("unit", "")),
                values=()
                if name in reasons
                else tuple(_finite(t[name]) if name in t else () for t in self._step_tensors),
                reason=reasons.get(name, ""),
            )
            for name in names
        ]

    def _check_logits(self) -> None:
        """Raise the error that was found when the model was read first."""
        if self._why_not:
            raise NotFiniteError(self._why_not)

    def _steps(self, wanted: dict[str, Any]) -> list[dict[str, Tensor]]:
        """Values of step functions; also without any, for the model's logits are checked on the way."""
        config = self.config
        return self.model.score_steps(self.examples, wanted, batch_size=config.explicit_batch_size, seed=config.seed)

    def _metric_runner(self) -> MetricRunner:
        config = self.config
        scorer = VariantScorer(
            self.model,
            self.examples,
            attribute_target=config.attribute_target,
            batch_size=config.explicit_batch_size,
        )
        parts = [metrics.info(n) for n in config.metrics]
        reexplainer = None
        if any("reexplain" in part.meta["needs"] for part in parts):
            arguments = config.attributed_fn_args
            if config.target_spans is not None:
                arguments = of_a_span(config.attributed_fn, arguments, config.span_value)
            other_target, reason = target_function(config.attributed_fn, arguments)
            reexplainer = Reexplainer(
                self.model,
                self.examples,
                self._explain,
                sample=spread(len(self.examples), config.reexplain_examples),
                seed=config.seed,
                other_target=other_target,
                why_no_target=reason,
            )
        self.metric_options = self._options_from_data(parts)
        return MetricRunner(parts, self.metric_options, scorer, self.rationales, config.fail_fast, reexplainer)

    def _make_multiverse(self, scorer: VariantScorer) -> Multiverse:
        """Say which choices are looked at; scores of changed inputs are shared with the evaluation."""
        config, made = self.config, choices(self.config, token_of(self.model.wrapped))

        def scored(names: Sequence[str], options: Mapping[str, Mapping[str, Any]]) -> MetricRunner:
            return MetricRunner([metrics.info(n) for n in names], options, scorer, self.rationales, config.fail_fast)

        def explain(method: str, **arguments: Any) -> list[Attribution]:
            return self._explain(method, self.examples, **arguments)

        say(str(made))
        return Multiverse(made, config, explain, scored, self.metric_options)

    def _options_from_data(self, parts: Sequence[PartInfo]) -> dict[str, dict[str, Any]]:
        """Options of metrics: as given; else, where a metric says so, what suits the data."""
        facts = {"rationale_size": rationale_size(self.rationales)}
        out = {}
        for part in parts:
            named = {option: facts[fact] for option, fact in part.meta["from_data"].items()}
            known = {option: value for option, value in named.items() if value is not None}
            out[part.name] = {**known, **self.config.metric_options.get(part.name, {})}
        return out

    def _attribute(self, result: MethodResult) -> bool:
        """Explain the data set with one method; False when it failed."""
        config, begin = self.config, time.perf_counter()
        try:
            self._check_logits()
            part = methods.info(part_of(result.name))
            result.family = part.meta["family"]
            result.options = {**part.options, **config.method_options.get(result.name, {})}

            def warm_up() -> object:
                return self._explain(result.name, [min(self.examples, key=lambda e: len(e.target))])

            with self.model.lock:  # no waiting in what is timed
                attributions, result.cost = measure(
                    lambda: self._explain(result.name, self.examples),
                    lambda: self.model.teacher_forced(self.examples, batch_size=config.explicit_batch_size),
                    n_tokens=self.n_tokens,
                    places=self.model.wrapped.devices,
                    throughput=config.throughput,
                    warm_up=None if result.name in self._tried else warm_up,
                )
        except Exception as error:
            if config.fail_fast:
                raise
            _logger.debug("method '%s' failed", result.name, exc_info=True)
            result.fail(error)
        else:
            result.facts = facts_of(attributions)
            result.attributions = [
                self._completed(a, scores) for a, scores in zip(attributions, self._step_tensors, strict=True)
            ]
        self._explaining += time.perf_counter() - begin
        if not result.ok:
            self._free_memory()  # out of the except block, where the error would still hold on to it
        return result.ok

    def _completed(self, attribution: Attribution, step_scores: dict[str, Tensor]) -> Attribution:
        """What the evaluation knows and the method did not: step scores, and whether the target was generated."""
        provenance = dataclasses.replace(attribution.provenance, generated=self.data.targets is None)
        return attribution.replace(step_scores={**attribution.step_scores, **step_scores}, provenance=provenance)

    def _explain(
        self,
        method: str,
        examples: list[Example],
        *,
        seed: int | None = None,
        attributed_fn: Any = None,
        attributed_fn_args: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> list[Attribution]:
        """Explanations as configured, or with another seed, attributed function or further options."""
        config = self.config
        return self.model.attribute_examples(
            examples,
            part_of(method),
            attributed_fn=config.attributed_fn if attributed_fn is None else attributed_fn,
            attributed_fn_args=dict(config.attributed_fn_args if attributed_fn is None else attributed_fn_args or {}),
            attribute_target=config.attribute_target,
            batch_size=config.explicit_batch_size,
            seed=config.seed if seed is None else seed,
            show_progress=False,
            contrast_force_inputs=config.contrast_force_inputs,
            **{**config.method_options.get(method, {}), **(options or {})},
        )

    def _free_memory(self) -> None:
        gc.collect()
        devices.synchronize(self.model.device)
        devices.empty_cache()


def _finite(values: Tensor) -> tuple[float | None, ...]:
    return tuple(float(v) if math.isfinite(v) else None for v in values.tolist())
