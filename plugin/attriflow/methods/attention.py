"""Attention weights."""

from __future__ import annotations

from dataclasses import dataclass

from attriflow.engine import Engine, Scores
from attriflow.errors import InputError
from attriflow.registry import methods


@methods.register(
    "attention",
    family="internals",
    blind="Weights say where a position looks, not what it takes from there, nor what later layers and the "
    "explained function make of it.",
    cost="1 forward",
    axes="step, input, layer, head",
    deterministic=True,
    signed=False,
    paper="Bahdanau et al. 2014, arXiv:1409.0473",
    floor=lambda problem, **_: problem.forward() - problem.head(),
    memory=lambda sizes, **_: sizes.recorded(3.3),
)
@dataclass(frozen=True)
class Attention:
    """Attention weights of the position that predicts each step, for every layer and head.

    Decoder-only models: self attention. Encoder-decoders: cross attention for source tokens, decoder self attention for
    target tokens. Layers and heads stay as axes; `Attribution.token_scores()` averages them. The explained function
    plays no part.

    Attributes:
        output_encoder_self_scores: Add the encoder's self attention as `sequence_scores["encoder_self"]`,
            `[attended token, receiving token, layer, head]`.
        output_decoder_self_scores: Add the decoder's whole self attention as `sequence_scores["decoder_self"]`, with
            the same axes; weights of tokens that come later are 0. It takes memory quadratic in the length.
    """

    output_encoder_self_scores: bool = False
    output_decoder_self_scores: bool = False

    def __call__(self, engine: Engine) -> Scores:
        """Scores of a batch."""
        if self.output_encoder_self_scores and not engine.model.is_encoder_decoder:
            raise InputError(
                f"output_encoder_self_scores needs an encoder; {engine.model.name} is a decoder-only model"
            )
        wanted = {"encoder_self": self.output_encoder_self_scores, "decoder_self": self.output_decoder_self_scores}
        whole = tuple(name for name, on in wanted.items() if on)
        maps = {name: m.to(engine.dtype) for name, m in engine.attention(whole).items()}
        return Scores(
            {b: maps[b] for b in engine.blocks},
            ("layer", "head"),
            sequence_scores={name: maps[name] for name in whole},
        )
