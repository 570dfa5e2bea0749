"""What metrics that change inputs share: plan the changes, score them in one call, measure step by step."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from attriflow.errors import InputError
from attriflow.types import Attribution, Infill, MetricValues, Perturbation, Rescore, Variant
from attriflow_metrics._steps import NO_INPUT, Step, removable, select

How = Literal["delete", "mask", Infill, "baseline", "unk", "pad", "eos", "bos", "mask_token"] | int
"""What removing a token may mean, see `Rescore`."""
MODEL_NAN = "the model's score is NaN"
TOO_SMALL = "the span is too improbable for a number; of span_value='mean', probabilities are those of a token"
LEAST = math.log(2.0**-1000)
"""Log-probabilities below are those of spans whose probability is 0 in float64, or nearly so."""
SATURATED, ROUNDING = 1e-4, 1e-3
"""Probabilities this near to 1, and differences of this part of the largest probability, are near float32's rounding:
log-softmax errs by some 1e-6 there, in log space as well."""
Curve = tuple[tuple[float, float], ...]


class Ask(NamedTuple):
    """A changed input of a step.

    Attributes:
        kept: Indices of the step's inputs that stay, ascending.
        chances: For "soft": the chance of each of the step's inputs to stay; `kept` is not looked at then.
        how, draw: See `Rescore`.
    """

    kept: tuple[int, ...] = ()
    chances: tuple[float, ...] = ()
    how: Perturbation = "delete"
    draw: int = 0

    def mask(self, step: Step, n: int) -> list[float]:
        """`keep` of all `n` inputs of the attribution: what the step's inputs do not cover stays."""
        mask: list[float] = [True] * n  # plain lists: for rows this short twenty times faster than indexing arrays
        if self.chances:
            for i, chance in zip(step.inputs, self.chances, strict=True):
                mask[i] = chance
            return mask
        for i in step.inputs:
            mask[i] = False
        for i in self.kept:
            mask[i] = True
        return mask


class Measured(NamedTuple):
    """What a metric says about a step: a value, or the reason why there is none, and the curve behind it."""

    value: float | None
    reason: str = ""
    curve: Curve = ()


class Answers(dict[Ask, float]):
    """Log-probabilities of one step by changed input; what was not planned is asked for when it is looked up.

    Attributes:
        several: Whether they are those of several tokens together.
    """

    def __init__(self, attribution: Attribution, step: Step, asker: _Asker) -> None:
        super().__init__()
        self.attribution, self.step, self.asker = attribution, step, asker
        self.several = bool(attribution.provenance.span_value)

    def __missing__(self, ask: Ask) -> float:
        """Ask for one more."""
        self[ask] = self.asker.score([(self.step, ask)])[0]
        return self[ask]

    def probability(self, ask: Ask) -> float:
        """Probability instead of its logarithm."""
        return math.exp(self[ask])

    def saturated(self, ask: Ask) -> bool:
        """Whether a probability is so near to 1 that the order of small drops from it is one of rounding errors."""
        return math.exp(self[ask]) > 1 - SATURATED


@dataclass
class _Asker:
    """Asks `rescore` for changes of any kind, as few calls as there are kinds."""

    rescore: Rescore
    n_inputs: int

    def score(self, asked: Sequence[tuple[Step, Ask]]) -> list[float]:
        """Log-probabilities (nats), in order."""
        kinds: dict[tuple[Perturbation, int], list[int]] = {}
        for number, (_, ask) in enumerate(asked):
            kinds.setdefault((ask.how, ask.draw), []).append(number)
        out = [math.nan] * len(asked)
        for (how, draw), numbers in kinds.items():
            masks = [asked[i][1].mask(asked[i][0], self.n_inputs) for i in numbers]
            keep = torch.tensor(masks, dtype=torch.float64 if how == "soft" else torch.bool)
            steps = [asked[i][0].index for i in numbers]
            more: dict[str, Any] = {"draw": draw} if how == "soft" else {}
            for i, value in zip(numbers, self.rescore(keep, steps, how=how, **more).tolist(), strict=True):
                out[i] = float(value)
        return out


