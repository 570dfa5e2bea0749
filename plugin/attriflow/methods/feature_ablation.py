"""Feature ablation: what the score loses without a group of tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attriflow.engine import Engine, Scores
from attriflow.engine.baselines import Baseline
from attriflow.methods._coalitions import Coalitions
from attriflow.methods._units import check_groups
from attriflow.registry import methods
from attriflow.texts.units import Unit


@methods.register(
    "feature_ablation",
    family="perturbation",
    blind="One group at a time: of two that say the same, neither gets credit; depends on the baseline token.",
    cost="units + 1 forwards",
    deterministic=True,
    signed=True,
    paper="Li et al. 2016, arXiv:1612.08220",
    floor=lambda problem, **_: problem.forward() + problem.one_by_one(),
    memory=lambda sizes, **_: sizes.rescored(in_order=True),
)
@dataclass(frozen=True)
class FeatureAblation:
    r"""Score minus the score without a group of tokens, all of them replaced by a baseline together.

    $f_t(x) - f_t(x_{\setminus G})$. One changed sequence per group serves all steps: of a group, a step only feels the
    tokens in its prefix. Groups may hold source and target tokens.

    Attributes:
        unit: What goes together: "token", "word", "sentence", "paragraph", "segment" (of `segments=`) or "turn"
            (chats).
        groups: In place of `unit`: lists of positions in the attribution's inputs, the same for every text; tokens in
            no list are ablated alone.
        share: Every token of a group gets the group's effect; with True, the effect divided by the number of its
            tokens that the step sees, so that the tokens of a group sum to its effect.
        baseline: What an absent token looks like: "unk", "pad", "mask", "eos", "bos", "zero", "mean" or a token id.
    """

    unit: Unit = "word"
    groups: list[list[int]] | None = None
    share: bool = False
    baseline: Baseline = "unk"

    def __post_init__(self) -> None:
        """Check the options before any model runs."""
        check_groups(self.groups)

    def __call__(self, engine: Engine) -> Scores:
        """Scores of a batch."""
        coalitions = Coalitions(engine, self.unit, self.baseline, groups=self.groups)
        units = torch.arange(coalitions.n_units)

        def without(start: int, stop: int) -> Tensor:  # [unit, batch, unit]
            return (units != units[start:stop].view(-1, 1, 1)).expand(-1, engine.batch.size, -1)

        absent = coalitions.values(coalitions.n_units, without, in_order=True)
        effects = (coalitions.full() - absent).permute(1, 2, 0)
        return coalitions.scores(effects / coalitions.sizes.clamp(min=1) if self.share else effects)
