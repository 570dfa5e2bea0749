"""Area between the curves of deleting the most and the least relevant tokens first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from attriflow.registry import metrics
from attriflow_metrics._changes import Answers, Ask, Measured
from attriflow_metrics._curves import Curves, area
from attriflow_metrics._steps import Step


@metrics.register(
    "morf_lerf",
    family="faithfulness",
    higher_is_better=True,
    range=(-1.0, 1.0),
    cost="up to 2 x fractions forward rows per step, shared with aopc_compr and aopc_suff",
    source="Samek et al. 2017 (arXiv 1509.06321); Schulz et al. 2020, degradation score (2001.00396)",
)
@dataclass(frozen=True, kw_only=True)
class AreaBetweenCurves(Curves):
    r"""How far apart deleting the least and the most relevant tokens first are, as an area; higher is better.

    $$\int_0^1 p(y \mid x \setminus l_{f}) - p(y \mid x \setminus r_{f}) \, df$$

    with $r_f$ the share $f$ of the removable tokens with the highest, $l_f$ with the lowest signed scores, by the
    trapezoidal rule over `fractions`. In [-1, 1]; 0 for an order that says nothing, negative for one that is the wrong
    way round. Source: Samek et al. 2017; the degradation score of Schulz et al. 2020, "Restricting the Flow". Both
    curves suffer alike from texts that the model has never seen, so that their difference is less distorted by deletion
    than either of them. The kept curve is the difference.

    Constant scores: defined, but the order among equal scores is arbitrary. Skipped: "no input to remove", "scores are
    not finite", "the model's score is NaN".
    """

    def asked(self, step: Step) -> Iterator[Ask]:
        """Every point of both curves."""
        yield from (ask for _, ask in (*self.deletions(step), *self.insertions(step)))

    def measure(self, step: Step, answers: Answers) -> Measured:
        """Area between the curves, and their difference."""
        morf = np.array([(x, answers.probability(ask)) for x, ask in self.deletions(step)])
        lerf = np.array([(1 - x, answers.probability(ask)) for x, ask in reversed(self.insertions(step))])
        at = np.union1d(morf[:, 0], lerf[:, 0])
        difference = np.interp(at, *lerf.T) - np.interp(at, *morf.T)
        curve = tuple(zip(at.tolist(), difference.tolist(), strict=True))
        return Measured(area(curve), curve=curve)
