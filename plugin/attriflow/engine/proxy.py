"""A smaller model beside a model, for first looks at what is worth the larger one's time."""

from __future__ import annotations

import dataclasses
from typing import Any
from weakref import WeakKeyDictionary

from attriflow.engine.bound import Counter
from attriflow.engine.engine import Engine
from attriflow.errors import InputError
from attriflow.models.base import LanguageModel

_given: WeakKeyDictionary[LanguageModel, LanguageModel] = WeakKeyDictionary()


def use_proxy(model: Any, proxy: Any) -> None:
    """Have `occlusion(proxy=True)` ask a smaller model first which parts of an input are worth asking the model about.

    Args:
        model: From `load_model`.
        proxy: Another one from `load_model`, with the same tokens: texts are not tokenised again.

    Raises:
        InputError: One of them is no model of attriflow, or their tokens differ.
    """
    large, small = getattr(model, "wrapped", None), getattr(proxy, "wrapped", None)
    if not isinstance(large, LanguageModel) or not isinstance(small, LanguageModel):
        raise InputError("a model and its proxy come from attriflow.load_model")
    if large.is_encoder_decoder != small.is_encoder_decoder:
        raise InputError(f"{small.name} cannot be a proxy of {large.name}: one has an encoder, the other has none")
    own, other = large.tokenizer.get_vocab(), small.tokenizer.get_vocab()
    if own != other:
        differ = next(piece for piece in sorted({*own, *other}) if own.get(piece) != other.get(piece))
        raise InputError(
            f"{small.name} cannot be a proxy of {large.name}: a proxy has the same tokenizer, and the token "
            f"{differ!r} is {own.get(differ, 'missing')} in one and {other.get(differ, 'missing')} in the other"
        )
    _given[large] = small


def proxied(engine: Engine) -> Engine:
    """The batch of an engine on the proxy of its model, with passes that are counted apart."""
    if engine.model not in _given:
        raise InputError("proxy=True needs a smaller model: attriflow.use_proxy(model, proxy)")
    return dataclasses.replace(engine, model=_given[engine.model], counter=Counter())
