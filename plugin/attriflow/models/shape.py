"""How large a model is, by its configuration, whatever names that gives to its numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_LAYERS = ("decoder_layers", "num_decoder_layers", "num_hidden_layers")
_INNER = ("intermediate_size", "n_inner", "d_ff", "decoder_ffn_dim", "ffn_dim", "ffn_hidden_size")
_ENCODER_LAYERS = ("encoder_layers", "num_layers", "num_hidden_layers")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a Transformer.

    Attributes:
        known: Whether the configuration tells; other numbers are those of a small model then.
        layers: Of the decoder (or only) stack.
        encoder_layers: Of the encoder; as many as `layers` where there is no other number.
        heads, key_value_heads: Of attention.
        width: Of hidden states.
        head_width: Of one head.
        inner: Of what feed-forward layers have between their matrices.
    """

    known: bool
    layers: int
    encoder_layers: int
    heads: int
    key_value_heads: int
    width: int
    head_width: int
    inner: int

    @classmethod
    def of(cls, hf: Any, width: int) -> Shape:
        """Read a Hugging Face model's configuration.

        Args:
            hf: The model.
            width: Of its embeddings, in case the configuration does not tell.
        """
        config = hf.config.get_text_config() if hasattr(hf.config, "get_text_config") else hf.config
        given, heads = _first(config, "hidden_size"), _first(config, "num_attention_heads")
        layers = _first(config, *_LAYERS)
        inner, many = given or width, heads or 8
        return cls(
            known=bool(given and heads and layers),
            layers=layers or 12,
            encoder_layers=_first(config, *_ENCODER_LAYERS) or layers or 12,
            heads=many,
            key_value_heads=_first(config, "num_key_value_heads") or many,
            width=inner,
            head_width=_first(config, "head_dim", "d_kv") or max(1, inner // many),
            inner=_first(config, *_INNER) or 4 * inner,
        )


def _first(config: Any, *names: str) -> int | None:
    """The first of some settings that is a number above 0; of one that layers differ in, the largest."""
    found = (_setting(config, name) for name in names)
    return next((n for n in found if isinstance(n, int) and not isinstance(n, bool) and n > 0), None)


def _setting(config: Any, name: str) -> Any:
    try:
        return getattr(config, name, None)
    except Exception:  # transformers 5 has no one value for what its layers differ in
        each = [getattr(layer, name, None) for layer in config.per_layer_config]
        return max((n for n in each if isinstance(n, int)), default=None)
