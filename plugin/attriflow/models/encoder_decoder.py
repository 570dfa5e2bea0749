"""Encoder-decoders: a source text and a target that begins with the decoder start token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from attriflow.errors import InputError, UnsupportedModelError
from attriflow.models.base import LanguageModel, Rows
from attriflow.models.batch import pad
from attriflow.models.generation import cut_at_eos, generated_ids
from attriflow.texts.segments import ChatText, turns_of
from attriflow.texts.tokens import Span, decode, decoded_spans, tokenize
from attriflow.types import Example


class EncoderDecoder(LanguageModel):
    """A Hugging Face sequence-to-sequence model."""

    is_encoder_decoder: ClassVar[bool] = True

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
                ids, spans = tokenize(self.tokenizer, target, special=special, target=True)
                if not ids:
                    raise InputError(f"nothing to explain: the target of {text[:60]!r} is empty")
            out.append(self._example(text, special, [self.start_id, *ids], [None, *spans], target or ""))
        return out

    def target_ids(self, text: str, *, skip_special_tokens: bool = False) -> list[int]:
        """Decoder start token and the ids of a target text."""
        special = not skip_special_tokens
        return [self.start_id, *tokenize(self.tokenizer, text, special=special, target=True)[0]]

    def source_ids(self, text: str, *, skip_special_tokens: bool = False) -> list[int]:
        """Ids of a source text."""
        return self._source(text, not skip_special_tokens)[0]

    def _source(self, text: str, special: bool) -> tuple[list[int], list[Span]]:
        # a chat template writes the special tokens itself
        return tokenize(self.tokenizer, text, special=special and not isinstance(text, ChatText))

    def _example(self, text: str, special: bool, ids: list[int], spans: list[Span], target_text: str) -> Example:
        source_ids, source_spans = self._source(text, special)
        if not source_ids:
            raise InputError("an input text has no tokens")
        example = Example(
            source=tuple(self.tokens(source_ids, spans=source_spans, segment="source")),
            target=tuple(self.tokens(ids, spans=spans, segment="generated")),
            start=1,
            stop=len(ids),
            input_text=str(text),
            target_text=target_text,
            turns=turns_of(text),
        )
        self.check_length(example)
        return example

    @torch.no_grad()
    def generate(
        self, input_texts: Sequence[str], *, generation_args: Mapping[str, Any], skip_special_tokens: bool = False
    ) -> list[Example]:
        """Generate from right-padded sources; the ids of the target are kept as they came."""
        special = not skip_special_tokens
        rows = [self._source(t, special)[0] for t in input_texts]
        ids, mask = pad(rows, self.pad_id, self.device)
        out = generated_ids(self, ids, mask, generation_args)
        copies = len(out) // len(rows)
        examples = []
        for i, row in enumerate(out):
            new = cut_at_eos(row[1:], self.eos_ids, self.pad_id)
            if not new:
                raise InputError(f"the model generated nothing for {input_texts[i // copies][:60]!r}")
            text = decode(self.tokenizer, new)
            spans = [None, *decoded_spans(self.tokenizer, new, text=text)]
            examples.append(self._example(input_texts[i // copies], special, [row[0], *new], spans, text))
        return examples

    def encoder_states(self, rows: Rows) -> Tensor:
        """Encoder output `[row, source, hidden]`."""
        arguments: dict[str, Any] = {"attention_mask": rows.source_mask}
        if rows.source_embeds is not None:
            arguments["inputs_embeds"] = rows.source_embeds
        else:
            arguments["input_ids"] = rows.source_ids
        states: Tensor = self.hf.get_encoder()(**arguments).last_hidden_state
        return states

    def _call(self, rows: Rows, keep: Tensor | None) -> Tensor:
        from transformers.modeling_outputs import BaseModelOutput

        arguments: dict[str, Any] = {"use_cache": False, "attention_mask": rows.source_mask}
        if rows.encoder_states is not None:
            arguments["encoder_outputs"] = BaseModelOutput(last_hidden_state=rows.encoder_states)  # type: ignore[arg-type]
        elif rows.source_embeds is not None:
            arguments["inputs_embeds"] = rows.source_embeds
        else:
            arguments["input_ids"] = rows.source_ids
        if rows.target_embeds is not None:
            arguments["decoder_inputs_embeds"] = rows.target_embeds
        else:
            arguments["decoder_input_ids"] = rows.target_ids
        if rows.target_mask is not None:
            arguments["decoder_attention_mask"] = rows.target_mask
        if keep is not None:
            arguments["logits_to_keep"] = keep
        logits: Tensor = self.hf(**arguments).logits
        return logits
