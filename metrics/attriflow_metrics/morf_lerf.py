"""Area between the curves of deleting the most and the least relevant tokens first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from attriflow.registry import metrics
from attriflow_metrics._changes import Answers, Ask, Measured
from attriflow_metrics._curves import Curves, area
from attriflow_metrics._steps import Step


@metrics.register(
    "morf_lerf",
    family="faithfulness",
    higher_is_better=True,
    range=(-1.0, 1.0),
    cost="up to 2 x fractions forward rows per step, half of them shared with aopc_compr",
    source="Samek et al. 2017 (arXiv 1509.06321); Schulz et al. 2020, degradation score (2001.00396)",
)
@dataclass(frozen=True, kw_only=True)
class AreaBetweenCurves(Curves):
    r"""How far apart deleting the least and the most relevant tokens first are, as an area; higher is better.

    $$\int_0^1 p(y \mid x \setminus l_{f}) - p(y \mid x \setminus r_{f}) \, df$$

    with $r_f$ the share $f$ of the removable tokens with the highest, $l_f$ with the lowest signed scores, by the
    trapezoidal rule over `fractions`. In [-1, 1]; 0 for an order that says nothing, negative for one that is the wrong
    way round: scores with the opposite sign have the opposite value. Source: Samek et al. 2017; the degradation score
    of Schulz et al. 2020, "Restricting the Flow". Both curves suffer alike from texts that the model has never seen, so
    that their difference is less distorted by deletion than either of them. The kept curve is the difference.

    Of equal scores the first goes first in both curves, so that constant ones have 0. Skipped: "no input to remove",
    "scores are not finite", "the model's score is NaN".
    """

    def asked(self, step: Step) -> Iterator[Ask]:
        """Every point of both curves."""
        yield from (ask for _, ask in (*self.deletions(step), *self.deletions(_reversed(step))))

    def measure(self, step: Step, answers: Answers) -> Measured:
        """Area between the curves, and their difference."""
        # as many tokens gone in both: what one order removes, the opposite scores remove in the other
        both = zip(self.deletions(step), self.deletions(_reversed(step)), strict=True)
        curve = tuple((x, answers.probability(lerf) - answers.probability(morf)) for (x, morf), (_, lerf) in both)
        return Measured(area(curve), curve=curve)


def _reversed(step: Step) -> Step:
    return replace(step, scores=-step.scores)
