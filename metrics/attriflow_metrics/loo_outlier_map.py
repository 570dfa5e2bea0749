"""How well the sources that matter by far are found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from attriflow.errors import InputError
from attriflow.registry import metrics
from attriflow_metrics._changes import Answers, Ask, Measured
from attriflow_metrics._sources import ONE_SOURCE, FromSources
from attriflow_metrics._steps import Step


@metrics.register(
    "loo_outlier_map",
    family="faithfulness",
    higher_is_better=True,
    range=(0.0, 1.0),
    cost="sources + 1 forward rows per answer, the same for every method",
    source="Liu et al. 2024, AttriBoT (arXiv 2411.15102); what an outlier is, is ours",
    shared=True,
)
@dataclass(frozen=True, kw_only=True)
class OutlierMeanAveragePrecision(FromSources):
    r"""How high the scores rank the sources whose absence changes the response by far the most; higher is better.

    $$\frac{1}{|O|} \sum_{i \in O} \frac{|\{j \in O: s_j \geq s_i\}|}{|\{j: s_j \geq s_i\}|}, \quad
    O = \{i: \Delta_i > \mu(\Delta) + d\, \sigma(\Delta)\}$$

    with $\Delta_i = f(x) - f(x \setminus x_i)$ the nats that the log-probability of the whole response loses without
    source $i$, and $s$ the signed scores, their mean over the steps: the average precision of the scores for the
    outliers among exact leave-one-out effects. In (0, 1]; 1 when the outliers come first. The mean over the examples
    that have an outlier is the mAP of Liu et al. 2024, "AttriBoT". Where they draw the line is not taken over: $d$
    standard deviations (over all sources) and `at_least` nats are this project's choice.

    One value for the whole explanation. Equal scores come in together, as in scikit-learn's `average_precision_score`.
    With `deviations=2` there are no outliers among five sources or fewer. Skipped: "no outlier among the leave-one-out
    effects", "a single source has no order", "no input to remove", "scores are not finite" (at any step), "the model's
    score is NaN".

    Attributes:
        unit: What a source is: "token", "word", "sentence", "paragraph", "segment" (of `segments=`) or "turn" (chats).
            Its score is the sum of its tokens' scores; their mean where the method scored units itself.
        perturbation: What removing a token means, see `Rescore`.
        deviations: Standard deviations above the mean from where on an effect is an outlier ($d$).
        at_least: Nats that an outlier must be worth: where nothing matters, the largest effect is rounding.
    """

    deviations: float = 2.0
    at_least: float = 1e-3

    def __post_init__(self) -> None:
        """Check the options."""
        for name in ("deviations", "at_least"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} must be at least 0, not {getattr(self, name)!r}")

    def undefined(self, step: Step) -> str | None:
        """What has no order."""
        return ONE_SOURCE if len(step.scores) == 1 else None

    def _asks(self, step: Step) -> list[Ask]:
        return [self.without(step, [number]) for number in range(len(step.scores))]

    def asked(self, step: Step) -> Iterator[Ask]:
        """The unchanged input, and the input without each source."""
        yield self.whole(step)
        yield from self._asks(step)

    def measure(self, step: Step, answers: Answers) -> Measured:
        """Average precision."""
        drops = answers[self.whole(step)] - np.array([answers[ask] for ask in self._asks(step)])
        outliers = (drops > drops.mean() + self.deviations * drops.std()) & (drops >= self.at_least)
        if not outliers.any():
            return Measured(None, "no outlier among the leave-one-out effects")
        at_least_as_high = step.scores[None] >= step.scores[outliers][:, None]  # [outlier, source]
        return Measured(float((at_least_as_high[:, outliers].sum(1) / at_least_as_high.sum(1)).mean()))