@dataclass(frozen=True, kw_only=True)
class FromChanges:
    """Base of the metrics that score changed inputs, one step at a time."""

    none: ClassVar[str] = NO_INPUT
    """The reason for a step without inputs to change."""
    in_nats: ClassVar[bool] = False
    """Log-probabilities are read as they are, however small."""

    @abstractmethod
    def asked(self, step: Step) -> Iterable[Ask]:
        """The changed inputs that `measure` will look up."""

    @abstractmethod
    def measure(self, step: Step, answers: Answers) -> Measured:
        """The value of a step."""

    def undefined(self, step: Step) -> str | None:
        """The reason why no changed input can give this step a value, or None."""
        return None

    def steps(self, attribution: Attribution) -> tuple[list[Step], dict[int, str]]:
        """The steps that can be measured, and the reasons for the others."""
        steps, skipped = select(attribution, removable, none=self.none)
        skipped.update({step.index: reason for step in steps if (reason := self.undefined(step)) is not None})
        return [step for step in steps if step.index not in skipped], skipped

    def _asked(self, steps: Sequence[Step]) -> list[tuple[Step, Ask]]:
        return [(step, ask) for step in steps for ask in dict.fromkeys(self.asked(step))]

    def plan(self, attribution: Attribution) -> list[Variant]:
        """The changed inputs that a call will score, each once.

        In canonical form, so that metrics, methods and thresholds share cached scores: `keep` is True for every input
        that this metric cannot remove at that step (special tokens, the decoder prefix of an encoder-decoder) and for
        every input that the step does not see. The unchanged input is part of the plan.
        """
        n = len(attribution.inputs)
        return [
            Variant(keep=tuple(ask.mask(step, n)), step=step.index, how=ask.how, draw=ask.draw)
            for step, ask in self._asked(self.steps(attribution)[0])
        ]

    def __call__(
        self, attribution: Attribution, rescore: Rescore | None, rationale: Tensor | None = None
    ) -> MetricValues:
        """Evaluate every step.

        Args:
            attribution: Scores `[step, input]` (other axes are reduced by `token_scores`).
            rescore: Scores the explained tokens under changed inputs; called once per kind of change, with the plan.
            rationale: Not used.

        Returns:
            One value per step, or the reason why there is none.
        """
        if rescore is None:
            raise InputError(f"{type(self).__name__} needs `rescore`, a function that scores changed inputs")
        steps, skipped = self.steps(attribution)
        asker = _Asker(rescore, len(attribution.inputs))
        answers = {step.index: Answers(attribution, step, asker) for step in steps}
        asked = self._asked(steps)
        for (step, ask), value in zip(asked, asker.score(asked) if asked else [], strict=True):
            answers[step.index][ask] = value
        found = {step.index: self._measured(step, answers[step.index]) for step in steps}
        return collected(len(attribution.targets), found, skipped)

    def _measured(self, step: Step, answers: Answers) -> Measured:
        if any(map(math.isnan, answers.values())):
            return Measured(None, MODEL_NAN)
        if answers.several and not self.in_nats and answers and max(answers.values()) < LEAST:
            return Measured(None, TOO_SMALL)
        measured = self.measure(step, answers)
        if measured.value is not None and math.isnan(measured.value):
            return Measured(None, MODEL_NAN)
        return measured


@dataclass(frozen=True, kw_only=True)
class Removal(FromChanges):
    """Base of the metrics that remove tokens.

    Attributes:
        perturbation: What removing a token means, see `Rescore`.
    """

    perturbation: How = "delete"

    @property
    def how(self) -> How:
        """As `rescore` calls it."""
        return self.perturbation

    def whole(self, step: Step) -> Ask:
        """The unchanged input."""
        return Ask(step.inputs, how=self.how)

    def without_one(self, step: Step) -> list[Ask]:
        """The input without each of the step's inputs, in order."""
        inputs = step.inputs
        return [Ask(inputs[:i] + inputs[i + 1 :], how=self.how) for i in range(len(inputs))]


def collected(n_steps: int, found: dict[int, Measured], skipped: dict[int, str]) -> MetricValues:
    """What was measured, in the form that metrics return; a value that is not finite is none."""
    skipped = dict(skipped)
    values: list[float | None] = [None] * n_steps
    for step, measured in found.items():
        if measured.value is None:
            skipped[step] = measured.reason
        elif math.isinf(measured.value):
            skipped[step] = "not finite"
        else:
            values[step] = float(measured.value)
    curves = {step: m.curve for step, m in found.items() if m.curve and values[step] is not None}
    return MetricValues(values=tuple(values), skipped=skipped, curves=curves)
