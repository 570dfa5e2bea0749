"""What the highest-scored sources are worth to a whole response."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from attriflow.errors import InputError
from attriflow.registry import metrics
from attriflow.statistics.ranks import descending
from attriflow_metrics._changes import Answers, Ask, Measured
from attriflow_metrics._sources import FromSources
from attriflow_metrics._steps import Step


@metrics.register(
    "top_k_drop",
    family="faithfulness",
    higher_is_better=True,
    cost="numbers in top_k + 1 forward rows per answer",
    source="Cohen-Wang et al. 2024, ContextCite (arXiv 2409.00729), eq. 3",
)
@dataclass(frozen=True, kw_only=True)
class TopKDrop(FromSources):
    r"""How many nats of the whole response's log-probability go with its k highest-scored sources; higher is better.

    $$\frac{1}{|K|} \sum_{k \in K} f(x) - f(x \setminus r_k), \quad f(x) = \sum_{t=1}^T \ln p(y_t \mid y_{<t}, x)$$

    with $r_k$ the $k$ sources with the highest signed scores, their mean over the steps. In nats of the whole response,
    so that long responses weigh more than in `answer_compr`; unbounded, negative where the response gets likelier.
    Source: equation 3 of Cohen-Wang et al. 2024, "ContextCite", which shows k = 1, 3, 5 one by one: so does the curve
    that is kept, the drop by the share of sources that is gone. The value is their mean.

    One value for the whole explanation. Tokens of the response stay. More sources than there are: all; each number of
    sources counts once. Of equal scores the first come first. Skipped: "no input to remove", "scores are not finite"
    (at any step), "the model's score is NaN", "not finite" (a probability of exactly 0).

    Attributes:
        unit: What a source is: "token", "word", "sentence", "paragraph", "segment" (of `segments=`) or "turn" (chats).
            Its score is the sum of its tokens' scores; their mean where the method scored units itself.
        perturbation: What removing a token means, see `Rescore`; ContextCite deletes sources.
        top_k: How many sources are removed.
    """

    top_k: tuple[int, ...] = (1, 3, 5)

    def __post_init__(self) -> None:
        """Check the options."""
        object.__setattr__(self, "top_k", tuple(self.top_k))
        if not self.top_k or any(k < 1 for k in self.top_k):
            raise InputError(f"top_k must be whole numbers from 1, and there must be one; not {self.top_k!r}")

    def _changes(self, step: Step) -> dict[int, Ask]:
        order = descending(step.scores).tolist()
        return {k: self.without(step, order[:k]) for k in sorted({min(k, len(order)) for k in self.top_k})}

    def asked(self, step: Step) -> Iterator[Ask]:
        """The unchanged input and every changed one."""
        yield self.whole(step)
        yield from self._changes(step).values()

    def measure(self, step: Step, answers: Answers) -> Measured:
        """Mean drop, and the drops."""
        whole = answers[self.whole(step)]
        drops = {k: whole - answers[ask] for k, ask in self._changes(step).items()}
        n = len(step.scores)
        return Measured(math.fsum(drops.values()) / len(drops), curve=tuple((k / n, d) for k, d in drops.items()))
