"""Attention weights."""

from __future__ import annotations

from dataclasses import dataclass

from attriflow.engine import Engine
from attriflow.methods._scores import Scores
from attriflow.registry import methods


@methods.register(
    "attention",
    family="internals",
    cost="1 forward",
    deterministic=True,
    signed=False,
    paper="Bahdanau et al. 2014, arXiv:1409.0473",
)
@dataclass(frozen=True)
class Attention:
    """Attention weights of the position that predicts each step, for every layer and head.

    Decoder-only models: self attention. Encoder-decoders: cross attention for source tokens, decoder self attention for
    target tokens. Layers and heads stay as axes; `Attribution.token_scores()` averages them. The explained function
    plays no part.
    """

    def __call__(self, engine: Engine) -> Scores:
        """Scores of a batch."""
        return Scores({b: maps.to(engine.dtype) for b, maps in engine.attention().items()}, ("layer", "head"))
