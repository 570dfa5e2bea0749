"""F1 of the highest-scored tokens against a rationale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attriflow.registry import metrics
from attriflow_metrics._plausibility import TopTokens


@metrics.register(
    "token_f1_plau",
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
class TokenF1(TopTokens):
    r"""F1 of the `top_k` highest-scored tokens against the tokens of the rationale; higher is better.

    $$\frac{2 P R}{P + R}, \quad P = \frac{|r \cap g|}{|r|}, \quad R = \frac{|r \cap g|}{|g|}$$

    with $r$ the selected tokens and $g$ the rationale. In [0, 1]; 1 needs `top_k` equal to the size of the rationale.
    Source: DeYoung et al. 2020, "ERASER: A Benchmark to Evaluate Rationalized NLP Models"; the number is that of
    ferret's `Tokenf1_PlausibilityEvaluation`.

    Edge cases: no token can be selected (no positive score, with `only_pos`): 0, as in ferret. Fewer tokens than
    `top_k`: all of them. Constant scores: defined, but the order among them is arbitrary. Skipped: "no rationale"
    (none given), "empty rationale" (no annotated token that the step sees), "scores are not finite".
    """

    evaluator: ClassVar[str] = "Tokenf1_PlausibilityEvaluation"
