"""Decoder-only models: the prompt and its continuation are one sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from attriflow.errors import InputError, NothingToExplainError
from attriflow.models.base import LanguageModel, Rows
from attriflow.models.checking import check_model
from attriflow.models.findings import ModelCheck
from attriflow.models.generation import generated_ids
from attriflow.texts.segments import ChatText, turns_of, with_reply
from attriflow.texts.tokens import Span, decode, decoded_spans, spans_as_forced, special_ids, tokenize
from attriflow.types import Example

CONTEXT = 32
"""Tokens of a prompt that are decoded with what follows them."""


class CausalLM(LanguageModel):
    """A Hugging Face causal language model."""

    is_encoder_decoder: ClassVar[bool] = False

    @cached_property
    def checked(self) -> ModelCheck:
        """What the check of this model found."""
        return check_model(self)

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
        ids, _ = self._sequence(text, not skip_special_tokens)
        self.check_ids(ids)
        return ids

    def source_ids(self, text: str, *, skip_special_tokens: bool = False) -> list[int]:
        """Ids of a prompt."""
        ids, _ = self._prompt(text, not skip_special_tokens)
        self.check_ids(ids)
        return ids

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
        ids, spans, start = self._placed(prompt, text, special)
        if start >= len(ids):
            raise NothingToExplainError(
                f"nothing to explain: the forced generation adds no token to its input {prompt[:60]!r}",
                self._example(prompt, ids, spans, [], []),
            )
        return self._example(prompt, ids[:start], spans[:start], ids[start:], spans[start:], text)

    def _placed(self, prompt: str, text: str, special: bool) -> tuple[list[int], list[Span], int]:
        """Ids and spans of a text that begins with a prompt, and where its own tokens begin."""
        ids, spans = self._sequence(text, special)
        prompt_ids, _ = self._prompt(prompt, special)
        start = len(prompt_ids)
        if ids[:start] != prompt_ids and isinstance(prompt, ChatText):
            # the header before a reply is written by the template, and a reply begins with a token of its own
            ids, spans = self._reply(prompt, text)
        elif ids[:start] != prompt_ids:
            # a token straddles the border: it belongs to the continuation, in whose choice the prompt's end took part
            after = (i for i, s in enumerate(spans) if s is not None and s[1] > len(prompt))
            start = next(after, len(ids)) if prompt else 0
        if start == 0:  # nothing comes before the first token that is explained: begin as an empty prompt does
            ids, spans, start = [self._first_id(), *ids], [None, *spans], 1
        return ids, spans, start

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
        return (ids, spans) if ids else ([self._first_id()], [None])

    def _first_id(self) -> int:
        """What a text begins with that has no token to begin with."""
        first = self.tokenizer.bos_token_id
        first = self.tokenizer.eos_token_id if first is None else first
        if first is None:
            raise NothingToExplainError("an empty input needs a tokenizer with a BOS or EOS token")
        return int(first)

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
        """Generate after each prompt; ids are kept, text is only for reading."""
        special = not skip_special_tokens
        prompts = [self._prompt(text, special) for text in input_texts]
        found = generated_ids(self, [ids for ids, _ in prompts], generation_args, seeds)
        return [
            [self._generated(text, *prompt, new, special) for new in rows]
            for text, prompt, rows in zip(input_texts, prompts, found, strict=True)
        ]

    def _generated(
        self, prompt: str, prompt_ids: list[int], prompt_spans: list[Span], new: list[int], special: bool
    ) -> Example:
        """Prompt and new ids, with the spans that a forced text of the same ids has, where there is one."""
        markers = special_ids(self.tokenizer)
        words = [i for i in new if i not in markers]
        before = prompt_ids[-CONTEXT:]
        added = self._added_text(before, words)
        bare = added.lstrip(" ")
        texts = (bare, added) if not prompt or prompt[-1].isspace() else (added, bare)
        for text in dict.fromkeys(prompt + t for t in texts):
            if not words:
                break
            ids, spans, start = self._placed(prompt, with_reply(prompt, text), special)
            if ids[:start] == prompt_ids:
                new_spans = spans_as_forced(self.tokenizer, new, ids[start:], spans[start:])
                if new_spans is not None:
                    return self._example(prompt, prompt_ids, prompt_spans, new, new_spans, text)
        follows = decode(self.tokenizer, [*before, *words], special=True).endswith(added)
        new_spans = decoded_spans(self.tokenizer, new, added, before=before if follows else (), start=len(prompt))
        return self._example(prompt, prompt_ids, prompt_spans, new, new_spans, prompt + added)

    def _added_text(self, before: list[int], words: list[int]) -> str:
        """The text that new tokens add, with the space that belongs between it and the prompt.

        Both texts are decoded with special tokens, as an unknown word of the prompt (often a special token) would
        otherwise be missing on one side of the comparison only.
        """
        text = decode(self.tokenizer, before, special=True)
        full = decode(self.tokenizer, [*before, *words], special=True)
        return full[len(text) :] if full.startswith(text) else decode(self.tokenizer, words)

    def _call(self, rows: Rows, keep: slice | None) -> Tensor:
        arguments: dict[str, Any] = {}
        if rows.past is not None:
            arguments = {"use_cache": True, "past_key_values": rows.past[0]}
        if rows.target_mask is not None:
            arguments["attention_mask"] = rows.target_mask
        if self.takes_positions:
            read = rows.target_embeds if rows.target_embeds is not None else rows.target_ids
            assert read is not None  # noqa: S101  (one of the two is always there)
            # rows start at their first token, so positions count from 0; hidden tokens keep their place
            before = 0 if rows.past is None else rows.past[1]
            places = torch.arange(before, before + read.shape[1], device=read.device)
            arguments["position_ids"] = places.expand(read.shape[0], -1)
        if keep is not None:
            arguments["logits_to_keep"] = keep
        with self._fed(rows, {"target": ("input_ids", "inputs_embeds")}) as given:
            return self.logits(**given, **arguments)
