"""Occlusion: what the score loses without a token, a window of tokens, or a larger unit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attriflow.engine import Engine, Scores
from attriflow.engine.baselines import Baseline
from attriflow.errors import check_least
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
    floor=lambda problem, **_: problem.forward() + problem.one_by_one(),
)
@dataclass(frozen=True)
class Occlusion:
    r"""Score minus the score with part of the input replaced by a baseline; positive = the part supports the score.

    $f_t(x) - f_t(x_{\setminus i})$. One changed sequence per unit serves all steps, because each step reads its own
    prefix of it. Source and target tokens are occluded separately.

    Attributes:
        unit: What is occluded together: "token", "word", "sentence", "segment" (of `segments=`) or "turn" (of a chat);
            each token gets the score of its unit.
        window: Neighbouring units occluded together; a token's score is the mean over the windows that cover it and
            lie in the step's prefix.
        baseline: What an absent token looks like: "unk", "pad", "mask", "eos", "bos", "zero", "mean" or a token id.
    """

    unit: Unit = "token"
    window: int = 1
    baseline: Baseline = "unk"

    def __post_init__(self) -> None:
        """Check the options before any model runs."""
        check_least("window", self.window)

    def __call__(self, engine: Engine) -> Scores:
        """Scores of a batch."""
        return Scores({block: self._block(engine, block) for block in engine.blocks})

    def _block(self, engine: Engine, block: str) -> Tensor:
        planned = unit_index(engine, block, self.unit)  # [batch, position], -1 on padding
        units, n_units = planned.to(engine.model.device), int(planned.max()) + 1
        original, baseline = engine.embeddings(block), engine.baseline_embeddings(block, self.baseline)
        n_windows = max(1, n_units - self.window + 1)

        def hidden(start: int, stop: int) -> Tensor:  # [window, batch, position]
            first = torch.arange(start, stop, device=units.device).view(-1, 1, 1)
            return (units >= first) & (units < first + self.window)

        def changes(start: int, stop: int) -> dict[str, Tensor]:
            replaced = torch.where(hidden(start, stop).unsqueeze(-1), baseline, original)
            return {f"{block}_embeds": replaced.flatten(0, 1)}

        absent = engine.rescore(n_windows, changes, in_order=True)  # [window, batch, step]
        effect = engine.values() - absent
        # a window of tokens that are their own baseline has no effect at all, not one of rounding's size
        changed = (hidden(0, n_windows) & (baseline != original).any(-1)).any(-1, keepdim=True)
        return self._spread(torch.where(changed, effect, 0.0), units, engine.visible(block))

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
