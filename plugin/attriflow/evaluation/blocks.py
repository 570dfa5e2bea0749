"""Blocks of an evaluation on workers, whose results the driver puts where it would have put its own.

A block with all methods is one unit: methods share scores of changed inputs, so their order within a block decides how
numbers are rounded. Whoever evaluates reads the units afterwards; what is lacking it does itself.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from attriflow.engine.masked import use_masked_lm
from attriflow.errors import InputError, no_memory, reason_of
from attriflow.evaluation.config import EvaluationConfig
from attriflow.evaluation.data import EvaluationData
from attriflow.evaluation.identity import weights_digest
from attriflow.evaluation.planning import say
from attriflow.evaluation.runner import Evaluation
from attriflow.evaluation.selection import part_of
from attriflow.evaluation.work import Work, unit_of
from attriflow.measuring.cost import old_objects_uncollected
from attriflow.progress import Meter
from attriflow.registry import methods, metrics
from attriflow.types import Attribution, Example
from attriflow.workers import Done, Pace, Unit, run_units

if TYPE_CHECKING:
    from attriflow.model import AttributionModel

VOID: dict[str, Any] = {"values": {}, "failed": {}}
"""Scores of a method that failed in another block: none."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What `Work.put` gets for a unit."""

    unit: str
    record: Mapping[str, Any]
    attributions: Sequence[Attribution] | None
    scores: Mapping[str, np.ndarray] | None


@dataclass(frozen=True, kw_only=True)
class Filled:
    """What a worker found for a block.

    Attributes:
        found: Of its units.
        no_memory: Whether memory ran out for a method or a metric, and there is use in trying again elsewhere.
    """

    found: list[Found]
    no_memory: bool


@dataclass(frozen=True, kw_only=True)
class Block:
    """Some of the examples, and all that the driver knows about them.

    Attributes:
        number: Which block.
        data: Its rows.
        examples, rationales, steps: Of its rows, see `Prepared`.
        without: Methods that have failed in another block, and are left out.
        failed: Others that have, since: another try elsewhere would not save them.
    """

    number: int
    data: EvaluationData
    examples: list[Example]
    rationales: list[Tensor | None]
    steps: list[dict[str, Tensor]]
    without: frozenset[str]
    failed: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class BlockExplainer:
    """Makes what does blocks (a factory of `run_units`).

    Attributes:
        load: Loads the model.
        weights: Digest of its weights.
        config: Settings of the evaluation.
        metric_options: Options of metrics, some of which depend on all rows.
    """

    load: Callable[[], AttributionModel]
    weights: str
    config: EvaluationConfig
    metric_options: Mapping[str, Mapping[str, Any]]

    def __call__(self) -> Callable[[Block], Filled]:
        """Load the model."""
        for names, registry in ((map(part_of, self.config.methods), methods), (self.config.metrics, metrics)):
            for name in names:
                registry.info(name)  # what a script of the driver has registered is not here
        model = self.load()
        if weights_digest(model.model) != self.weights:
            raise InputError(f"a worker finds other weights under {model.wrapped.name} than this process has")
        if self.config.masked_lm is not None:
            use_masked_lm(model, self.config.masked_lm)
        return partial(_done, model, self.config, self.metric_options)


class _Sent(Work):
    """Keeps everything to send it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Found] = []

    def put(
        self,
        unit: str,
        record: Mapping[str, Any],
        attributions: Sequence[Attribution] | None = None,
        scores: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Keep what a unit found, see `Work`."""
        super().put(unit, record, attributions, scores)
        self.found.append(Found(unit=unit, record=dict(record), attributions=attributions, scores=scores))


class _OneBlock(Evaluation):
    """The evaluation as it is between its first and its last block."""

    def __init__(
        self, model: AttributionModel, config: EvaluationConfig, options: Mapping[str, Any], block: Block
    ) -> None:
        # metrics that explain again do so for a sample of the whole data: the driver's
        own = tuple(n for n in config.metrics if "reexplain" not in metrics.info(n).meta["needs"])
        self.sent = _Sent()
        super().__init__(model, block.data, replace(config, metrics=own), self.sent)
        self.examples, self.rationales, self._step_tensors = block.examples, block.rationales, block.steps
        self.blocks = [*[range(0)] * block.number, range(len(block.examples)), range(0)]
        self.metric_options = {name: dict(given) for name, given in options.items()}
        self._runner = self._runner_for(range(0), None)
        self.number, self.without, self.failed = block.number, block.without, block.failed
        self.no_memory = False

    def all_methods(self) -> Filled:
        for name in self.config.methods:
            if name in self.without:
                self.work.put(unit_of("score", name, self.number), VOID)
            elif self._can_explain(name):
                self._scored(name, self.number)
                self.no_memory |= self._runner_of(self.number).no_memory
            else:
                self._free_memory()
        return Filled(found=self.sent.found, no_memory=self.no_memory)

    def _can_explain(self, name: str) -> bool:
        try:
            self._explain_block(name, self.number)
        except Exception as error:
            if self.config.fail_fast:
                raise
            self.no_memory |= no_memory(error) and name not in self.failed
            self.work.put(unit_of("failed", name, self.number), {"reason": reason_of(error)})
            return False
        return True


