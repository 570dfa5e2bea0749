"""Runs an evaluation and yields each result as soon as it exists."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from attriflow.engine.job import of_a_span
from attriflow.errors import reason_of
from attriflow.evaluation.chance import RANDOM_TOKENS, chance, curved
from attriflow.evaluation.changes import target_function
from attriflow.evaluation.choices import choices
from attriflow.evaluation.circularity import token_of
from attriflow.evaluation.config import EvaluationConfig
from attriflow.evaluation.data import EvaluationData
from attriflow.evaluation.multiverse import Multiverse
from attriflow.evaluation.planning import Plan, make_plan, say
from attriflow.evaluation.preparing import Prepared
from attriflow.evaluation.rationale import rationale_size
from attriflow.evaluation.reexplaining import Reexplainer, spread
from attriflow.evaluation.rescoring import VariantScorer
from attriflow.evaluation.results import (
    Attributed,
    Event,
    Finished,
    MethodResult,
    StepScored,
    facts_of,
    summarised,
)
from attriflow.evaluation.scoring import Failed, MetricRunner, Seeded, Values
from attriflow.evaluation.selection import part_of
from attriflow.evaluation.tables import Valued, each_value
from attriflow.evaluation.twins import Explanations, without_sign
from attriflow.evaluation.work import (
    BLOCK,
    Work,
    WorkError,
    read_seeded,
    read_values,
    scored_of,
    scored_record,
    unit_of,
)
from attriflow.kernels import devices
from attriflow.measuring.cost import Cost, measure, old_objects_uncollected
from attriflow.progress import Meter
from attriflow.registry import PartInfo, methods, metrics
from attriflow.types import Attribution, Example

if TYPE_CHECKING:
    from attriflow.model import AttributionModel

TRY_FROM = 8
"""Examples from which one explanation more per method is little."""
STEPS = "steps"
"""The unit of all step functions."""
_logger = logging.getLogger(__name__)


class Evaluation(Prepared):
    """Methods x metrics x step functions over one data set and one model, block by block.

    `run` yields events; at any time `results` and `step_scores` hold what is known so far. `chance` has the curves of
    random tokens, in the end and where a metric has curves. With a folder to work in, `results` have the attributions
    of their first block, and no curves; `explanations` and `curves` read them back.
    """

    def __init__(
        self,
        model: AttributionModel,
        data: EvaluationData,
        config: EvaluationConfig,
        work: Work | None = None,
        elsewhere: Callable[[Evaluation], Mapping[str, float]] | None = None,
    ) -> None:
        """Prepare.

        Args:
            model: What is explained.
            data: The rows.
            config: Checked settings.
            work: What is known already, and where what is found is kept; by default, nothing and in memory.
            elsewhere: Fills `work` with what workers find, where there are several blocks, see `blocks.fill`. Returns
                examples per second of each.
        """
        super().__init__(model, data, config, work or Work())
        self.blocks: list[range] = []
        self.elsewhere, self.pace = elsewhere, dict[str, float]()
        self.results: list[MethodResult] = []
        self.metric_options: dict[str, dict[str, Any]] = {}
        self.plan: Plan | None = None
        self.chance: MethodResult | None = None
        self.multiverse: Multiverse | None = None
        self._runner: MetricRunner | None = None
        self._of_blocks: dict[int, MetricRunner] = {}
        self._explaining = self._in_worlds = self._rescored_in_worlds = 0.0
        self._spent = {"metrics": 0.0, "rescoring": 0.0}  # by runners of blocks that are gone
        self._tried: set[str] = set()
        self._explained = Explanations()
        self._meter = Meter("units of work", None, show=False)  # of workers, the driver counts blocks

    def run(self) -> Iterator[Event]:
        """Encode (or generate), then step functions, then every method with its metrics."""
        with old_objects_uncollected():
            yield from self._run()

    def _run(self) -> Iterator[Event]:
        self._prepare()
        yield StepScored(self.step_scores)
        size = len(self.examples) if self.config.multiverse else BLOCK
        self.blocks = [range(i, min(i + size, len(self.examples))) for i in range(0, len(self.examples), max(1, size))]
        self._runner = runner = self._metric_runner()
        if not self._why_not:
            if self.work.resumed:
                say(f"resumed: {self.work.resumed} units of an earlier process are done")
            else:
                self._make_plan(runner)
            self.multiverse = self._make_multiverse(runner.scorer) if self.config.multiverse else None
        if self.elsewhere is not None and self.work.lasting and not self._why_not:
            if len(self.blocks) > 1:
                self.pace = dict(self.elsewhere(self))
            else:
                say(f"up to {BLOCK} examples are one unit: this process does it")
        elif self.config.throughput and not self.work.resumed:
            self.model.teacher_forced(self.examples, batch_size=self.config.explicit_batch_size)  # warm-up
        pairs = list(itertools.product(self.config.methods, range(len(self.blocks))))
        units = [unit_of(kind, *pair) for kind in ("explain", "score") for pair in pairs]
        self._meter = Meter("units of work", len(units), sum(unit in self.work for unit in units))
        with self._meter:
            for name in self.config.methods:
                result = MethodResult(name=name)
                self.results.append(result)
                if self._attribute(result):
                    yield Attributed(result)
                    self._score(result)
                    result.same_as, result.unsigned = self._explained.first_alike(result), without_sign(result)
                explained = result.attributions  # whoever hears of the result may shorten them
                yield Finished(result)
                self.work.release()
                self._in_other_worlds(result, explained)
        if any(result.ok for result in self.results):
            self.chance = self._chance()
        say(f"time: {', '.join(f'{seconds:.1f} s {what}' for what, seconds in self.seconds.items() if seconds)}")

    def explanations(self, method: str) -> Iterator[Attribution]:
        """All explanations of a method that has explained the data set, a block in memory at a time."""
        if not self.work.lasting:
            yield from next(result.attributions for result in self.results if result.name == method)
            return
        for number in range(len(self.blocks)):
            yield from self.work.attributions(unit_of("explain", method, number))

    def curves(self) -> Iterator[Valued]:
        """The values that have curves, those of random tokens last."""
        results = [*self.results, *filter(None, [self.chance])]
        if not self.work.lasting:
            yield from each_value(results)
            return
        for result in results:
            for metric in curved(self._whole) if result.values else ():
                for number, block in enumerate(self.blocks):
                    record = self.work.record(unit_of("score", result.name, number))["values"]
                    found = read_values({metric: record[metric]})[metric]
                    yield from ((result.name, metric, i, v) for i, v in zip(block, found, strict=True))

    @property
    def seconds(self) -> dict[str, float]:
        """Where the time went so far; all but the last is the model's."""
        runners = {id(r): r for r in (self._runner, *self._of_blocks.values()) if r is not None}.values()
        rescored = self._spent["rescoring"] + sum(r.scorer.seconds for r in runners)
        again = self._runner.reexplainer.seconds if self._runner and self._runner.reexplainer else 0.0
        in_all = self._spent["metrics"] + sum(r.seconds for r in runners)
        return {
            "explaining": self._explaining,
            "explaining again": again,
            "scoring changed inputs": rescored,
            "in metrics (ferret, numpy)": max(0.0, in_all - (rescored - self._rescored_in_worlds) - again),
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
            self.plan = make_plan(
                self.model, self.examples, explained, runner, options, self.config.explicit_batch_size
            )
        except Exception as error:
            _logger.debug("no plan: %s", error)  # whatever is wrong is reported by the part that fails
            return
        if tried:
            self._tried = set(self.config.methods) - set(self.plan.untried)
            if self.plan.untried:
                self._free_memory()
        say(str(self.plan))

    def _metric_runner(self) -> MetricRunner:
        """For the whole data set: what is planned, and what explains again."""
        config = self.config
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
        return self._runner_for(range(len(self.examples)), reexplainer)

    @property
    def _whole(self) -> MetricRunner:
        """The metrics of the whole data set."""
        if self._runner is None:
            raise RuntimeError("the evaluation has not begun")
        return self._runner

    def _runner_for(self, block: range, reexplainer: Reexplainer | None) -> MetricRunner:
        config = self.config
        part = slice(block.start, block.stop)
        scorer = VariantScorer(
            self.model,
            self.examples[part],
            attribute_target=config.attribute_target,
            batch_size=config.explicit_batch_size,
        )
        parts = [metrics.info(n) for n in config.metrics]
        rationales = self.rationales[part]
        return MetricRunner(parts, self.metric_options, scorer, rationales, config.fail_fast, reexplainer)

    def _runner_of(self, number: int) -> MetricRunner:
        """The metrics of a block, which know what units before have found about changed inputs."""
        if number not in self._of_blocks:
            if self.work.lasting:  # one block is held
                for gone in self._of_blocks.values():
                    self._spent["metrics"] += gone.seconds
                    self._spent["rescoring"] += gone.scorer.seconds
                self._of_blocks = {}
            alone = len(self.blocks) == 1
            runner = self._whole if alone else self._runner_for(self.blocks[number], self._whole.reexplainer)
            for unit in self.work:
                if alone or unit.endswith(f"/{number}"):
                    runner.scorer.take(self.work.scores(unit))
            self._of_blocks[number] = runner
        return self._of_blocks[number]

    def _score(self, result: MethodResult) -> None:
        """Values of all metrics for a method that has explained the data set."""
        values: Values = {}
        failed: Failed = {}
        for number, block in enumerate(self.blocks):
            found, wrong = self._scored(result.name, number)
            for name in found:
                values.setdefault(name, []).extend(found[name])
                failed.setdefault(name, {}).update({block[i]: why for i, why in wrong[name].items()})
        more, seeded = self._again(result, values, failed)
        self._whole.conclude(result, more, failed, seeded)

    def _scored(self, method: str, number: int) -> tuple[Values, Failed]:
        """Values of the metrics that do not explain again, for a block, and the places of examples that failed."""
        unit = unit_of("score", method, number)
        if unit not in self.work:
            runner = self._runner_of(number)
            known = runner.scorer.n_known
            values, failed = runner.scored(self.work.attributions(unit_of("explain", method, number)))
            record = {**scored_record(values, failed), "spent": runner.spent}
            self.work.put(unit, record, scores=runner.scorer.known(known))
            self._meter.advance()
            if not self.work.lasting:
                return values, failed
        return scored_of(self.work.record(unit))

    def _again(self, result: MethodResult, values: Values, failed: Failed) -> tuple[Values, Seeded]:
        """The values of all metrics; those that explain again do so for their sample, whatever the blocks are."""
        runner, unit = self._whole, unit_of("again", result.name)
        if runner.reexplainer is None or unit not in self.work:
            sample = () if runner.reexplainer is None else runner.reexplainer.sample
            if len(self.blocks) == 1:
                self._runner_of(0)  # the same, with what units before have found
            known = runner.scorer.n_known
            found, seeded = runner.again(result, self._explained_by(result.name, sample), values, failed)
            if runner.reexplainer is not None:
                own = {name: found[name] for name in found if name not in values}
                scores = runner.scorer.known(known)
                if len(self.blocks) > 1:
                    runner.scorer.forget()  # what one method asks for must not matter to another
                    scores = {}
                record = scored_record(own, {n: failed[n] for n in own})
                self.work.put(unit, {**record, "seeded": seeded, "spent": runner.spent}, scores=scores)
            return found, seeded
        record = self.work.record(unit)
        own, wrong = scored_of(record)
        failed |= wrong
        known_values = {**values, **own}
        return {name: known_values[name] for name in runner.metrics}, read_seeded(record["seeded"])

    def _explained_by(self, method: str, sample: Sequence[int]) -> dict[int, Attribution]:
        """Explanations of some examples."""
        out = dict[int, Attribution]()
        for number, block in enumerate(self.blocks):
            if wanted := [i for i in sample if i in block]:
                found = self.work.attributions(unit_of("explain", method, number))
                out |= {i: found[i - block.start] for i in wanted}
        return out

    def _chance(self) -> MethodResult | None:
        """Curves of random tokens, see `attriflow.evaluation.chance`."""
        whole: MethodResult | None = None
        for number, block in enumerate(self.blocks):
            unit = unit_of("score", RANDOM_TOKENS, number)
            if unit not in self.work:
                runner = self._runner_of(number)
                if not curved(runner):
                    return None
                found = chance(runner, self.examples[block.start : block.stop])
                values = {} if found is None else found.values
                self.work.put(unit, scored_record(values, {n: {} for n in values}))
            if self.work.lasting:
                values = scored_of(self.work.record(unit))[0]
            whole = whole or MethodResult(name=RANDOM_TOKENS, family="control")
            for name, more in values.items():
                whole.values.setdefault(name, []).extend(more)
        return whole

    def _in_other_worlds(self, result: MethodResult, explained: Sequence[Attribution]) -> None:
        unit, worlds = unit_of("worlds", result.name), self.multiverse
        if worlds is None:
            return
        if unit in self.work:
            worlds.take(result.name, self.work.record(unit)["rows"])
            return
        runner = self._runner_of(0) if result.ok else self._whole
        began, before, known = time.perf_counter(), runner.scorer.seconds, runner.scorer.n_known
        worlds.add(result, explained)
        rescored = runner.scorer.seconds - before
        self._rescored_in_worlds += rescored
        self._in_worlds += time.perf_counter() - began - rescored
        self.work.put(unit, {"rows": worlds.told(result.name)}, scores=runner.scorer.known(known))

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
        config, begin, failed = self.config, time.perf_counter(), unit_of("failed", result.name)
        try:
            self._check_logits()
            part = methods.info(part_of(result.name))
            result.family = part.meta["family"]
            result.options = {**part.options, **config.method_options.get(result.name, {})}
            if failed in self.work:
                result.fail(self.work.record(failed)["reason"])
            else:
                parts = [self._explain_block(result.name, number) for number in range(len(self.blocks))]
                result.cost = Cost.of_blocks([cost for cost, _ in parts], self.n_tokens)
                result.facts = summarised([facts for _, facts in parts])
                result.attributions = self._first_explanations(result.name)
        except Exception as error:
            if config.fail_fast or isinstance(error, WorkError):
                raise
            _logger.debug("method '%s' failed", result.name, exc_info=True)
            result.fail(reason_of(error))
            self.work.put(failed, {"reason": result.reason})
        self._explaining += time.perf_counter() - begin
        if not result.ok:
            self._free_memory()  # out of the except block, where the error would still hold on to it
        return result.ok

    def _explain_block(self, method: str, number: int) -> tuple[Cost, Mapping[str, Any]]:
        """Explain a block; its cost, and the facts that a card shows."""
        unit, config, block = unit_of("explain", method, number), self.config, self.blocks[number]
        if unit in self.work:
            record = self.work.record(unit)
            return Cost(**{**record["cost"], "rounds": tuple(record["cost"]["rounds"])}), record["facts"]
        examples, steps = self.examples[block.start : block.stop], self._step_tensors[block.start : block.stop]

        def warm_up() -> object:
            return self._explain(method, [min(examples, key=lambda e: len(e.target))])

        with self.model.lock:  # no waiting in what is timed
            began = time.time()
            attributions, cost = measure(
                lambda: self._explain(method, examples),
                lambda: self.model.teacher_forced(examples, batch_size=config.explicit_batch_size),
                n_tokens=sum(e.n_tokens for e in examples),
                places=self.model.wrapped.devices,
                throughput=config.throughput,
                warm_up=None if number or method in self._tried else warm_up,
                repeats=not number,
            )
        facts = facts_of(attributions)
        made = [self._completed(a, scores) for a, scores in zip(attributions, steps, strict=True)]
        self.work.put(unit, {"cost": dataclasses.asdict(cost), "facts": facts, "began": began}, attributions=made)
        self._meter.advance()
        return cost, facts

    def _first_explanations(self, method: str) -> list[Attribution]:
        """All that are in memory anyway: those of the first block, or of every block."""
        numbers = [0] if self.work.lasting else range(len(self.blocks))
        return [a for number in numbers for a in self.work.attributions(unit_of("explain", method, number))]

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
