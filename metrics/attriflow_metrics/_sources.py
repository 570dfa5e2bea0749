"""Sources of a response: the parts of the given text that are scored, and ablated, as wholes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import numpy as np
from torch import Tensor

from attriflow.types import Attribution
from attriflow_metrics._answer import WHOLE, Answer, answer_step
from attriflow_metrics._changes import Ask
from attriflow_metrics._steps import Step

Unit = Literal["token", "word", "sentence", "paragraph", "segment", "turn"]
CONSTANT = "constant scores"
ONE_SOURCE = "a single source has no order"


@dataclass(frozen=True, slots=True, eq=False)
class Sources(Step):
    """The explanation of a response by sources: `scores` has one number per source, `members` each one's inputs."""

    members: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class FromSources(Answer):
    """Base of the metrics that ablate sources and read the log-probability of the whole response, in nats.

    Attributes:
        unit: What a source is: "token", "word", "sentence", "paragraph", "segment" (of `segments=`) or "turn" (chats).
            Its score is the sum of its tokens' scores; their mean where the method scored units itself, whose tokens
            have the score of all.
    """

    unit: Unit = "token"
    in_nats: ClassVar[bool] = True

    def answer(self, attribution: Attribution) -> tuple[Step, str]:
        """The explanation by sources, or why there is nothing to measure."""
        step, reason = answer_step(attribution)
        if reason:
            return step, reason
        units = attribution.units(self.unit)
        members: dict[int, list[int]] = {}
        for i in step.inputs:
            members.setdefault(units[i], []).append(i)
        score = dict(zip(step.inputs, step.scores.tolist(), strict=True))
        reduce = np.sum if attribution.provenance.options.get("unit", "token") == "token" else np.mean
        scores = np.array([reduce([score[i] for i in inputs]) for inputs in members.values()])
        sources = Sources(WHOLE, step.inputs, scores, tuple(map(tuple, members.values())))
        return sources, self.undefined(sources) or ""

    def reduced(self, total: Tensor, n_tokens: int) -> Tensor:
        """The log-probability of the response, `[variant]`."""
        return total

    def without(self, step: Step, gone: Iterable[int]) -> Ask:
        """The input without some sources, given by their numbers."""
        members = cast("Sources", step).members
        absent = {i for number in gone for i in members[number]}
        return Ask(tuple(i for i in step.inputs if i not in absent), how=self.how)
