"""Occlusion: what the score loses without a token, a window of tokens, or a larger unit."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from attriflow.engine import Engine, Scores
from attriflow.engine.baselines import Baseline
from attriflow.engine.proxy import proxied
from attriflow.errors import InputError, check_least
from attriflow.methods._leave_out import closer, effects
from attriflow.methods._units import unit_index
from attriflow.registry import methods
from attriflow.texts.units import Unit


@methods.register(
    "occlusion",
    family="perturbation",
    blind="One token at a time: of two that say the same, neither gets credit; depends on the baseline token.",
    cost="L + 1 forwards",
    deterministic=True,
    signed=True,
    paper="Zeiler and Fergus 2014, arXiv:1311.2901",
    floor=lambda problem, levels=(), proxy=False, **_: (
        problem.forward() + (0.0 if levels or proxy else problem.one_by_one())
    ),
    memory=lambda sizes, **_: sizes.rescored(in_order=True),
)
@dataclass(frozen=True)
class Occlusion:
    r"""Score minus the score with part of the input replaced by a baseline; positive = the part supports the score.

    $f_t(x) - f_t(x_{\setminus i})$. One changed sequence per unit serves all steps, because each step reads its own
    prefix of it. Source and target tokens are occluded separately.

    Attributes:
        unit: What is occluded together: "token", "word", "sentence", "paragraph", "segment" (of `segments=`) or "turn"
            (chats); each token gets the score of its unit.
        window: Neighbouring units occluded together; a token's score is the mean over the windows that cover it and
            lie in the step's prefix.
        baseline: What an absent token looks like: "unk", "pad", "mask", "eos", "bos", "zero", "mean" or a token id.
        levels: Larger units, the largest first, to be occluded before: a step then looks only into the `keep` units of
            the largest effect, and what lies in others gets 0 (["paragraph", "sentence"], say; AttriBoT).
        keep: How many units of each level a step looks into.
        proxy: Whether a smaller model (`attriflow.use_proxy`) chooses the units of the first level or, where there is
            none, what is occluded at all.
    """

    unit: Unit = "token"
    window: int = 1
    baseline: Baseline = "unk"
    levels: list[Unit] = field(default_factory=list)
    keep: int = 3
    proxy: bool = False

    def __post_init__(self) -> None:
        """Check the options before any model runs."""
        check_least("window", self.window)
        check_least("keep", self.keep)
        if self.window > 1 and (self.levels or self.proxy):
            raise InputError("levels and proxy need window=1: windows cross the borders of larger units")

    def __call__(self, engine: Engine) -> Scores:
        """Scores of a batch."""
        if not self.levels and not self.proxy:
            return Scores({block: self._block(engine, block) for block in engine.blocks})
        rounds = [(engine, unit) for unit in (*self.levels, self.unit)]
        if self.proxy:
            rounds = [(proxied(engine), rounds[0][1]), *(rounds[1:] or rounds)]
        return Scores({block: closer(rounds, block, self.keep, self.baseline) for block in engine.blocks})

    def _block(self, engine: Engine, block: str) -> Tensor:
        planned = unit_index(engine, block, self.unit)  # [batch, position], -1 on padding
        units, n_units = planned.to(engine.model.device), int(planned.max()) + 1
        n_windows = max(1, n_units - self.window + 1)

        def hidden(start: int, stop: int) -> Tensor:  # [window, batch, position]
            first = torch.arange(start, stop, device=units.device).view(-1, 1, 1)
            return (units >= first) & (units < first + self.window)

        return self._spread(effects(engine, block, n_windows, hidden, self.baseline), units, engine.visible(block))

    def _spread(self, effect: Tensor, units: Tensor, visible: Tensor) -> Tensor:
        """Mean effect of the windows over each token that lie in the step's prefix, `[batch, step, position]`."""
        n_windows = effect.shape[0]
        first = torch.arange(n_windows, device=units.device)
        # units a step sees; where its prefix is shorter than the window, the first window covers all of it
        seen = torch.where(visible, units.unsqueeze(1), -1).amax(-1) + 1  # [batch, step]
        fits = (first.view(-1, 1, 1) + self.window <= seen) | (first.view(-1, 1, 1) == 0)  # [window, batch, step]
        covers = (units >= first.view(-1, 1, 1)) & (units < first.view(-1, 1, 1) + self.window)
        covers = covers.to(effect.dtype)  # [window, batch, position]
        total = torch.einsum("wbt,wbi->bti", torch.where(fits, effect, 0.0), covers)
        count = torch.einsum("wbt,wbi->bti", fits.to(effect.dtype), covers)
        return total / count.clamp(min=1)
