"""Which inputs of an attribution a metric looks at, step by step, and with which scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from attriflow.types import Attribution

NOT_FINITE = "scores are not finite"
NO_INPUT = "no input to remove"


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """The explanation of one target step, restricted to the inputs a metric looks at.

    Attributes:
        index: The step.
        inputs: Indices into the attribution's inputs, ascending.
        scores: Their scores, float64 `[inputs]`.
    """

    index: int
    inputs: tuple[int, ...]
    scores: np.ndarray


def prefix(attribution: Attribution, step: int) -> list[int]:
    """Inputs that a step can see: the whole source, and decoder tokens before the explained one."""
    n_source = sum(token.segment == "source" for token in attribution.inputs)
    return list(range(min(len(attribution.inputs), n_source + attribution.positions(step)[1] - 1)))


def removable(attribution: Attribution, step: int) -> tuple[int, ...]:
    """Inputs that a faithfulness metric may remove: never special tokens.

    Decoder-only: the tokens of the prefix, given or generated. Encoder-decoder: the source tokens; the decoder prefix
    stays as it is, also when it was attributed.
    """
    inputs = attribution.inputs
    encoder = any(token.segment == "source" for token in inputs)
    visible = prefix(attribution, step)
    return tuple(i for i in visible if not inputs[i].special and (inputs[i].segment == "source" or not encoder))


def annotated(attribution: Attribution, step: int) -> tuple[int, ...]:
    """Inputs that a rationale speaks about: visible, not special, of the given text (source or prompt)."""
    inputs = attribution.inputs
    visible = prefix(attribution, step)
    return tuple(i for i in visible if not inputs[i].special and inputs[i].segment != "generated")


def select(
    attribution: Attribution, inputs_of: Callable[[Attribution, int], tuple[int, ...]], *, none: str
) -> tuple[list[Step], dict[int, str]]:
    """The steps that can be evaluated, and the reasons why the others cannot.

    Args:
        attribution: What to evaluate.
        inputs_of: `removable` or `annotated`.
        none: The reason for a step without such inputs.

    Returns:
        Steps with finite scores, and step -> reason for the rest.
    """
    scores = attribution.token_scores().detach().double().cpu().numpy()
    steps, skipped = [], {}
    for index in range(len(attribution.targets)):
        inputs = inputs_of(attribution, index)
        chosen = scores[index, list(inputs)]
        if not inputs:
            skipped[index] = none
        elif not np.isfinite(chosen).all():
            skipped[index] = NOT_FINITE
        else:
            steps.append(Step(index, inputs, chosen))
    return steps, skipped


def ranks(scores: np.ndarray) -> np.ndarray:
    """Dense ranks from 1: positive numbers in the same order, ties kept.

    ferret's `only_pos=False` raises with numpy 1.25 and later when it compares an array with a list. Where only the
    order of the scores matters, its default gives the intended number on positive numbers in that order. Ranks keep the
    order of tiny scores too, which adding a constant would round away.
    """
    return np.unique(scores, return_inverse=True)[1].reshape(-1) + 1.0
