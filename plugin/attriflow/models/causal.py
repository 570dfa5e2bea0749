"""Decoder-only models: the prompt and its continuation are one sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from attriflow.errors import InputError
from attriflow.models.base import LanguageModel, Rows
from attriflow.models.generation import cut_at_eos, generated_ids
from attriflow.texts.segments import ChatText, turns_of, with_reply
from attriflow.texts.tokens import Span, decode, decoded_spans, tokenize
from attriflow.types import Example


class CausalLM(LanguageModel):
    """A Hugging Face causal language model."""

    is_encoder_decoder: ClassVar[bool] = False

    def encode(
        self,
        input_texts: Sequence[str],
        generated_texts: Sequence[str] | None,
        *,
        continuation: bool = False,
        skip_special_tokens: bool = False,
    ) -> list[Example]:
        """Tokenise prompt + continuation once, so that ids are those the model would read.

        Args:
            input_texts: Prompts.
            generated_texts: Full texts that begin with their prompt; with `continuation`, a text that does not is
                appended to its prompt (with a space between, unless one of them brings its own). To a chat, a reply is
                appended as it is.
            continuation: See above.
            skip_special_tokens: Tokenise without the tokenizer's special tokens.
        """
        if generated_texts is None:
            return [self._example(text, *self._prompt(text, not skip_special_tokens), [], []) for text in input_texts]
        return [
            self._forced(prompt, text, continuation, not skip_special_tokens)
            for prompt, text in zip(input_texts, generated_texts, strict=True)
        ]

    def target_ids(self, text: str, *, skip_special_tokens: bool = False) -> list[int]:
        """Ids of a full text."""
        return self._sequence(text, not skip_special_tokens)[0]

    def source_ids(self, text: str, *, skip_special_tokens: bool = False) -> list[int]:
        """Ids of a prompt."""
        return self._prompt(text, not skip_special_tokens)[0]

    def _forced(self, prompt: str, text: str, continuation: bool, special: bool) -> Example:
        text = with_reply(prompt, text)
        if not text.startswith(prompt):
            if not continuation:
                raise InputError(
                    "for decoder-only models a forced generation must begin with its input text; "
                    f"{text[:60]!r} does not begin with {prompt[:60]!r}"
                )
            joined = not prompt or prompt[-1].isspace() or text[:1].isspace()
            text = prompt + text if joined else f"{prompt} {text}"
        ids, spans = self._sequence(text, special)
        prompt_ids, _ = self._prompt(prompt, special)
        start = len(prompt_ids)
        if ids[:start] != prompt_ids and isinstance(prompt, ChatText):
            # the header before a reply is written by the template, and a reply begins with a token of its own
            ids, spans = self._reply(prompt, text)
        elif ids[:start] != prompt_ids:
            # a token straddles the border: it belongs to the continuation, in whose choice the prompt's end took part
            start = next((i for i, s in enumerate(spans) if s is not None and s[1] > len(prompt)), len(ids))
        if start >= len(ids):
            raise InputError(f"nothing to explain: the forced generation adds no token to its input {prompt[:60]!r}")
        if start == 0:
            raise InputError(f"the input {prompt[:60]!r} has no token of its own before the forced generation")
        return self._example(prompt, ids[:start], spans[:start], ids[start:], spans[start:], text)

    def _reply(self, prompt: str, text: str) -> tuple[list[int], list[Span]]:
        ids, spans = self._prompt(prompt, False)
        reply_ids, reply_spans = tokenize(self.tokenizer, text[len(prompt) :], special=False)
        shifted = [None if s is None else (s[0] + len(prompt), s[1] + len(prompt)) for s in reply_spans]
        return [*ids, *reply_ids], [*spans, *shifted]

    def _sequence(self, text: str, special: bool) -> tuple[list[int], list[Span]]:
        special = special and not isinstance(text, ChatText)  # a template writes the special tokens itself
        ids, spans = tokenize(self.tokenizer, text, special=special)
        if special:
            plain, _ = tokenize(self.tokenizer, text, special=False)
            added = len(ids) - len(plain)
            # an EOS that the tokenizer appends would end the text before its continuation
            while added > 0 and len(ids) > 1 and ids[-1] in self.eos_ids and (not plain or ids[-len(plain) :] != plain):
                ids, spans, added = ids[:-1], spans[:-1], added - 1
            bos = self.tokenizer.bos_token_id
            if bos is not None and ids[:2] == [bos, bos] and plain[:1] == [bos]:
                ids, spans = ids[1:], spans[1:]  # the text (a chat template, say) brings its own BOS
        return ids, spans

    def _prompt(self, text: str, special: bool) -> tuple[list[int], list[Span]]:
        ids, spans = self._sequence(text, special)
        if not ids:
            first = self.tokenizer.bos_token_id
            first = self.tokenizer.eos_token_id if first is None else first
            if first is None:
                raise InputError("an empty input needs a tokenizer with a BOS or EOS token")
            return [int(first)], [None]
        return ids, spans

    def _example(
        self,
        prompt: str,
        prompt_ids: list[int],
        prompt_spans: list[Span],
        new_ids: list[int],
        new_spans: list[Span],
        text: str = "",
    ) -> Example:
        target = (
            *self.tokens(prompt_ids, spans=prompt_spans, segment="prompt"),
            *self.tokens(new_ids, spans=new_spans, segment="generated"),
        )
        example = Example(
            target=target,
            start=len(prompt_ids),
            stop=len(target),
            input_text=str(prompt),
            target_text=str(text or prompt),
            turns=turns_of(prompt),
        )
        self.check_length(example)
        return example

    @torch.no_grad()
    def generate(
        self, input_texts: Sequence[str], *, generation_args: Mapping[str, Any], skip_special_tokens: bool = False
    ) -> list[Example]:
        """Generate from left-padded prompts with their mask; ids are kept, text is only for reading."""
        prompts = [self._prompt(text, not skip_special_tokens) for text in input_texts]
        width = max(len(ids) for ids, _ in prompts)
        ids = torch.full((len(prompts), width), self.pad_id)
        mask = torch.zeros_like(ids)
        for i, (row, _) in enumerate(prompts):
            ids[i, width - len(row) :] = torch.tensor(row)
            mask[i, width - len(row) :] = 1
        out = generated_ids(self, ids.to(self.device), mask.to(self.device), generation_args)
        copies = len(out) // len(prompts)
        examples = []
        for i, row in enumerate(out):
            text = input_texts[i // copies]
            prompt_ids, spans = prompts[i // copies]
            new = cut_at_eos(row[width:], self.eos_ids, self.pad_id)
            if not new:
                raise InputError(f"the model generated nothing for {text[:60]!r}")
            added = self._added_text(prompt_ids, new)
            new_spans = decoded_spans(
                self.tokenizer, new, start=len(text) + len(added) - len(added.lstrip(" ")), text=added.lstrip(" ")
            )
            examples.append(self._example(text, prompt_ids, spans, new, new_spans, text + added))
        return examples

    def _added_text(self, prompt_ids: list[int], new: list[int]) -> str:
        """The text that the new tokens add, with the space that belongs between it and the prompt.

        Both texts are decoded with special tokens, as an unknown word of the prompt (often a special token) would
        otherwise be missing on one side of the comparison only.
        """
        special = set(self.tokenizer.all_special_ids)
        words = [i for i in new if i not in special]
        before = decode(self.tokenizer, prompt_ids, special=True)
        full = decode(self.tokenizer, [*prompt_ids, *words], special=True)
        return full[len(before) :] if full.startswith(before) else decode(self.tokenizer, new)

    def _call(self, rows: Rows, keep: Tensor | None) -> Tensor:
        arguments: dict[str, Any] = {"use_cache": False}
        if rows.past is not None:
            arguments = {"use_cache": True, "past_key_values": rows.past[0]}
        if rows.target_embeds is not None:
            arguments["inputs_embeds"] = rows.target_embeds
        else:
            arguments["input_ids"] = rows.target_ids
        if rows.target_mask is not None:
            arguments["attention_mask"] = rows.target_mask
        if self.takes_positions:
            given = rows.target_embeds if rows.target_embeds is not None else rows.target_ids
            assert given is not None  # noqa: S101  (one of the two is always there)
            # rows start at their first token, so positions count from 0; hidden tokens keep their place
            before = 0 if rows.past is None else rows.past[1]
            places = torch.arange(before, before + given.shape[1], device=given.device)
            arguments["position_ids"] = places.expand(given.shape[0], -1)
        if keep is not None:
            arguments["logits_to_keep"] = keep
        logits: Tensor = self.hf(**arguments).logits
        return logits
