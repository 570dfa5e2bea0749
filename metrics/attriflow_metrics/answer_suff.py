"""Sufficiency of a whole answer."""

from __future__ import annotations

import math
from dataclasses import dataclass

from attriflow.registry import metrics
from attriflow_metrics._answer import Answer
from attriflow_metrics._drops import Keeping


@metrics.register(
    "answer_suff",
    family="faithfulness",
    higher_is_better=False,
    range=(-1.0, 1.0),
    cost="up to fractions + 1 forward rows per answer",
    source="DeYoung et al. 2020, ERASER (arXiv 1911.03429), on spans",
)
@dataclass(frozen=True, kw_only=True)
class AnswerSufficiency(Answer, Keeping):
    r"""How much of the whole answer's probability is missing with its highest-scored tokens alone; lower is better.

    $$\frac{1}{|K|} \sum_{k \in K} P(y \mid x) - P(y \mid r_k), \quad
    P(y \mid x) = \exp\Big(\frac1T \sum_{t=1}^T \ln p(y_t \mid y_{<t}, x)\Big)$$

    with $r_k$ the share $k$ of the tokens of the given text (prompt or source) with the highest mean scores over the
    steps. In [-1, 1]; one value for the whole explanation. Source: sufficiency of DeYoung et al. 2020, "ERASER", with
    the answer in place of a class. The generated prefix is part of the answer and stays.

    Edge cases: no token can be selected (no positive mean score, with `only_pos`): nothing is kept. Of equal scores
    the first come first. Skipped: "no input to remove", "scores are not finite" (at any step), "the model's score is
    NaN", "too few inputs for any fraction".
    """

    def score(self, log_probability: float) -> float:
        """The answer's probability per token."""
        return math.exp(log_probability)
