"""ReAGent: importance from replacing tokens by plausible others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from attriflow.engine import Engine, Scores
from attriflow.engine.memory import Halving
from attriflow.errors import InputError, check_least
from attriflow.methods._replacements import Replacements, Sampler, drawn
from attriflow.models.base import Rows
from attriflow.registry import methods


@methods.register(
    "reagent",
    family="perturbation",
    blind="No sign: evidence against the answer looks like evidence for it; changes with the seed where probes "
    "are few.",
    cost="c x n forwards + c x T x (checks) prefix forwards",
    signed=False,
    spans=False,  # it stops at single tokens
    paper="Zhao and Shan 2024, arXiv:2402.00794",
    demo={"num_probes": 4, "max_probe_steps": 16},
    trial={"max_probe_steps": 4, "num_probes": 3},
    memory=lambda sizes, num_probes, max_probe_steps, **_: sizes.rescored(
        num_probes * max(sizes.steps, max_probe_steps * 3 // 4)
    ),
)
@dataclass(frozen=True)
class Reagent:
    r"""Recursive attribution: tokens whose replacement changes the prediction gain importance.

    Every chain starts from random importance $s \in [0, 1)$ and repeats: replace a random part R of the tokens, take
    $\delta_t = f_t(x) - f_t(\hat x)$, add $\mathrm{logit}(\frac{1 + \delta_t}{2})$ to $s_i$ for $i \in R$ and
    its negative to the others (algorithm 1 of the paper). A chain of a step is done when the target token is among the
    model's `stopping_condition_top_k` predictions with everything but the most important tokens replaced. Scores are
    the softmax of s over the visible tokens, averaged over the chains that are done (over all, where none is).

    One replaced sequence per chain and iteration updates all steps, as each reads its own prefix of it. Whether a
    chain is done needs a prefix of its own for each step, so it is looked at after 1, 2, 4, 8, ... iterations instead
    of every one; the replaced sequences of iterations run together, up to the 1st, 4th, 16th, 64th, ... of them.
    $\delta$ is cut to (-1, 1), the range it has for probabilities.

    Attributes:
        keep_top_n: Tokens kept in the stopping condition.
        keep_ratio: Part of the visible tokens kept instead of a fixed number.
        invert_keep: Replace the most important tokens instead of the others.
        stopping_condition_top_k: See above.
        replacing_ratio: Probability of a token to be replaced in a probe.
        max_probe_steps: Most iterations of a chain.
        num_probes: Chains.
        sampler: Where replacements come from without a replacement model: "neighbours" (one of the 20 nearest tokens
            in the embedding table), "unconditional" (the model's own distribution of first tokens) or "uniform"
            (vocabulary).
        replacement_model: A Hugging Face masked or causal language model with the same vocabulary (the object or a
            local folder); replacements are drawn from its prediction at each place, the token itself excluded.
    """

    keep_top_n: int = 5
    keep_ratio: float | None = None
    invert_keep: bool = False
    stopping_condition_top_k: int = 3
    replacing_ratio: float = 0.3
    max_probe_steps: int = 64
    num_probes: int = 8
    sampler: Sampler = "neighbours"
    replacement_model: str | Path | nn.Module | None = None

    def __post_init__(self) -> None:
        """Check the options before any model runs."""
        for name in ("keep_top_n", "stopping_condition_top_k", "max_probe_steps", "num_probes"):
            check_least(name, getattr(self, name))
        for name, value in (("replacing_ratio", self.replacing_ratio), ("keep_ratio", self.keep_ratio)):
            if value is not None and not 0 < value < 1:
                raise InputError(f"{name} must lie between 0 and 1, not {value!r}")

    def __call__(self, engine: Engine) -> Scores:
        """Scores of a batch."""
        replacements = Replacements(engine, self.sampler, self.replacement_model)
        chains, dtype = self.num_probes, engine.dtype
        visible = torch.cat([engine.visible(b) for b in engine.blocks], -1)  # [batch, step, input]
        top = self._kept(visible.sum(-1))
        importance = self._draw(engine, ["start"]).to(engine.model.device, dtype)
        importance = importance.unsqueeze(2).expand(-1, -1, visible.shape[1], -1)
        running = engine.batch.host.step_mask.expand(chains, -1, -1)  # [chain, batch, step], on the host
        done, last = torch.zeros_like(engine.batch.step_mask).expand(chains, -1, -1), 0
        while last < self.max_probe_steps and running.any():
            first, last = last, min(self.max_probe_steps, max(1, 4 * last))
            for checked, update in self._updates(engine, first, last, replacements):
                importance = torch.where(done.unsqueeze(-1), importance, importance + update)
                ranked = importance.masked_fill(~visible, -torch.inf).argsort(dim=-1, descending=True, stable=True)
                replaced = ((ranked.argsort(-1) >= top) ^ self.invert_keep) & visible
                ids = replacements(f"check/{checked}", chains)
                done = done | self._suffices(engine, replaced, running, ids)
                running = running & ~done.cpu()
                if not running.any():
                    break
        shares = importance.masked_fill(~visible, -torch.inf).softmax(-1).nan_to_num()
        counted = torch.where(done.any(0), done, True).to(dtype).unsqueeze(-1)
        scores = (shares * counted).sum(0) / counted.sum(0)
        return Scores(dict(zip(engine.blocks, scores.split(self._widths(engine), -1), strict=True)))

    def _kept(self, n_visible: Tensor) -> Tensor:
        """How many tokens are kept where the stopping condition is looked at, `[batch, step, 1]`."""
        if self.keep_ratio is not None:
            return torch.ceil(n_visible * self.keep_ratio).long().unsqueeze(-1)
        return n_visible.clamp(max=self.keep_top_n).unsqueeze(-1)

    @staticmethod
    def _widths(engine: Engine) -> list[int]:
        return [engine.ids(b).shape[1] for b in engine.blocks]

    def _draw(self, engine: Engine, purposes: Sequence[str]) -> Tensor:
        """Uniform numbers on the host, `[purpose * chain, batch, input]`."""
        parts = [drawn(engine, purposes, f"reagent/{{}}/{block}", block, self.num_probes) for block in engine.blocks]
        return torch.cat(parts, 1).permute(2, 0, 1)

    def _updates(
        self, engine: Engine, first: int, last: int, replacements: Replacements
    ) -> Iterator[tuple[int, Tensor]]:
        """What the iterations after `first` add to the importance of chains that are not done.

        Their replaced sequences depend on nothing but their number, so they run together.

        Yields:
            The iteration after which chains are looked at, and the sum since the last time,
            `[chain, batch, step, input]`.
        """
        iterations, shape = range(first + 1, last + 1), (last - first, self.num_probes)
        real = torch.cat([engine.batch.host.present(b) for b in engine.blocks], -1)
        replaced = (self._draw(engine, [f"mask/{i}" for i in iterations]) < self.replacing_ratio) & real
        # twice the inverse hyperbolic tangent is the logit, of which the others get the negative
        sign = torch.where(replaced, 2.0, -2.0).to(engine.model.device, engine.dtype)
        ids = replacements([f"probe/{i}" for i in iterations], self.num_probes)
        delta = self._probability(engine, engine.values()) - self._probe(
            engine, ids, sign > 0
        )  # [iteration * chain, batch, step]
        edge = 1 - 1e-6
        size, sign = (t.unflatten(0, shape) for t in (delta.clamp(-edge, edge).to(engine.dtype).atanh(), sign))
        at = first
        while at < last:
            part = slice(at - first, min(last, max(1, 2 * at)) - first)
            at = first + part.stop
            yield at, torch.einsum("kcbt,kcbi->cbti", size[part], sign[part])

    def _probe(self, engine: Engine, ids: Tensor, replaced: Tensor) -> Tensor:
        """The objective with some tokens replaced, `[version, batch, step]`."""

        def changes(start: int, stop: int) -> dict[str, Tensor]:
            mixed = self._mixed(engine, ids[start:stop], replaced[start:stop])
            return {f"{b}_ids": m.flatten(0, 1) for b, m in mixed.items()}

        return self._probability(engine, engine.rescore(len(ids), changes))

    @staticmethod
    def _probability(engine: Engine, values: Tensor) -> Tensor:
        return values.exp() if engine.objective.logarithm else values

    def _mixed(self, engine: Engine, ids: Tensor, replaced: Tensor) -> dict[str, Tensor]:
        """Block -> ids `[chain, batch, position]`, replaced where the mask says so."""
        out, widths = {}, self._widths(engine)
        for block, new, mask in zip(engine.blocks, ids.split(widths, -1), replaced.split(widths, -1), strict=True):
            out[block] = torch.where(mask, new, engine.ids(block))
        return out

    @torch.no_grad()
    def _suffices(self, engine: Engine, replaced: Tensor, running: Tensor, ids: Tensor) -> Tensor:
        """Whether the tokens that are left alone bring the target into the top predictions, `[chain, batch, step]`."""
        host = engine.batch.host
        asked = running.nonzero()  # rows of (chain, example, step)
        query, order = host.query[asked[:, 1], asked[:, 2]].sort(stable=True)
        asked = asked[order]
        table = torch.cat([asked, query.unsqueeze(1), host.step_ids[asked[:, 1], asked[:, 2]].unsqueeze(1)], 1)
        table = table.to(engine.model.device)
        found = torch.zeros(running.shape, dtype=torch.bool, device=table.device)

        def ask(start: int, stop: int) -> None:
            rows = table[start:stop]
            chain, example, step = rows[:, :3].T
            fields = self._replaced(engine, example, replaced[chain, example, step], ids[chain, example])
            end = int(query[stop - 1]) + 1  # they come in order
            fields["target_ids"] = fields["target_ids"][:, :end]
            logits = engine.logits(Rows(query=rows[:, 3:4], places=query[start:stop].unsqueeze(1), **fields)).squeeze(1)
            target = logits.gather(1, rows[:, 4:])
            found[chain, example, step] = (logits > target).sum(1) < self.stopping_condition_top_k

        Halving("a single replaced sequence").each(len(asked), engine.sizes.rows_at_once(), ask)
        return found

    def _replaced(self, engine: Engine, example: Tensor, replaced: Tensor, ids: Tensor) -> dict[str, Tensor]:
        """Inputs of sequences `[row, ...]` of examples with some tokens replaced."""
        sides = {f"{side}_ids": engine.ids(side)[example] for side in engine.model.sides}
        widths = self._widths(engine)
        for block, mask, new in zip(engine.blocks, replaced.split(widths, -1), ids.split(widths, -1), strict=True):
            sides[f"{block}_ids"] = torch.where(mask, new, sides[f"{block}_ids"])
        if engine.batch.source_mask is not None:
            sides["source_mask"] = engine.batch.source_mask[example]
        return sides
