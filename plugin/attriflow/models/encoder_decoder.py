"""Encoder-decoders: a source text and a target that begins with the decoder start token."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from attriflow.errors import NothingToExplainError, UnsupportedModelError
from attriflow.models.base import LanguageModel, Rows
from attriflow.models.checking import check_model
from attriflow.models.findings import ModelCheck
from attriflow.models.generation import generated_ids
from attriflow.texts.segments import ChatText, turns_of
from attriflow.texts.tokens import (
    Span,
    decode,
    decoded_spans,
    ids_to_tokens,
    sides,
    spans_as_forced,
    special_ids,
    tokenize,
)
from attriflow.types import Example

_ARGUMENTS = {"source": ("input_ids", "inputs_embeds"), "target": ("decoder_input_ids", "decoder_inputs_embeds")}
"""Names of ids and embeddings in a call, the encoder's first, as it runs first."""


class EncoderDecoder(LanguageModel):
    """A Hugging Face sequence-to-sequence model."""

    is_encoder_decoder: ClassVar[bool] = True

    _encoder_output: Callable[..., Any]
    """What the encoder returns; known once it has run."""

    @cached_property
    def checked(self) -> ModelCheck:
        """What the check of this model found."""
        return check_model(self)

    @cached_property
    def _sides(self) -> tuple[Any, Any]:
        return sides(self.tokenizer)

    @property
    def start_id(self) -> int:
        """The token every target begins with."""
        for owner in (getattr(self.hf, "generation_config", None), self.hf.config):
            value = getattr(owner, "decoder_start_token_id", None)
            if value is not None:
                return int(value[0] if isinstance(value, (list, tuple)) else value)
        raise UnsupportedModelError(f"{self.name} has no decoder_start_token_id in its configuration")

    def encode(
        self,
        input_texts: Sequence[str],
        generated_texts: Sequence[str] | None,
        *,
        continuation: bool = False,
        skip_special_tokens: bool = False,
    ) -> list[Example]:
        """Tokenise sources and targets with the tokenizer's special tokens; the decoder start token is put in front."""
        del continuation  # source and target are separate texts here
        special = not skip_special_tokens
        out = []
        for i, text in enumerate(input_texts):
            target = None if generated_texts is None else generated_texts[i]
            ids: list[int] = []
            spans: list[Span] = []
            if target is not None:
                ids, spans = self._target(target, special)
                if not ids:
                    rest = self._example(text, special, [self.start_id], [None], "")
                    raise NothingToExplainError(f"nothing to explain: the target of {text[:60]!r} is empty", rest)
            out.append(self._example(text, special, [self.start_id, *ids], [None, *spans], target or ""))
        return out

    def target_ids(self, text: str, *, skip_special_tokens: bool = False) -> list[int]:
        """Decoder start token and the ids of a target text."""
        ids = [self.start_id, *self._target(text, not skip_special_tokens)[0]]
        self.check_ids(ids)
        return ids

    def _target(self, text: str, special: bool) -> tuple[list[int], list[Span]]:
        """Ids and spans of a target text after the decoder start token: what `generate` would give for it.

        Special tokens that the tokenizer adds where generation has none are left out: the decoder start token once more
        ("[CLS] text [SEP]" after "[CLS]"), unless the model itself writes it first, as one that was trained so does;
        and what follows EOS (the language of training targets that are rolled).
        """
        ids, spans = tokenize(self._sides[1], text, special=special, target=True)
        if not special:
            return ids, spans
        if len(ids) > 1 and ids[0] == self.start_id and spans[0] is None:
            does = "which the model writes itself" if self._starts_twice else "which is kept once"
            token = self.tokenizer.convert_ids_to_tokens(ids[0])
            warnings.warn(f"the tokenizer begins targets with the decoder start token {token!r}, {does}", stacklevel=2)
            ids, spans = (ids, spans) if self._starts_twice else (ids[1:], spans[1:])
        markers = special_ids(self.tokenizer)
        text_end = max((i for i, token in enumerate(ids) if token not in markers), default=-1)
        end = next((i for i in range(text_end + 1, len(ids)) if ids[i] in self.eos_ids), len(ids) - 1)
        return ids[: end + 1], spans[: end + 1]

    @cached_property
    def _starts_twice(self) -> bool:
        """Whether the model's own targets begin with the decoder start token once more; asked once."""
        start = torch.tensor([[self.start_id]], device=self.device)
        source = {"source_ids": start, "source_mask": torch.ones_like(start)}
        with self.frozen(), torch.no_grad():
            logits = self.run(Rows(target_ids=start, query=torch.zeros_like(start), **source))
        return int(logits[0, 0].argmax()) == self.start_id

    def source_ids(self, text: str, *, skip_special_tokens: bool = False) -> list[int]:
        """Ids of a source text."""
        ids, _ = self._source(text, not skip_special_tokens)
        self.check_ids(ids, "source")
        return ids

    def _source(self, text: str, special: bool) -> tuple[list[int], list[Span]]:
        # a chat template writes the special tokens itself
        return tokenize(self._sides[0], text, special=special and not isinstance(text, ChatText))

    def _example(self, text: str, special: bool, ids: list[int], spans: list[Span], target_text: str) -> Example:
        source_ids, source_spans = self._source(text, special)
        if not source_ids:
            raise NothingToExplainError("an input text has no tokens")
        example = Example(
            source=tuple(ids_to_tokens(self._sides[0], source_ids, spans=source_spans, segment="source")),
            target=tuple(self.tokens(ids, spans=spans, segment="generated")),
            start=1,
            stop=len(ids),
            input_text=str(text),
            target_text=target_text,
            turns=turns_of(text),
        )
        self.check(example)
        return example

    @torch.no_grad()
    def generate(
        self,
        input_texts: Sequence[str],
        *,
        generation_args: Mapping[str, Any],
        seeds: Sequence[int],
        skip_special_tokens: bool = False,
    ) -> list[list[Example]]:
        """Generate from each source; the ids of the target are kept as they came."""
        special = not skip_special_tokens
        sources = [self._source(t, special)[0] for t in input_texts]
        found = generated_ids(self, sources, generation_args, seeds)
        return [
            [self._generated(text, special, row) for row in rows] for text, rows in zip(input_texts, found, strict=True)
        ]

    def _generated(self, text: str, special: bool, row: list[int]) -> Example:
        """A target, with the spans that a forced text of the same ids has, where there is one."""
        start, *new = row
        decoded = decode(self.tokenizer, new)
        for target in dict.fromkeys((decoded.lstrip(" "), decoded)):
            forced = tokenize(self._sides[1], target, special=False, target=True)
            spans = spans_as_forced(self._sides[1], new, *forced)
            if spans is not None:
                return self._example(text, special, [start, *new], [None, *spans], target)
        spans = decoded_spans(self.tokenizer, new, decoded)
        return self._example(text, special, [start, *new], [None, *spans], decoded)

    def encoder_states(self, rows: Rows) -> Tensor:
        """Encoder output `[row, source, hidden]`."""
        with self._fed(rows, {"source": ("input_ids", "inputs_embeds")}) as given:
            output = self.hf.get_encoder()(**given, attention_mask=rows.source_mask)
        # models read what their own kind of output has beside the states (routers of experts)
        self._encoder_output = type(output)
        states: Tensor = output.last_hidden_state
        return states

    def _call(self, rows: Rows, keep: slice | None) -> Tensor:
        arguments: dict[str, Any] = {"attention_mask": rows.source_mask}
        names = _ARGUMENTS
        if rows.encoder_states is not None:
            names = {"target": names["target"]}
            arguments["encoder_outputs"] = self._encoder_output(last_hidden_state=rows.encoder_states)
            arguments["input_ids"] = rows.source_ids  # some models make the decoder's masks only where these are given
        if rows.target_mask is not None:
            arguments["decoder_attention_mask"] = rows.target_mask
        if keep is not None:
            arguments["logits_to_keep"] = keep
        with self._fed(rows, names) as given:
            return self.logits(**given, **arguments)
