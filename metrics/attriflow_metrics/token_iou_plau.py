"""Intersection over union of the highest-scored tokens and a rationale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attriflow.registry import metrics
from attriflow_metrics._plausibility import TopTokens


@metrics.register(
    "token_iou_plau",
    family="plausibility",
    higher_is_better=True,
    range=(0.0, 1.0),
    needs=("rationale",),
    requires=("ferret",),
    extra="ferret",
    cost="no forward rows",
    from_data={"top_k": "rationale_size"},
    source="DeYoung et al. 2020, ERASER (arXiv 1911.03429); computed by ferret (Attanasio et al. 2023, 2208.01575)",
    default=True,
)
@dataclass(frozen=True, kw_only=True)
class TokenIOU(TopTokens):
    r"""Overlap of the `top_k` highest-scored tokens with the rationale, over their union; higher is better.

    $$\frac{|r \cap g|}{|r \cup g|}$$

    with $r$ the selected tokens and $g$ the rationale. In [0, 1]; 1 needs `top_k` equal to the size of the rationale.
    Source: DeYoung et al. 2020, "ERASER: A Benchmark to Evaluate Rationalized NLP Models"; the number is that of
    ferret's `TokenIOU_PlausibilityEvaluation`.

    Edge cases: no token can be selected (no positive score, with `only_pos`): 0, as in ferret. Fewer tokens than
    `top_k`: all of them. Constant scores: defined, but the order among them is arbitrary. Skipped: "no rationale"
    (none given), "empty rationale" (no annotated token that the step sees), "scores are not finite".
    """

    evaluator: ClassVar[str] = "TokenIOU_PlausibilityEvaluation"
