"""How much of an explanation is position."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from attriflow.registry import metrics
from attriflow.statistics.ranks import spearman
from attriflow.types import Attribution, MetricValues, Rescore
from attriflow_metrics._changes import Measured, collected
from attriflow_metrics._steps import NO_INPUT, removable, select

FEWEST = 3


@metrics.register(
    "position_bias",
    family="sanity",
    higher_is_better=None,  # evidence may stand at the end: a diagnostic, shown and not ranked
    range=(-1.0, 1.0),
    needs=(),
    cost="no forward rows",
    source="ours: Spearman's correlation of score and position",
)
@dataclass(frozen=True, kw_only=True)
class PositionBias:
    r"""How far the position of a token alone tells the size of its score; 0 is no bias, and neither end is better.

    $$\rho\big((|s_i|)_i, (i)_i\big)$$

    Spearman's rank correlation over the removable tokens that the step sees. In [-1, 1]: 1 when the size of the scores
    grows from the first token to the last, -1 when it falls. Random scores have a mean of 0 over examples and steps.
    Whether a value is a bias of the method is told by the others beside it: where the evidence itself stands at one
    end, all honest methods are away from 0, and `random` is not. A method whose value does not change with where the
    evidence stands looks at positions. Not ranked. The kept curve is the score by position: the share of $\sum |s|$ at
    each place, places from 0 (first) to 1 (last). Only what rises or falls is seen; scores that are high at both ends
    have a value of 0, and their curve shows it.

    Skipped: "constant scores", "fewer than 3 inputs have no trend", "no input to remove", "scores are not finite".
    """

    def __call__(
        self, attribution: Attribution, rescore: Rescore | None = None, rationale: Tensor | None = None
    ) -> MetricValues:
        """Evaluate every step.

        Args:
            attribution: Scores `[step, input]` (other axes are reduced by `token_scores`).
            rescore, rationale: Not used.
        """
        steps, skipped = select(attribution, removable, none=NO_INPUT)
        return collected(len(attribution.targets), {s.index: _measured(np.abs(s.scores)) for s in steps}, skipped)


def _measured(sizes: np.ndarray) -> Measured:
    places = np.arange(len(sizes))
    if len(sizes) < FEWEST:
        return Measured(None, f"fewer than {FEWEST} inputs have no trend")
    if np.ptp(sizes) == 0:
        return Measured(None, "constant scores")
    shares = (sizes / sizes.sum()).tolist()
    curve = tuple(zip((places / (len(sizes) - 1)).tolist(), shares, strict=True))
    return Measured(spearman(sizes, places), curve=curve)
