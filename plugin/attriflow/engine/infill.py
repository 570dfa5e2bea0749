"""Infilling: removed tokens are replaced by likely ones, drawn from the data or from the model, and averaged over.

Input marginalisation (Kim et al. 2020, arXiv:2010.13984; Harbecke and Alt 2020, 2004.09890): the probability without
some tokens is its mean over what could stand in their place, so that no text is one that the model has never seen the
like of. Every example has `DRAWS` replacements of each of its tokens, the same for all changes, metrics and methods;
for methods, whose steps may know nothing of other texts or of what comes later, they come from the text itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from attriflow.engine.bound import Counter
from attriflow.engine.masked import NONE, masked_lm
from attriflow.errors import InputError
from attriflow.kernels.seeds import hashed
from attriflow.kernels.transfer import sent
from attriflow.models.base import LanguageModel, Rows
from attriflow.texts.tokens import special_ids
from attriflow.types import Example, Infill, Token

INFILLS: tuple[str, ...] = get_args(Infill)
"""What replacements are drawn from: the tokens of all examples (for a method: of the example), what the model expects
after the tokens before, or what a masked language model does in that place (see `attriflow.use_masked_lm`)."""
DRAWS = 4
Fill = tuple[tuple[int, ...], tuple[int, ...]]
"""Replacements of an example's source and decoder tokens."""


class Fills:
    """Replacements for the tokens of examples, drawn when they are first asked for.

    With `own` those of "infill" come from the example itself: its source or prompt and, for a later decoder token,
    what is before it.
    """

    def __init__(
        self, model: LanguageModel, examples: Sequence[Example], counter: Counter | None = None, own: bool = False
    ) -> None:
        self.model, self.examples, self.counter, self.own = model, examples, counter, own
        self._known: dict[tuple[int, str], list[Fill]] = {}

    def __call__(self, index: int, how: str) -> list[Fill]:
        """The replacements of an example, one for each draw."""
        if (index, how) not in self._known:
            self._known[index, how] = self._drawn(self.examples[index], how)
        return self._known[index, how]

    def _drawn(self, example: Example, how: str) -> list[Fill]:
        made: list[list[np.ndarray]] = []
        given = [*example.source_ids, *example.target_ids[: example.prompt_length]]
        expected = self._expected(example) if how == "infill_model" else None
        for block, tokens in (("source", example.source), ("target", example.target[: example.stop])):
            rng = np.random.default_rng(hashed(f"infill/{block}", given, size=4))
            u = rng.random((len(tokens), DRAWS))  # those of a token do not depend on later ones
            known = len(tokens) if block == "source" else example.prompt_length
            if how == "masked_lm":
                made.append(list(masked_lm(self.model).draws(tokens, known, u).T))
                continue
            ids = _own(tokens, known, u) if self.own else _from(self._pools[block], u)
            if expected is not None and block == "target" and len(tokens) > 1:
                ids[1:] = torch.searchsorted(expected, torch.from_numpy(u[1:]), right=True).clamp(
                    max=expected.shape[-1] - 1
                )
            made.append(list(ids.T))
        return [(tuple(source.tolist()), tuple(target.tolist())) for source, target in zip(*made, strict=True)]

    @cached_property
    def _pools(self) -> dict[str, np.ndarray]:
        """The ids of all tokens that are not special, by block."""
        source = sorted(t.id for e in self.examples for t in e.source if not t.special)
        target = sorted(t.id for e in self.examples for t in e.target[: e.stop] if not t.special)
        return {"source": np.array(source, int), "target": np.array(target, int)}

    @torch.no_grad()
    def _expected(self, example: Example) -> Tensor:
        """Cumulative distribution of every decoder token but the first, `[position, vocab]`, without special tokens."""
        if example.source:
            raise InputError(
                "'infill_model' draws what a decoder expects, and an encoder's tokens have no such "
                "distribution; use 'infill'"
            )
        model, ids = self.model, torch.tensor([[t.id for t in example.target[: example.stop - 1]]])
        query = torch.arange(ids.shape[1]).unsqueeze(0)
        ids, there = sent([ids, query], model.device)
        logits = model.run(Rows(target_ids=ids, query=there, places=query))[0].cpu().double()
        if self.counter is not None:
            self.counter.forward_rows += 1
            self.counter.forward_calls += 1
        special = [i for i in special_ids(model.tokenizer) if i < logits.shape[-1]]
        logits[:, special] = -torch.inf
        return logits.softmax(-1).cumsum(-1)


def _from(pool: np.ndarray, u: np.ndarray) -> np.ndarray:
    return pool[(u * len(pool)).astype(int)] if len(pool) else np.zeros_like(u, int)


def _own(tokens: Sequence[Token], known: int, u: np.ndarray) -> np.ndarray:
    """Ids of a text's own tokens, `[position, draw]`: of the first `known` ones and those before; NONE without any."""
    places = np.array([i for i, t in enumerate(tokens) if not t.special], int)
    pool = np.array([*(tokens[i].id for i in places), NONE], int)
    sizes = np.searchsorted(places, np.maximum(np.arange(len(tokens)), known))
    return np.where(sizes[:, None] > 0, pool[(u * sizes[:, None]).astype(int)], NONE)


def averaged(log_probabilities: Tensor) -> Tensor:
    """Logarithm of the mean probability over draws, `[draw * step]` to `[step]`."""
    return log_probabilities.view(DRAWS, -1).logsumexp(0) - math.log(DRAWS)
