"""The rows of an evaluation as the model reads them, and the values of step functions: what comes before methods."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attriflow.engine.masked import use_masked_lm
from attriflow.errors import InputError, NotFiniteError, reason_of
from attriflow.evaluation.config import EvaluationConfig
from attriflow.evaluation.data import EvaluationData, encoded
from attriflow.evaluation.identity import examples_digest
from attriflow.evaluation.rationale import in_template, rationale_matrix
from attriflow.evaluation.results import StepScores
from attriflow.evaluation.work import Work
from attriflow.models.contrast import add_foil
from attriflow.registry import step_functions
from attriflow.texts.target_spans import with_spans
from attriflow.types import Example

if TYPE_CHECKING:
    from attriflow.model import AttributionModel

STEPS = "steps"
"""The unit of all step functions."""
_logger = logging.getLogger(__name__)


class Prepared:
    """Examples, their evidence, and their step scores, once `_prepare` has run."""

    def __init__(self, model: AttributionModel, data: EvaluationData, config: EvaluationConfig, work: Work) -> None:
        self.model, self.data, self.config, self.work = model, data, config, work
        self.examples: list[Example] = []
        self.rationales: list[Tensor | None] = []
        self.step_scores: list[StepScores] = []
        self._step_tensors: list[dict[str, Tensor]] = []
        self._why_not = ""
        self._left_out: dict[int, str] = {}
        self._read = ""

    @property
    def step_tensors(self) -> Sequence[dict[str, Tensor]]:
        """Values of step functions `[step]`, by name, for each example."""
        return self._step_tensors

    @property
    def n_tokens(self) -> int:
        """Explained tokens in the data set, alone or in spans."""
        return sum(e.n_tokens for e in self.examples)

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
        self._read = examples_digest(self.examples)
        self.step_scores = self._known_steps() if STEPS in self.work else self._score_steps()
        self._keep_steps()

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
        self._leave_out(wrong)
        return True

    def _leave_out(self, wrong: Mapping[int, str]) -> None:
        """Go on without some of the examples, by their places."""
        self._left_out |= {self.data.numbers[i]: why for i, why in wrong.items()}
        self.data = self.data.without(wrong)
        self.examples = [e for i, e in enumerate(self.examples) if i not in wrong]
        self.rationales = [r for i, r in enumerate(self.rationales) if i not in wrong]

    def _known_steps(self) -> list[StepScores]:
        """The values of step functions that an earlier process found, and what it left out."""
        found = self.work.record(STEPS)
        if found["examples"] != self._read:
            raise InputError(
                "cannot resume the evaluation: its rows are tokenised or generated otherwise than they were (another "
                "tokenizer or chat template, or generation that came out differently on another machine)"
            )
        left_out = {int(number): why for number, why in found["left_out"].items()}
        self._leave_out({i: left_out[n] for i, n in enumerate(self.data.numbers) if n in left_out})
        self._why_not = found["why_not"]
        self._step_tensors = [
            {name: torch.tensor(values, dtype=getattr(torch, dtype)) for name, (dtype, values) in row.items()}
            for row in found["values"]
        ]
        return self._as_step_scores(found["reasons"])

    def _keep_steps(self) -> None:
        if STEPS not in self.work:
            rows = [
                {n: (str(t.dtype).removeprefix("torch."), t.tolist()) for n, t in r.items()} for r in self._step_tensors
            ]
            reasons = {s.name: s.reason for s in self.step_scores if s.reason}
            found = {"left_out": self._left_out, "why_not": self._why_not, "reasons": reasons, "values": rows}
            self.work.put(STEPS, {**found, "examples": self._read})

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
        return self._as_step_scores(reasons)

    def _as_step_scores(self, reasons: Mapping[str, str]) -> list[StepScores]:
        return [
            StepScores(
                name=name,
                unit=str(step_functions.info(name).meta.get("unit", "")),
                values=()
                if name in reasons
                else tuple(_finite(t[name]) if name in t else () for t in self._step_tensors),
                reason=reasons.get(name, ""),
            )
            for name in self.config.step_functions
        ]

    def _check_logits(self) -> None:
        """Raise the error that was found when the model was read first."""
        if self._why_not:
            raise NotFiniteError(self._why_not)

    def _steps(self, wanted: dict[str, Any]) -> list[dict[str, Tensor]]:
        """Values of step functions; also without any, for the model's logits are checked on the way."""
        config = self.config
        return self.model.score_steps(self.examples, wanted, batch_size=config.explicit_batch_size, seed=config.seed)


def _finite(values: Tensor) -> tuple[float | None, ...]:
    return tuple(float(v) if math.isfinite(v) else None for v in values.tolist())
