"""ReAGent: importance from replacing tokens by plausible others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attriflow.engine import Engine, Scores
from attriflow.engine.memory import Halving
from attriflow.errors import InputError, check_least
from attriflow.methods._draws import generator
from attriflow.methods._replacements import Replacements, Sampler
from attriflow.models.base import Rows
from attriflow.registry import methods


@methods.register(
    "reagent",
    family="perturbation",
    cost="c x n forwards + c x T x (checks) prefix forwards",
    signed=False,
    paper="Zhao and Shan 2024, arXiv:2402.00794",
    demo={"num_probes": 4, "max_probe_steps": 16},
    trial={"max_probe_steps": 4, "num_probes": 3},
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
    of every one. $\delta$ is cut to (-1, 1), the range it has for probabilities.

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
        importance = self._draw(engine, "start", lambda rng, n: rng.random((n, chains)))
        importance = importance.to(dtype).unsqueeze(2).expand(-1, -1, visible.shape[1], -1).clone()
        done = (~engine.batch.step_mask).expand(chains, -1, -1).clone()  # [chain, batch, step]
        base = engine.values()
        for iteration in range(1, self.max_probe_steps + 1):
            replaced = self._draw(engine, f"mask/{iteration}", lambda rng, n: rng.random((n, chains)))
            replaced = replaced < self.replacing_ratio  # [chain, batch, input]
            ids = replacements(f"probe/{iteration}", chains)
            delta = base - self._probe(engine, ids, replaced)  # [chain, batch, step]
            edge = 1 - 1e-6
            update = torch.logit((delta.clamp(-edge, edge).to(dtype) + 1) / 2).unsqueeze(-1)
            update = torch.where(replaced.unsqueeze(2), update, -update)
            importance = torch.where(done.unsqueeze(-1), importance, importance + update)
            if iteration & (iteration - 1) == 0 or iteration == self.max_probe_steps:
                done |= self._suffices(engine, importance, visible, done, replacements(f"check/{iteration}", chains))
                if bool(done.all()):
                    break
        shares = importance.masked_fill(~visible, -torch.inf).softmax(-1).nan_to_num()
        counted = torch.where(done.any(0), done, True).to(dtype).unsqueeze(-1)
        scores = (shares * counted).sum(0) / counted.sum(0)
        return Scores(dict(zip(engine.blocks, scores.split(self._widths(engine), -1), strict=True)))

    @staticmethod
    def _widths(engine: Engine) -> list[int]:
        return [engine.ids(b).shape[1] for b in engine.blocks]

    def _draw(self, engine: Engine, purpose: str, draw: Any) -> Tensor:
        """`[chain, batch, input]` from draws `[position, chain]` per example and block."""
        parts = []
        for block, width in zip(engine.blocks, self._widths(engine), strict=True):
            rows = [draw(generator(engine.seed, e, f"reagent/{purpose}/{block}"), width) for e in engine.examples]
            parts.append(torch.stack([torch.from_numpy(r) for r in rows]).permute(2, 0, 1))
        return torch.cat(parts, -1).to(engine.model.device)

    def _probe(self, engine: Engine, ids: Tensor, replaced: Tensor) -> Tensor:
        """The objective with some tokens replaced, `[chain, batch, step]`."""

        def changes(start: int, stop: int) -> dict[str, Tensor]:
            mixed = self._mixed(engine, ids[start:stop], replaced[start:stop])
            return {f"{b}_ids": m.flatten(0, 1) for b, m in mixed.items()}

        return engine.rescore(self.num_probes, changes)

    def _mixed(self, engine: Engine, ids: Tensor, replaced: Tensor) -> dict[str, Tensor]:
        """Block -> ids `[chain, batch, position]`, replaced where the mask says so and the token is a real one."""
        out, widths = {}, self._widths(engine)
        parts = zip(engine.blocks, ids.split(widths, -1), replaced.split(widths, -1), strict=True)
        for block, new, mask in parts:
            out[block] = torch.where(mask & engine.present(block), new, engine.ids(block))
        return out

    @torch.no_grad()
    def _suffices(self, engine: Engine, importance: Tensor, visible: Tensor, done: Tensor, ids: Tensor) -> Tensor:
        """Whether the most important tokens alone bring the target into the top predictions, `[chain, batch, step]`."""
        ranked = importance.masked_fill(~visible, -torch.inf).argsort(dim=-1, descending=True, stable=True).argsort(-1)
        n_visible = visible.sum(-1)
        top = n_visible.clamp(max=self.keep_top_n)
        if self.keep_ratio is not None:
            top = torch.ceil(n_visible * self.keep_ratio).long()
        replaced = (ranked >= top.unsqueeze(-1)) ^ self.invert_keep  # [chain, batch, step, input]
        found = torch.zeros_like(done)
        asked = (~done).nonzero()  # rows of (chain, example, step)
        asked = asked[engine.batch.query[asked[:, 1], asked[:, 2]].argsort(stable=True)]

        def ask(start: int, stop: int) -> None:
            rows = asked[start:stop]
            found[rows[:, 0], rows[:, 1], rows[:, 2]] = self._in_top(engine, rows, replaced, ids)

        Halving("a single replaced sequence").each(len(asked), engine.sizes.rows_at_once(), ask)
        return found

    def _in_top(self, engine: Engine, rows: Tensor, replaced: Tensor, ids: Tensor) -> Tensor:
        chain, example, step = rows.unbind(1)
        query = engine.batch.query[example, step]
        mask, new = replaced[chain, example, step], ids[chain, example]
        stop = int(query.max()) + 1
        fields: dict[str, Tensor] = {"target_ids": engine.ids("target")[example, :stop]}
        if engine.model.is_encoder_decoder:
            fields |= {"source_ids": engine.ids("source")[example], "source_mask": engine.batch.source_mask[example]}  # type: ignore[index]
        widths = self._widths(engine)
        for block, m, n in zip(engine.blocks, mask.split(widths, -1), new.split(widths, -1), strict=True):
            m = m & engine.present(block)[example]
            width = fields[f"{block}_ids"].shape[1]
            fields[f"{block}_ids"] = torch.where(m, n, engine.ids(block)[example])[:, :width]
        logits = engine.logits(Rows(query=query.unsqueeze(1), **fields)).squeeze(1)
        target = logits.gather(1, engine.batch.step_ids[example, step].unsqueeze(1))
        return (logits > target).sum(1) < self.stopping_condition_top_k
