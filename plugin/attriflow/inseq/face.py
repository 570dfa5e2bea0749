"""What Inseq's users ask of a model beside attributions: texts, ids, tokens, embeddings, forward passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from attriflow import model as native
from attriflow.inseq.data.batch import BatchEncoding, DecoderOnlyBatch, EncoderDecoderBatch
from attriflow.texts.tokens import special_ids


class MethodName(str):
    """A method: its name."""

    __slots__ = ()

    @property
    def method_name(self) -> str:
        """The same."""
        return str(self)


class ModelFace:
    """A generation model under Inseq's names; `native` is attriflow's."""

    def __init__(self, loaded: native.AttributionModel) -> None:
        """Hold the model."""
        self.native = loaded
        self.default_attributed_fn_id = "probability"
        self.formatter = Formatter

    def __getattr__(self, name: str) -> Any:
        """What else is asked of the Hugging Face model: `parameters`, `config`, ..."""
        if name.startswith("_") or name in ("native", "model"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.model, name)

    def to(self, *place: Any) -> ModelFace:
        """Move the model, or give its weights another type."""
        self.model.to(*place)
        return self

    def train(self, mode: bool = True) -> ModelFace:
        """Change the mode of the model."""
        self.model.train(mode)
        return self

    def eval(self) -> ModelFace:
        """Leave the training mode."""
        return self.train(False)

    @classmethod
    def of(cls, wrapped: Any) -> ModelFace:
        """Of the model that a `Forward` holds."""
        return cls(native.AttributionModel(wrapped))

    # -- facts -----------------------------------------------------------------------------------------------------

    @property
    def model(self) -> Any:
        """The Hugging Face model."""
        return self.native.model

    @property
    def tokenizer(self) -> Any:
        """The tokenizer."""
        return self.native.tokenizer

    @property
    def model_name(self) -> str:
        """Where it was loaded from."""
        return self.native.name

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether there is a separate source."""
        return self.native.is_encoder_decoder

    @property
    def attribution_method(self) -> MethodName | None:
        """The default method."""
        return None if self.native.method is None else MethodName(self.native.method)

    @property
    def device(self) -> Any:
        """Where the model is; may be assigned to."""
        return str(self.native.device)

    @device.setter
    def device(self, device: Any) -> None:
        self.model.to(device)

    @property
    def info(self) -> dict[str, Any]:
        """Names and classes of model and tokenizer."""
        return {
            "model_name": self.model_name,
            "model_class": type(self.model).__name__,
            "tokenizer_name": getattr(self.tokenizer, "name_or_path", None) or None,
            "tokenizer_class": type(self.tokenizer).__name__,
        }

    @property
    def special_tokens(self) -> list[str]:
        """Special tokens of the tokenizer, a chat's markers among them."""
        return list(self.tokenizer.convert_ids_to_tokens(self.special_tokens_ids))

    @property
    def special_tokens_ids(self) -> list[int]:
        """Their ids."""
        return list(special_ids(self.tokenizer))

    @property
    def bos_token_id(self) -> Any:
        """The id that decoding begins with."""
        config = self.model.config
        start = getattr(config, "decoder_start_token_id", None)
        return config.bos_token_id if start is None else start

    @property
    def eos_token_id(self) -> Any:
        """The id that ends a text."""
        found = self.model.config.eos_token_id
        return found[0] if isinstance(found, list) else found

    @property
    def bos_token(self) -> Any:
        """The token that decoding begins with."""
        return None if self.bos_token_id is None else self.tokenizer.convert_ids_to_tokens(self.bos_token_id)

    @property
    def pad_token(self) -> Any:
        """The token that fills rows up."""
        return self.tokenizer.pad_token or self.tokenizer.convert_ids_to_tokens(self.eos_token_id)

    @property
    def vocabulary_embeddings(self) -> Tensor:
        """The table of input embeddings, `[id, width]`."""
        return self.get_embedding_layer().weight  # type: ignore[no-any-return]

    def get_embedding_layer(self) -> Any:
        """The module that embeds ids."""
        return self.model.get_input_embeddings()

    def get_encoder(self) -> Any:
        """The encoder."""
        return self.model.get_encoder()

    def get_decoder(self) -> Any:
        """The decoder."""
        return self.model.get_decoder()

    # -- texts, ids, tokens ----------------------------------------------------------------------------------------

    def encode(
        self,
        texts: str | Sequence[str],
        as_targets: bool = False,
        return_baseline: bool = False,
        include_eos_baseline: bool = False,
        add_bos_token: bool = True,
        add_special_tokens: bool = True,
    ) -> BatchEncoding:
        """Tokenise texts; targets of encoder-decoders begin with the decoder start token."""
        if as_targets and not self.is_encoder_decoder:
            raise ValueError("decoder-only models have no target side: encode without as_targets")
        texts = [texts] if isinstance(texts, str) else list(texts)
        kind = "text_target" if as_targets else "text"
        encoded = self.tokenizer(**{kind: texts}, add_special_tokens=add_special_tokens)["input_ids"]
        if as_targets and add_bos_token:
            encoded = [[self.bos_token_id, *ids] for ids in encoded]
        pad = self.native.wrapped.pad_id
        width = max(map(len, encoded))
        left = getattr(self.tokenizer, "padding_side", "right") == "left"
        rows, masks = [], []
        for ids in encoded:
            fill = [pad] * (width - len(ids))
            rows.append([*fill, *ids] if left else [*ids, *fill])
            masks.append([0] * len(fill) + [1] * len(ids) if left else [1] * len(ids) + [0] * len(fill))
        ids = torch.tensor(rows, device=self.native.device)
        baseline = None
        if return_baseline:
            absent = self.tokenizer.unk_token_id if self.tokenizer.unk_token_id is not None else pad
            stays = ids == (-1 if include_eos_baseline else self.eos_token_id)
            baseline = torch.where(stays, ids, torch.full_like(ids, absent))
        return BatchEncoding(
            input_ids=ids,
            attention_mask=torch.tensor(masks, device=self.native.device),
            input_tokens=[self.tokenizer.convert_ids_to_tokens(row) for row in rows],
            baseline_ids=baseline,
        )

    def decode(self, ids: Any, skip_special_tokens: bool = True) -> list[str]:
        """Texts of rows of ids."""
        return list(
            self.tokenizer.batch_decode(
                ids, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
            )
        )

    def embed(self, inputs: Any, as_targets: bool = False, add_special_tokens: bool = True) -> Tensor:
        """Input embeddings of texts or ids, `[text, token, width]`, as the model reads them."""
        if not isinstance(inputs, Tensor):
            inputs = self.encode(inputs, as_targets, add_special_tokens=add_special_tokens).input_ids
        return self.embed_ids(inputs, as_targets)

    def embed_ids(self, ids: Tensor, as_targets: bool = False) -> Tensor:
        """Input embeddings of ids."""
        block = "source" if self.is_encoder_decoder and not as_targets else "target"
        return self.native.wrapped.embed(ids.to(self.native.device), block)

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = True, decode_tokens: bool = False) -> Any:
        """Raw (or decoded) tokens of one row of ids or of several."""
        if isinstance(ids, Tensor):
            ids = ids.tolist()
        if isinstance(ids, list) and ids and isinstance(ids[0], (list, Tensor)):
            return [self.convert_ids_to_tokens(row, skip_special_tokens, decode_tokens) for row in ids]
        if not decode_tokens:
            return self.tokenizer.convert_ids_to_tokens(ids, skip_special_tokens=skip_special_tokens)
        left_out = set(self.special_tokens_ids) if skip_special_tokens else set()
        return [self.tokenizer.decode([i]) for i in ids if i not in left_out]

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """Ids of one row of tokens or of several."""
        if tokens and not isinstance(tokens, str) and not isinstance(tokens[0], str):
            return [self.convert_tokens_to_ids(row) for row in tokens]
        return self.tokenizer.convert_tokens_to_ids(tokens)

    def convert_tokens_to_string(self, tokens: Any, skip_special_tokens: bool = True, as_targets: bool = False) -> Any:
        """The text of one row of tokens, or of several."""
        del as_targets
        if tokens and not isinstance(tokens[0], str):
            return [self.convert_tokens_to_string(row, skip_special_tokens) for row in tokens]
        kept = [t for t in tokens if not (skip_special_tokens and t in self.special_tokens)]
        return self.tokenizer.convert_tokens_to_string(kept) if kept else ""

    def convert_string_to_tokens(self, text: Any, skip_special_tokens: bool = True, as_targets: bool = False) -> Any:
        """Raw tokens of a text, or of several."""
        if not isinstance(text, str):
            return [self.convert_string_to_tokens(one, skip_special_tokens, as_targets) for one in text]
        kind = {"text_target" if as_targets else "text": text}
        ids = self.tokenizer(**kind, add_special_tokens=not skip_special_tokens)["input_ids"]
        return self.convert_ids_to_tokens(ids, skip_special_tokens)

    def clean_tokens(self, tokens: Any, skip_special_tokens: bool = False, as_targets: bool = False) -> Any:
        """What raw tokens stand for, spaces included; of one row or of several."""
        if tokens and isinstance(tokens[0], (list, tuple)):
            return [self.clean_tokens(row, skip_special_tokens, as_targets) for row in tokens]
        special = self.special_tokens
        words = [str(t) for t in tokens if not (skip_special_tokens and str(t) in special)]
        return [w if w in special else self.tokenizer.convert_tokens_to_string([w]) or w for w in words]

    def generate(
        self,
        inputs: Any,
        return_generation_output: bool = False,
        skip_special_tokens: bool | None = None,
        output_generated_only: bool = False,
        batch_size: int | None = None,
        **generation_args: Any,
    ) -> Any:
        """Generated texts (of decoder-only models with their prompts); with `return_generation_output` the output, too.

        Texts are generated alone, so that padding changes nothing.
        """
        del batch_size
        texts = [inputs] if isinstance(inputs, str) else inputs
        skip = self.is_encoder_decoder or len(texts) > 1 if skip_special_tokens is None else skip_special_tokens
        rows = texts if isinstance(texts, BatchEncoding) else None
        if rows is not None:
            each = [ids[mask.bool()] for ids, mask in zip(rows.input_ids, rows.attention_mask, strict=True)]
        else:
            each = [self.encode(text, add_special_tokens=not skip_special_tokens).input_ids[0] for text in texts]
        found, outputs = [], []
        for ids in each:
            given = {"attention_mask": torch.ones_like(ids)[None], "return_dict_in_generate": True, **generation_args}
            outputs.append(self.model.generate(ids[None], **given))
            begin = len(ids) if output_generated_only and not self.is_encoder_decoder else 0
            found += self.decode(outputs[-1].sequences[:, begin:], skip_special_tokens=bool(skip))
        return (found, outputs[0] if len(outputs) == 1 else outputs) if return_generation_output else found

    # -- forward ---------------------------------------------------------------------------------------------------

    @staticmethod
    def output2logits(forward_output: Any) -> Tensor:
        """Logits of the last position, `[row, vocab]`."""
        return forward_output.logits[:, -1, :]  # type: ignore[no-any-return]

    def get_forward_output(self, batch: Any, use_embeddings: bool = True, **options: Any) -> Any:
        """What the Hugging Face model gives for a batch."""
        if isinstance(batch, DecoderOnlyBatch):
            return self.model(**_inputs(batch, use_embeddings, ""), use_cache=False, **options)
        sources, targets = (
            _inputs(batch.sources, use_embeddings, ""),
            _inputs(batch.targets, use_embeddings, "decoder_"),
        )
        return self.model(**sources, **targets, use_cache=False, **options)


def _inputs(batch: DecoderOnlyBatch, use_embeddings: bool, side: str) -> dict[str, Any]:
    """Keywords of a Hugging Face model."""
    ids = {f"{side}input_ids": batch.input_ids}
    embeds = {f"{side}inputs_embeds": batch.input_embeds}
    return {**(embeds if use_embeddings else ids), f"{side}attention_mask": batch.attention_mask}


class Formatter:
    """How inputs are put together."""

    @staticmethod
    def convert_args_to_batch(args: Any) -> Any:
        """What a step function was given, as a batch for `get_forward_output`."""
        targets = DecoderOnlyBatch(
            input_ids=args.decoder_input_ids,
            input_embeds=args.decoder_input_embeds,
            attention_mask=args.decoder_attention_mask,
        )
        if not args.attribution_model.is_encoder_decoder:
            return targets
        sources = DecoderOnlyBatch(
            input_ids=args.encoder_input_ids,
            input_embeds=args.encoder_input_embeds,
            attention_mask=args.encoder_attention_mask,
        )
        return EncoderDecoderBatch(sources=sources, targets=targets)
