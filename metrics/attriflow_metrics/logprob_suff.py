"""Sufficiency in nats."""

from __future__ import annotations

from dataclasses import dataclass

from attriflow.registry import metrics
from attriflow_metrics._drops import Keeping


@metrics.register(
    "logprob_suff",
    family="faithfulness",
    higher_is_better=False,
    cost="up to fractions + 1 forward rows per step, shared with aopc_suff",
    source="DeYoung et al. 2020, ERASER (arXiv 1911.03429), on log-probabilities",
)
@dataclass(frozen=True, kw_only=True)
class LogProbabilitySufficiency(Keeping):
    r"""How many nats of the target's log-probability are missing with the highest-scored tokens alone; lower is better.

    $$\frac{1}{|K|} \sum_{k \in K} \ln p(y \mid x) - \ln p(y \mid r_k)$$

    with $r_k$ the share $k$ of the removable tokens with the highest scores. Unbounded. Source: sufficiency of DeYoung
    et al. 2020, "ERASER", on log-probabilities.

    Edge cases: no token can be selected (no positive score, with `only_pos`): nothing stays. Of equal scores the first
    come first. Skipped: "no input to remove", "scores are not finite", "the model's score is NaN", "not finite" (a
    probability of exactly 0), "too few inputs for any fraction".
    """
