"""What a masked language model expects in a place, in tokens of the model that is explained."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import groupby
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from attriflow.errors import InputError, reason_of
from attriflow.models.base import LanguageModel
from attriflow.models.offload import device_of
from attriflow.types import Token

NONE = -1
"""In place of a token for which none could be drawn."""
ROWS = 32
"""Texts with one mask each that run together."""
_given: WeakKeyDictionary[LanguageModel, MaskedLM] = WeakKeyDictionary()


class MaskedLM:
    """A masked language model beside a model, with the pieces that both know, by their text.

    Same pieces, not same ids: RoBERTa has those of GPT-2 and BART, XLM-R most of those of other SentencePiece models.
    Special tokens of either are never drawn.
    """

    def __init__(self, model: LanguageModel, hf: Any, tokenizer: Any) -> None:
        self.hf, self.tokenizer, self.of = hf, tokenizer, model.name
        self.name = str(getattr(hf.config, "_name_or_path", "") or type(hf).__name__)
        if tokenizer.mask_token_id is None:
            raise InputError(f"the tokenizer of {self.name} has no mask token, which a masked language model needs")
        own, other = model.tokenizer.get_vocab(), tokenizer.get_vocab()
        special = {*model.tokenizer.all_special_tokens, *tokenizer.all_special_tokens}
        size = int(hf.get_input_embeddings().weight.shape[0])
        both = sorted(
            (own[piece], other[piece])
            for piece in own.keys() & other.keys() - special
            if own[piece] < model.vocab_size and other[piece] < size
        )
        self._id = dict(both)
        self._ours, self._theirs = torch.tensor(both, dtype=torch.long).view(-1, 2).T

    @torch.no_grad()
    def draws(self, tokens: Sequence[Token], given: int, u: np.ndarray) -> np.ndarray:
        """Ids in place of tokens, `[position, draw]`; special tokens have NONE.

        Args:
            tokens: Source tokens, or decoder tokens.
            given: How many of them are known from the start: those see each other, later ones what is before them.
            u: Uniform numbers, `[position, draw]`.
        """
        out = np.full(u.shape, NONE)
        rows: list[tuple[int, list[int], int]] = []  # place, text with a mask, place of the mask
        before = [] if self.tokenizer.cls_token_id is None else [self.tokenizer.cls_token_id]
        after = [] if self.tokenizer.sep_token_id is None else [self.tokenizer.sep_token_id]
        known = [(i, self._known(token)) for i, token in enumerate(tokens) if not token.special]
        for number, (place, _) in enumerate(known):
            text = [piece for i, piece in known if i < max(given, place + 1)]
            text[number] = self.tokenizer.mask_token_id
            rows.append((place, [*before, *text, *after], len(before) + number))
        for _, alike in groupby(rows, key=lambda row: len(row[1])):
            same = list(alike)
            for start in range(0, len(same), ROWS):
                places, texts, masks = zip(*same[start : start + ROWS], strict=True)
                cumulative = self._expected(torch.tensor(texts), list(masks)).cumsum(-1)
                found = torch.searchsorted(cumulative, torch.from_numpy(u[list(places)]), right=True)
                out[list(places)] = self._ours[found.clamp(max=len(self._ours) - 1)].numpy()
        return out

    def _known(self, token: Token) -> int:
        if token.id not in self._id:
            raise InputError(
                f"the masked language model {self.name} does not know the token {token.text!r} of {self.of}: "
                "it must have the same pieces (RoBERTa has those of GPT-2 and BART); use 'infill' where none has"
            )
        return self._id[token.id]

    def _expected(self, texts: Tensor, masks: Sequence[int]) -> Tensor:
        """Probabilities of the pieces at the mask of each text, `[text, piece]`, on the host."""
        most = _longest(self.hf)
        if most is not None and texts.shape[1] > most:
            raise InputError(f"the masked language model {self.name} reads {most} tokens, not {texts.shape[1]}")
        training = self.hf.training
        self.hf.eval()
        try:
            texts = texts.to(device_of(self.hf.get_input_embeddings()))
            logits = self.hf(input_ids=texts, attention_mask=torch.ones_like(texts)).logits
        finally:
            self.hf.train(training)
        at = logits[torch.arange(len(texts)), torch.tensor(masks)].cpu().double()
        return at[:, self._theirs].softmax(-1)


def use_masked_lm(model: Any, source: Any, tokenizer: Any = None) -> None:
    """Have a model's "masked_lm" (a metric's `perturbation`, a method's `baseline`) draw from a masked language model.

    Args:
        model: From `load_model`.
        source: A local folder, a Hugging Face name, or a loaded model. It has to know every piece of the texts that
            are explained, whatever its id.
        tokenizer: A loaded one's; the model's own when None.
    """
    wrapped = getattr(model, "wrapped", model)
    if isinstance(source, (str, os.PathLike)):
        source, found = _loaded(str(source))
        tokenizer = found if tokenizer is None else tokenizer
    if not callable(source) or not hasattr(source, "config"):
        raise InputError("a masked language model is a local folder, a Hugging Face name or a loaded model")
    _given[wrapped] = MaskedLM(wrapped, source, wrapped.tokenizer if tokenizer is None else tokenizer)


def masked_lm(model: LanguageModel) -> MaskedLM:
    """The masked language model that a model has been given."""
    if model not in _given:
        raise InputError(
            "'masked_lm' needs a masked language model: name it in an evaluation's 'masked_lm' (--masked-lm), or give "
            "it with attriflow.use_masked_lm(model, ...)"
        )
    return _given[model]


def _loaded(name: str) -> tuple[Any, Any]:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    try:
        return AutoModelForMaskedLM.from_pretrained(name), AutoTokenizer.from_pretrained(name)
    except Exception as error:
        raise InputError(f"masked_lm: {name!r} is no masked language model: {reason_of(error)}") from error


def _longest(hf: Any) -> int | None:
    """Tokens that fit into its table of positions; None where there is none."""
    for name, module in hf.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            padding = module.padding_idx
            return module.num_embeddings - (0 if padding is None else padding + 1)
    return None
