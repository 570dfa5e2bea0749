"""Comprehensiveness in nats."""

from __future__ import annotations

from dataclasses import dataclass

from attriflow.registry import metrics
from attriflow_metrics._drops import Removing


@metrics.register(
    "logprob_compr",
    family="faithfulness",
    higher_is_better=True,
    cost="up to fractions + 1 forward rows per step, shared with aopc_compr",
    source="DeYoung et al. 2020, ERASER (arXiv 1911.03429), on log-probabilities",
)
@dataclass(frozen=True, kw_only=True)
class LogProbabilityComprehensiveness(Removing):
    r"""How many nats of the target's log-probability go with the highest-scored tokens; higher is better.

    $$\frac{1}{|K|} \sum_{k \in K} \ln p(y \mid x) - \ln p(y \mid x \setminus r_k)$$

    with $r_k$ the share $k$ of the removable tokens with the highest scores. `aopc_compr` cannot tell apart what
    happens below a few percent, where generated tokens of large vocabularies live; nats can. Unbounded. Source:
    comprehensiveness of DeYoung et al. 2020, "ERASER", on log-probabilities.

    Edge cases: no token can be selected (no positive score, with `only_pos`): 0. Of equal scores the first come first.
    Skipped: "no input to remove", "scores are not finite", "the model's score is NaN", "not finite" (a probability of
    exactly 0), "too few inputs for any fraction".
    """
