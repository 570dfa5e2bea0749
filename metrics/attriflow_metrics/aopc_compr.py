"""Comprehensiveness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from attriflow.registry import metrics
from attriflow_metrics._aopc import AreaOverPerturbationCurve


@metrics.register(
    "aopc_compr",
    family="faithfulness",
    higher_is_better=True,
    range=(-1.0, 1.0),
    requires=("ferret",),
    extra="ferret",
    cost="up to thresholds + 1 forward rows per step",
    source="DeYoung et al. 2020, ERASER (arXiv 1911.03429); computed by ferret (Attanasio et al. 2023, 2208.01575)",
    default=True,
)
@dataclass(frozen=True, kw_only=True)
class Comprehensiveness(AreaOverPerturbationCurve):
    r"""How much of the target's probability goes when the highest-scored tokens are removed; higher is better.

    $$\frac{1}{|K|} \sum_{k \in K} p(y \mid x) - p(y \mid x \setminus r_k)$$

    with $r_k$ the tokens selected at threshold $k$ (see `thresholds`), $x$ the tokens the step sees, and $p$ the
    probability of the target token, whatever function was attributed. In [-1, 1]. Source: DeYoung et al. 2020,
    "ERASER: A Benchmark to Evaluate Rationalized NLP Models"; the number is that of ferret's
    `AOPC_Comprehensiveness_Evaluation`.

    Special tokens are never selected or removed. Decoder-only models lose tokens of prompt and generated prefix,
    encoder-decoders source tokens.

    Edge cases: no token can be selected (no positive score, with `only_pos`): 0, as in ferret. No score exceeds a
    "th" threshold: nothing is removed, a term of 0. Constant scores: defined, but the order among them is arbitrary.
    Skipped: "no input to remove" (an empty prefix, or only special tokens), "scores are not finite", "the model's
    score is NaN".
    """

    evaluator: ClassVar[str] = "AOPC_Comprehensiveness_Evaluation"

    def kept(self, inputs: np.ndarray, selected: np.ndarray) -> np.ndarray:
        """All but the selected."""
        return np.delete(inputs, selected)