def _done(
    model: AttributionModel, config: EvaluationConfig, options: Mapping[str, Mapping[str, Any]], block: Block
) -> Filled:
    with old_objects_uncollected():
        return _OneBlock(model, config, options, block).all_methods()


def fill(evaluation: Evaluation, load: Callable[[], AttributionModel]) -> dict[str, float]:
    """Let workers do every block of an evaluation that is not done, and keep what they find.

    Args:
        evaluation: Prepared, with a folder to work in.
        load: Loads the model where a worker is.

    Returns:
        Examples per second of each worker, while it worked, and "in all", from the start of the workers on.

    Raises:
        InputError: The settings cannot be sent, or blocks have lost their workers. All others are kept then.
    """
    config, work, pace = evaluation.config, evaluation.work, Pace()
    begin, n = time.perf_counter(), 0
    made = BlockExplainer(
        load=load,
        weights=weights_digest(evaluation.model.model),
        config=config,
        metric_options=evaluation.metric_options,
    )
    try:
        pickle.dumps(made)
    except Exception as error:
        raise InputError(f"engine '{config.engine}' cannot send these settings: {reason_of(error)}") from error
    while numbers := _to_do(evaluation):
        failed, lost = set[str](), dict[int, str]()
        units = (Unit(str(number), _block(evaluation, number, failed)) for number in numbers)
        doing = run_units(made, units, engine=config.engine, workers=config.workers, address=config.ray_address)
        every = len(evaluation.examples)
        before = every - sum(len(evaluation.blocks[number]) for number in numbers)
        with closing(doing), Meter("examples", every, before) as meter:
            for done in doing:
                number = int(done.unit.id)
                if done.error is None:
                    for found in _found(done):
                        work.put(found.unit, found.record, found.attributions, found.scores)
                    failed |= {name for name in config.methods if unit_of("failed", name, number) in work}
                    pace.add(done.worker, len(evaluation.blocks[number]), done.seconds)
                    n += len(evaluation.blocks[number])
                elif done.cause is not None:
                    raise done.cause
                else:
                    lost[number] = done.error
                meter.advance(len(evaluation.blocks[number]))
        if lost:
            first = min(lost)
            raise InputError(
                f"{len(lost)} of {len(evaluation.blocks)} blocks are not done ('resume' goes on): block {first} "
                f"{lost[first]}"
            )
    rates = pace.rows_per_second()
    if rates:
        each = ", ".join(f"{worker} {rate:,.1f}" for worker, rate in sorted(rates.items()))
        in_all = n / (time.perf_counter() - begin)
        say(f"{len(rates)} workers, examples/s while they worked: {each}; in all, with their start: {in_all:,.1f}")
        rates["in all"] = in_all
    return rates


def _found(done: Done) -> Iterator[Found]:
    if isinstance(done.result, Filled):
        yield from done.result.found


def _block(evaluation: Evaluation, number: int, failed: Iterable[str]) -> Block:
    block, data = evaluation.blocks[number], evaluation.data
    part = slice(block.start, block.stop)
    return Block(
        number=number,
        data=EvaluationData(inputs=data.inputs[part], targets=None if data.targets is None else data.targets[part]),
        examples=evaluation.examples[part],
        rationales=evaluation.rationales[part],
        steps=list(evaluation.step_tensors[part]),
        without=frozenset(name for name in evaluation.config.methods if unit_of("failed", name) in evaluation.work),
        failed=frozenset(failed),
    )


def _to_do(evaluation: Evaluation) -> list[int]:
    """Blocks that lack a unit; then those whose units are others now that a method is known to have failed."""
    work, names, numbers = evaluation.work, evaluation.config.methods, range(len(evaluation.blocks))

    def is_done(name: str, number: int) -> bool:
        failed = unit_of("failed", name) in work or unit_of("failed", name, number) in work
        return failed or all(unit_of(kind, name, number) in work for kind in ("explain", "score"))

    lacking = [number for number in numbers if not all(is_done(name, number) for name in names)]
    if lacking:
        return lacking
    wrong = set[int]()
    for name in names:
        if unit_of("failed", name) not in work:
            where = [unit for number in numbers if (unit := unit_of("failed", name, number)) in work]
            if not where:
                continue
            work.put(unit_of("failed", name), {"reason": work.record(where[0])["reason"]})
        scored = [number for number in numbers if unit_of("score", name, number) in work]
        wrong |= {number for number in scored if work.record(unit_of("score", name, number))["values"]}
    return sorted(wrong)
