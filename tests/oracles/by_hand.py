"""What a model computes on ids alone: one plain forward per prefix (and per changed token), autograd at the embeddings.

Judges everything that attriflow does to save passes, on any architecture. Plain transformers calls and nothing of
attriflow: ids go in, no mask, no positions, no padding; a hook on the embedding modules makes their output a leaf.
Scores are invariant to where an architecture scales its embeddings.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

NAN = float("nan")


def probability(logits: Tensor, token: int) -> Tensor:
    return logits.softmax(-1)[token]


def entropy(logits: Tensor, token: int) -> Tensor:
    del token
    return -(logits.softmax(-1) * logits.log_softmax(-1)).sum()


FUNCTIONS: dict[str, Callable[[Tensor, int], Tensor]] = {"probability": probability, "entropy": entropy}


@dataclass
class Text:
    """Ids of one text: `source` is empty for decoder-only models; steps are the positions `start:` of `target`."""

    target: list[int]
    start: int
    source: list[int] = field(default_factory=list)


@dataclass
class ByHand:
    """A Hugging Face model in evaluation mode.

    Attributes:
        hf: The model.
        absent: The id that stands for an absent token.
        kept: Ids that are their own baseline.
    """

    hf: Any
    absent: int
    kept: tuple[int, ...] = ()

    def logits(self, source: list[int], prefix: list[int], **arguments: Any) -> Any:
        """The output of one forward on ids alone."""
        if source:
            return self.hf(
                input_ids=torch.tensor([source]),
                decoder_input_ids=torch.tensor([prefix]),
                use_cache=False,
                **arguments,
            )
        return self.hf(input_ids=torch.tensor([prefix]), use_cache=False, **arguments)

    def values(self, text: Text) -> dict[str, Tensor]:
        """Step function -> `[step]`."""
        rows = [self._values(text.source, text.target[:end], text.target[end]) for end in _ends(text)]
        return {name: torch.stack([row[name] for row in rows]) for name in FUNCTIONS}

    @torch.no_grad()
    def _values(self, source: list[int], prefix: list[int], token: int) -> dict[str, Tensor]:
        last = self.logits(source, prefix).logits[0, -1]
        return {name: function(last, token) for name, function in FUNCTIONS.items()}

    def occlusion(self, text: Text) -> dict[str, Tensor]:
        """Step function -> `[step, input]`: the value minus the value with one id exchanged."""
        rows: dict[str, list[list[float]]] = {name: [] for name in FUNCTIONS}
        for end in _ends(text):
            whole = self._values(text.source, text.target[:end], text.target[end])
            effects: dict[str, list[float]] = {name: [] for name in FUNCTIONS}
            ids = [*text.source, *text.target[:end]]
            for i, token in enumerate(ids):
                changed = [*ids[:i], self._absent(token, i, text), *ids[i + 1 :]]
                n = len(text.source)
                other = self._values(changed[:n], changed[n:], text.target[end])
                for name in FUNCTIONS:
                    effects[name].append(float(whole[name] - other[name]))
            for name in FUNCTIONS:
                rows[name].append(effects[name])
        return {name: _table(found, text) for name, found in rows.items()}

    def _absent(self, token: int, i: int, text: Text) -> int:
        """What takes the place of the token at an input position; EOS and the decoder's start stay."""
        starts = text.source and i == len(text.source)
        return token if starts or token in self.kept else self.absent

    def input_x_gradient(self, text: Text) -> dict[str, Tensor]:
        """Step function -> `[step, input]`: L2 norm of gradient times embedding.

        Not the sum, which is zero where a norm follows the embeddings.
        """
        return self._along(text, [1.0], [1.0], from_zero=True)

    def integrated_gradients(self, text: Text, n_steps: int) -> dict[str, Tensor]:
        """Step function -> `[step, input]`: the path from the absent token's embedding, by Gauss and Legendre."""
        points, weights = np.polynomial.legendre.leggauss(n_steps)
        return self._along(text, list((points + 1) / 2), list(weights / 2), from_zero=False)

    def _along(self, text: Text, alphas: list[float], weights: list[float], from_zero: bool) -> dict[str, Tensor]:
        rows: dict[str, list[list[float]]] = {name: [] for name in FUNCTIONS}
        for end in _ends(text):
            total = dict.fromkeys(FUNCTIONS, 0.0)
            for alpha, weight in zip(alphas, weights, strict=True):
                with self._leaves(text, end, alpha, from_zero) as leaves:
                    last = self.logits(text.source, text.target[:end]).logits[0, -1]
                for name, function in FUNCTIONS.items():
                    grads = torch.autograd.grad(
                        function(last, text.target[end]), [leaf for leaf, _ in leaves], retain_graph=True
                    )
                    products = [(g * d)[0] for g, (_, d) in zip(grads, leaves, strict=True)]
                    parts = [p.norm(dim=-1) if from_zero else p.sum(-1) for p in products]
                    total[name] = total[name] + weight * torch.cat(parts).detach()
            for name in FUNCTIONS:
                rows[name].append(total[name].tolist())
        return {name: _table(found, text) for name, found in rows.items()}

    @contextmanager
    def _leaves(self, text: Text, end: int, alpha: float, from_zero: bool):
        """Yields (leaf, factor), of the source first; a leaf lies between absent tokens and the text."""
        leaves: list[tuple[Tensor, Tensor]] = []
        sides = [text.source, text.target[:end]] if text.source else [text.target[:end]]

        def hook(module, args, output):
            side = len(leaves)
            if side == len(sides) or args[0].tolist() != [sides[side]]:
                return output  # of padding that the architecture adds by itself
            offset = len(text.source) if side and text.source else 0
            ids = [self._absent(t, offset + i, text) for i, t in enumerate(sides[side])]
            with torch.no_grad():
                absent = type(module).forward(module, torch.tensor([ids]))
            base = torch.zeros_like(output) if from_zero else absent
            difference = (output - base).detach()
            leaf = (base + alpha * difference).detach().requires_grad_(True)
            leaves.append((leaf, difference))
            return leaf.clone()  # some models go on in place

        modules = [self.hf.get_input_embeddings()]
        if text.source:
            owners = [self.hf.get_encoder(), self.hf.get_decoder()]
            modules = [getattr(o, "embed_tokens", None) or o.get_input_embeddings() for o in owners]
        handles = [m.register_forward_hook(hook) for m in dict.fromkeys(modules)]
        try:
            yield leaves
        finally:
            for handle in handles:
                handle.remove()
        assert len(leaves) == len(sides), "the embeddings are not called once per side"

    @torch.no_grad()
    def attention(self, text: Text) -> Tensor | None:
        """`[step, input, layer, head]`, the row of the last position; None where transformers gives no weights.

        The model must have been made with eager attention: not all can be switched.
        """
        rows = []
        for end in _ends(text):
            out = self.logits(text.source, text.target[:end], output_attentions=True)
            names = ("cross_attentions", "decoder_attentions") if text.source else ("attentions",)
            parts = []
            for name in names:
                keys = len(text.source) if name == "cross_attentions" else end
                maps = [m for m in getattr(out, name, None) or () if m is not None]
                maps = [m for m in maps if m.ndim == 4 and m.shape[2:] == (end, keys)]  # others are of linear layers
                if not maps:
                    return None
                parts.append(torch.stack([m[0, :, -1] for m in maps]).permute(2, 0, 1))
            rows.append(torch.cat(parts))
        width = len(text.source) + len(text.target)
        table = rows[0].new_full((len(rows), width, *rows[0].shape[1:]), NAN)
        for step, row in enumerate(rows):
            table[step, : len(row)] = row
        return table


def _ends(text: Text) -> range:
    return range(text.start, len(text.target))


def _table(rows: list[list[float]], text: Text) -> Tensor:
    """`[step, input]`, NaN where a step sees nothing."""
    out = torch.full((len(rows), len(text.source) + len(text.target)), NAN, dtype=torch.float64)
    for step, row in enumerate(rows):
        out[step, : len(row)] = torch.tensor(row, dtype=torch.float64)
    return out
