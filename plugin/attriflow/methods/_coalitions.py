"""Versions of a batch in which some units are absent, and the linear models fitted to their scores.

A unit that cannot be absent (all its tokens are their own baseline, like EOS) is nobody's player: it gets exactly 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from attriflow.engine import Engine, Scores
from attriflow.engine.baselines import Baseline
from attriflow.kernels.transfer import home
from attriflow.methods._draws import generator
from attriflow.methods._units import joint_index

DESIGN_ELEMENTS = 2**23
"""Entries of the design matrices of several steps that are solved at once (64 MiB)."""

Keep = Callable[[int, int], Tensor]
"""For versions `start:stop`, which units are there: bool `[version, batch, unit]`."""


class Coalitions:
    """The units of a batch, numbered over all attributed blocks, and the scores without some of them.

    Every version serves all steps: each reads its own prefix of it, so only the units in the prefix matter to a step.

    Attributes:
        counts: Number of units of each example.
        n_units: Of the example that has most.
        players: Bool `[batch, step, unit]`: units with a token that the step sees and that can be absent.
        sizes: `[batch, step, unit]`, number of tokens of a unit that the step sees.
    """

    def __init__(
        self,
        engine: Engine,
        unit: str,
        baseline: Baseline,
        *,
        groups: Sequence[Sequence[int]] | None = None,
        generated: bool = True,
    ) -> None:
        """Find the units of a batch.

        Args:
            engine: The batch.
            unit: See `_units.unit_index`.
            baseline: What an absent token looks like.
            groups: Positions in the attribution's inputs that belong together, in place of `unit`.
            generated: Whether generated tokens can be absent.
        """
        self.engine = engine
        self.index, self.counts = joint_index(engine, unit, groups)
        self.n_units = max(self.counts)
        self._original = {b: engine.embeddings(b) for b in engine.blocks}
        self._absent = {b: engine.baseline_embeddings(b, baseline) for b in engine.blocks}
        # which tokens look different when they are absent, [batch, position]
        changes = home([(self._absent[b] != self._original[b]).any(-1) for b in engine.blocks])
        self._changes = {b: c & (self.index[b] >= 0) for b, c in zip(engine.blocks, changes, strict=True)}
        if not generated:
            for block in engine.blocks:
                self._changes[block] &= ~self._is_generated(block)
        self.sizes = self._tokens_seen({b: i >= 0 for b, i in self.index.items()})
        self.players = self._tokens_seen(self._changes) > 0

    def _is_generated(self, block: str) -> Tensor:
        out = torch.zeros(self.index[block].shape, dtype=torch.bool)
        for row, example in enumerate(self.engine.examples):
            tokens = example.source if block == "source" else example.target[: example.stop - 1]
            out[row, : len(tokens)] = torch.tensor([t.segment == "generated" for t in tokens])
        return out

    def _tokens_seen(self, wanted: dict[str, Tensor]) -> Tensor:
        """Number of wanted tokens of each unit that a step sees, `[batch, step, unit]`."""
        total = torch.zeros((self.engine.batch.size, self.engine.batch.n_steps, self.n_units))
        for block, index in self.index.items():
            member = torch.nn.functional.one_hot(index.clamp(min=0), self.n_units) * (index >= 0).unsqueeze(-1)
            seen = self.engine.batch.host.visible(block) & wanted[block].unsqueeze(1)
            total += torch.bmm(seen.float(), member.float())
        return total.round()

    # -- scores -----------------------------------------------------------------------------------------------------

    def full(self) -> Tensor:
        """The objective with everything there, `[batch, step]`, float64 on the CPU."""
        return self.engine.values().cpu().double()

    def ends(self) -> tuple[Tensor, Tensor]:
        """The objective with every unit absent, `[batch, step]`, by one forward, and with everything there."""
        nothing = torch.zeros((1, self.engine.batch.size, self.n_units), dtype=torch.bool)
        empty, full = home([self._values(1, lambda _a, _b: nothing)[0], self.engine.values()])
        return empty.double(), full.double()

    def values(self, n: int, keep: Keep, *, in_order: bool = False) -> Tensor:
        """The objective on `n` versions, `[version, batch, step]`, float64 on the CPU (see `Engine.rescore`)."""
        return self._values(n, keep, in_order).cpu().double()

    def _values(self, n: int, keep: Keep, in_order: bool = False) -> Tensor:

        def changes(start: int, stop: int) -> dict[str, Tensor]:
            kept = keep(start, stop)
            changed = {}
            for block, index in self.index.items():
                there = kept.gather(2, index.clamp(min=0).expand(len(kept), -1, -1))
                gone = self._changes[block] & ~there  # [version, batch, position]
                if gone.any():
                    gone = gone.to(self.engine.model.device).unsqueeze(-1)
                    changed[f"{block}_embeds"] = torch.where(gone, self._absent[block], self._original[block]).flatten(
                        0, 1
                    )
            return changed

        return self.engine.rescore(n, changes, in_order=in_order)

    def uniform(self, n: int, purpose: str) -> Tensor:
        """Uniform numbers `[sample, batch, unit]`, the same for an example in any batch and with any continuation."""
        out = torch.zeros((n, len(self.counts), self.n_units), dtype=torch.float64)
        for row, (example, count) in enumerate(zip(self.engine.examples, self.counts, strict=True)):
            drawn = generator(self.engine.seed, example, purpose).random((count, n))
            out[:, row, :count] = torch.from_numpy(drawn).T
        return out

    def uniform_samples(self, n: int, purpose: str) -> Tensor:
        """One uniform number per sample and example, `[sample, batch, 1]`."""
        drawn = [torch.from_numpy(generator(self.engine.seed, e, purpose).random(n)) for e in self.engine.examples]
        return torch.stack(drawn, 1).unsqueeze(-1)

    # -- results ----------------------------------------------------------------------------------------------------

    def scores(self, effects: Tensor, step_scores: dict[str, Tensor] | None = None) -> Scores:
        """Every token gets the score of its unit; `effects` is `[batch, step, unit]`."""
        effects = torch.where(self.players, effects, 0.0).to(self.engine.dtype)
        blocks = {}
        for block, index in self.index.items():
            wanted = index.clamp(min=0).unsqueeze(1).expand(-1, effects.shape[1], -1)
            blocks[block] = effects.gather(2, wanted)
        return Scores(blocks, step_scores={k: v.to(self.engine.dtype) for k, v in (step_scores or {}).items()})

    def designs(self, keep: Tensor) -> Iterator[tuple[int, slice, Tensor, Tensor]]:
        """Example, slice of its steps, their samples `[step, sample, unit]` and players `[step, 1, unit]`, float64.

        Columns of units that are no players of a step are 0.
        """
        for row, (example, count) in enumerate(zip(self.engine.examples, self.counts, strict=True)):
            size = max(1, DESIGN_ELEMENTS // (keep.shape[0] * count))
            for first in range(0, example.n_steps, size):
                steps = slice(first, min(first + size, example.n_steps))
                players = self.players[row, steps, None, :count].double()
                yield row, steps, keep[:, row, :count].double() * players, players


def least_squares(design: Tensor, values: Tensor, weights: Tensor, ridge: float = 0.0) -> Tensor:
    r"""Coefficients of weighted linear models without intercept, `[step, unit]`.

    Minimises $\sum_s w_s (y_s - z_s \cdot \phi)^2 + \lambda |\phi|^2$; the smallest solution where there are
    several. The system has the size of the smaller of the numbers of samples and of units.

    Args:
        design: `[step, sample, unit]`, float64.
        values, weights: `[step, sample]`.
        ridge: $\lambda$.
    """
    root = weights.sqrt()
    a, y = design * root.unsqueeze(-1), (values * root).unsqueeze(-1)
    few = a.shape[1] < a.shape[2]
    gram = a @ a.mT if few else a.mT @ a
    right = y if few else a.mT @ y
    if ridge > 0:
        gram = gram + ridge * torch.eye(gram.shape[-1], dtype=gram.dtype)
        solved = torch.cholesky_solve(right, torch.linalg.cholesky(gram))
    else:
        solved = torch.linalg.pinv(gram, rtol=1e-10, hermitian=True) @ right
    return (a.mT @ solved if few else solved).squeeze(-1)
