"""Gradient SHAP: expected gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attriflow.engine import EmbeddingReducer, Engine, Scores
from attriflow.engine.baselines import Baseline, Draw, One, every
from attriflow.engine.scores import Reduction
from attriflow.errors import InputError, check_least
from attriflow.methods._draws import generator
from attriflow.methods._noise import Noise, uniform
from attriflow.registry import methods


@methods.register(
    "gradient_shap",
    family="path",
    blind="Averages over points between texts, where the model has never been; few samples leave noise.",
    cost="n forwards + T x n products",
    axes="step, input (embedding)",
    signed=True,
    paper="Lundberg and Lee 2017, arXiv:1705.07874; Erion et al. 2021, arXiv:1906.10670",
    demo={"n_samples": 10},
    trial={"n_samples": 4, "stdev": 0.1, "baseline": ["unk", "zero"]},
)
@dataclass(frozen=True)
class GradientShap:
    r"""Gradients at random points between baselines and the (noisy) input, times their difference, averaged.

    $\mathbb{E}[(x + \epsilon - x')\, \partial f_t(x' + \alpha (x + \epsilon - x')) / \partial x]$ over baselines $x'$,
    noise $\epsilon$ and $\alpha \sim U(0, 1)$. Without noise and with one baseline its expectation is integrated
    gradients; the error of the mean shrinks like $1/\sqrt{n}$. The draws belong to the seed and the example's own
    prompt, so they are the same in any batch; one set of points serves all steps.

    Attributes:
        n_samples: Random points.
        stdev: Standard deviation of the noise, in standard deviations of the embedding table.
        baseline: What absent tokens look like ("unk", "pad", "mask", "eos", "bos", "zero", "mean" or a token id), or a
            list of those as the baseline distribution: every sample draws one of them.
        internal_batch_size: At most this many sequences per model call; chosen by available memory when None.
        return_convergence_delta: Add the step score `deltas`: sum of attributions minus the mean of
            $f_t(x) - f_t(x')$ (exact only in expectation).
        multiply_by_inputs: False leaves out the factor of the difference.
        reduction: "sum" (signed) or "norm" (L2 norm over dimensions).
    """

    draws_baselines: ClassVar[bool] = True
    """Of several, each sample draws one: no mean over all."""

    n_samples: int = 25
    stdev: float = 0.0
    baseline: Baseline = "unk"
    internal_batch_size: int | None = None
    return_convergence_delta: bool = False
    multiply_by_inputs: bool = True
    reduction: Reduction = "sum"

    def __post_init__(self) -> None:
        """Check the options before any model runs."""
        check_least("n_samples", self.n_samples)
        if self.internal_batch_size is not None:
            check_least("internal_batch_size", self.internal_batch_size)
        if self.stdev < 0:
            raise InputError(f"stdev must not be negative, not {self.stdev}")
        if not self._names:
            raise InputError("baseline must name at least one baseline")

    @property
    def _names(self) -> list[One | Draw]:
        return every(self.baseline)

    def __call__(self, engine: Engine) -> Scores:
        """Scores of a batch."""
        inputs = {b: engine.embeddings(b).to(engine.dtype) for b in engine.blocks}
        choices = {
            b: torch.stack([engine.baseline_embeddings(b, name).to(engine.dtype) for name in self._names])
            for b in engine.blocks
        }
        alphas = uniform(engine, self.n_samples, "alpha")  # [sample, batch]
        chosen = self._choices(engine).to(engine.model.device) if len(self._names) > 1 else None
        row = torch.arange(engine.batch.size, device=engine.model.device)
        noise = Noise(engine, self.stdev, self.n_samples)

        def ends(block: str, sample: int) -> tuple[Tensor, Tensor]:
            start = choices[block][0] if chosen is None else choices[block][chosen[sample], row]
            stop = inputs[block]
            if self.stdev:
                stop = stop + noise(block, sample)
            return start, stop

        def point(number: float) -> dict[str, Tensor]:
            sample = int(number)
            out = {}
            for block in engine.blocks:
                start, stop = ends(block, sample)
                out[block] = start + alphas[sample].view(-1, 1, 1) * (stop - start)
            return out

        def reduce(block: str, grads: Tensor, numbers: Sequence[float]) -> Tensor:
            if not self.multiply_by_inputs:
                return grads.sum(1)
            total = torch.zeros_like(grads[:, 0])
            for i, number in enumerate(numbers):
                start, stop = ends(block, int(number))
                total += grads[:, i] * (stop - start)
            return total

        out = EmbeddingReducer(engine, self.reduction)
        sums = torch.zeros_like(engine.batch.step_ids, dtype=engine.dtype)
        samples = [float(i) for i in range(self.n_samples)]
        for steps, grads in engine.gradients(point, samples, max_rows=self.internal_batch_size, reduce=reduce):
            for block, g in grads.items():
                sums[:, steps] += g.sum((-1, -2)) / self.n_samples
                out.add(block, g / self.n_samples)
        if not self.return_convergence_delta:
            return out.scores()

        def baselines(start: int, stop: int) -> dict[str, Tensor]:
            return {
                f"{b}_embeds": torch.cat([ends(b, s)[0] for s in range(start, stop)]).to(engine.model.dtype)
                for b in engine.blocks
            }

        base = engine.rescore(self.n_samples, baselines).mean(0)
        return out.scores({"deltas": sums - (engine.values() - base)})

    def _choices(self, engine: Engine) -> Tensor:
        """Which baseline each sample starts from, `[sample, batch]`."""
        draws = [
            generator(engine.seed, e, "baseline").integers(len(self._names), size=self.n_samples)
            for e in engine.examples
        ]
        return torch.tensor([d.tolist() for d in draws]).T
