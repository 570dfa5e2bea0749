"""What the engine needs from a Hugging Face model, the same for decoder-only models and encoder-decoders."""

from __future__ import annotations

import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from attriflow.errors import AttriflowError, InputError, UnsupportedModelError
from attriflow.kernels.positions import at
from attriflow.models.batch import Batch, collate
from attriflow.models.feeding import Fed, embedded
from attriflow.models.offload import device_of, weight_of
from attriflow.models.positions import Rope, scattered, table_length, trained_lengths
from attriflow.models.shape import Shape
from attriflow.texts.tokens import ids_to_tokens
from attriflow.types import Example

BLOCKS = ("source", "target")
"""Input blocks: "source" = encoder tokens, "target" = decoder tokens (prompt and continuation of a causal model)."""

_BY_ROW = (*(f"{block}_{what}" for block in BLOCKS for what in ("ids", "embeds", "mask")), "encoder_states")
Feed = Literal["argument", "hook"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Inputs of one model call; every row is one (possibly changed) example.

    Ids or embeddings for each side: embeddings win, and stand for the ids, which have to be there for models that need
    them all the same (see `LanguageModel.feeds`). `encoder_states` `[row, source, hidden]` skips the encoder.
    Masks are 1 = token; a decoder mask is only needed where tokens before the end are hidden. With `past`, a cache
    of keys and values and the number of decoder positions in it, the target fields and `query` begin after these.
    """

    target_ids: Tensor | None = None
    target_embeds: Tensor | None = None
    target_mask: Tensor | None = None
    source_ids: Tensor | None = None
    source_embeds: Tensor | None = None
    source_mask: Tensor | None = None
    encoder_states: Tensor | None = None
    past: Any = None
    query: Tensor

    def cut(self, row: Tensor, width: int, query: Tensor) -> Rows:
        """Some of the rows, with decoder tokens up to a width, read at other positions."""
        fields = {name: getattr(self, name) for name in _BY_ROW}
        kept: dict[str, Tensor] = {
            name: value[row.to(value.device)] for name, value in fields.items() if value is not None
        }
        return replace(self, **{k: v[:, :width] if k.startswith("target") else v for k, v in kept.items()}, query=query)


class LanguageModel(ABC):
    """A Hugging Face model with its tokenizer, read step by step.

    Subclasses turn texts into `Example`s (`encode`) and make the one teacher-forced call (`_call`).
    """

    is_encoder_decoder: ClassVar[bool]

    def __init__(self, hf: Any, tokenizer: Any, name: str, revision: str | None = None) -> None:
        """Wrap a model; nothing of it is changed."""
        self.hf, self.tokenizer, self.name, self.revision = hf, tokenizer, name, revision
        self._scales: dict[str, float] = {}
        self.feeds: dict[str, Feed] = dict.fromkeys(BLOCKS, "argument")
        """How embeddings of a block go in: in place of the ids ("argument"), or as what the embedding module puts out
        for the ids ("hook"); found out with the embedding scale."""
        self.reuses_prefix: bool | None = None
        """Whether cached keys and values give the same logits; found out once (see `Engine.rescore`)."""
        self.last_block_separable: bool | None = None
        """Whether gradients of all steps can go through the last block together; found out once (see `last_block`)."""
        self.generates_padded: bool | None = None
        """Whether generation goes on alike after padded prompts; found out once (see `generation`)."""
        parameters = inspect.signature(hf.forward).parameters
        self._keeps_logits = "logits_to_keep" in parameters
        self.takes_positions = "position_ids" in parameters

    # -- facts ------------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Device of the input embeddings (where ids must go)."""
        return device_of(self.embedding("target"))

    @property
    def dtype(self) -> torch.dtype:
        """Floating point type of the model."""
        dtype: torch.dtype = self.hf.dtype
        return dtype

    @property
    def pad_id(self) -> int:
        """An id to pad with; any id will do, padding is never looked at."""
        found = [self.special_id(name) for name in ("pad", "eos")]
        return next((i for i in found if i is not None), 0)

    def special_id(self, name: str) -> int | None:
        """The id of the tokenizer's "pad", "unk", "bos"... token, if the embeddings have it.

        A token that was added to the tokenizer without resizing the model is none that the model can read.
        """
        value = getattr(self.tokenizer, f"{name}_token_id", None)
        return int(value) if isinstance(value, int) and 0 <= value < self.vocab_size else None

    @property
    def eos_ids(self) -> set[int]:
        """Ids that end a sequence, of the tokenizer and of the generation config."""
        found: set[int] = set()
        config = getattr(self.hf, "generation_config", None)
        for value in (self.tokenizer.eos_token_id, getattr(config, "eos_token_id", None)):
            found.update(value if isinstance(value, (list, tuple)) else [] if value is None else [value])
        return {int(v) for v in found}

    @cached_property
    def reach(self) -> dict[str, tuple[int | None, int | None]]:
        """Block -> where its positions end, and how long the texts were that the model was trained on."""
        found = {}
        for block in BLOCKS[not self.is_encoder_decoder :]:
            part = self.hf
            if self.is_encoder_decoder:
                part = self.hf.get_encoder() if block == "source" else self.hf.get_decoder()
            config = getattr(part, "config", self.hf.config)
            lengths = trained_lengths(config.get_text_config() if hasattr(config, "get_text_config") else config)
            found[block] = table_length(part, lengths, self.embedding(block)), max(lengths, default=None)
        return found

    def max_positions(self, block: str = "target") -> int | None:
        """Longest sequence the model has positions for, where these end (see `positions.table_length`)."""
        return self.reach[block][0]

    @cached_property
    def rope(self) -> Rope | None:
        """Rotary frequencies that depend on a text's length, if the model has such."""
        return Rope.of(self.hf)

    def embedding(self, block: str) -> nn.Embedding:
        """The module that embeds the ids of a block."""
        module = None
        if self.is_encoder_decoder:
            part = self.hf.get_encoder() if block == "source" else self.hf.get_decoder()
            if part is not None and hasattr(part, "get_input_embeddings"):
                module = part.get_input_embeddings()
            elif part is not None:  # a plain module: tokens are embedded before their positions
                module = next((m for m in part.modules() if isinstance(m, nn.Embedding)), None)
        found: nn.Embedding = self.hf.get_input_embeddings() if module is None else module
        return found

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding table."""
        return int(self.embedding("target").weight.shape[0])

    @property
    def hidden_size(self) -> int:
        """Width of the embeddings."""
        return int(self.embedding("target").weight.shape[1])

    @cached_property
    def shape(self) -> Shape:
        """Layers, heads, widths."""
        return Shape.of(self.hf, self.hidden_size)

    # -- text to examples -------------------------------------------------------------------------------------------

    @abstractmethod
    def encode(
        self,
        input_texts: Sequence[str],
        generated_texts: Sequence[str] | None,
        *,
        continuation: bool = False,
        skip_special_tokens: bool = False,
    ) -> list[Example]:
        """Tokenise inputs and forced targets."""

    @abstractmethod
    def generate(
        self,
        input_texts: Sequence[str],
        *,
        generation_args: Mapping[str, Any],
        seeds: Sequence[int],
        skip_special_tokens: bool = False,
    ) -> list[list[Example]]:
        """Generate targets with `model.generate` and keep the ids as they came: per text, an example per sequence.

        An example has no steps where the model generated nothing. `seeds` are for sampling, one per text.
        """

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Pad examples into a batch on the model's device."""
        return collate(examples, self.pad_id, self.device, self.is_encoder_decoder)

    @abstractmethod
    def target_ids(self, text: str, *, skip_special_tokens: bool = False) -> list[int]:
        """All decoder ids of a forced target text."""

    @abstractmethod
    def source_ids(self, text: str, *, skip_special_tokens: bool = False) -> list[int]:
        """Encoder ids of a text; of a prompt, where there is no encoder."""

    def check(self, example: Example) -> None:
        """Raise `InputError` for an input that does not fit the model, before any expensive work."""
        sides = {"source": ("input", len(example.source)), "target": ("target", len(example.target))}
        if not self.is_encoder_decoder:
            sides = {"target": ("input and target together", len(example.target))}
        for block, (side, n) in sides.items():
            limit, trained = self.reach[block]
            if limit is not None and n > limit:
                raise InputError(
                    f"{side} of {n} tokens is too long for {self.name} (at most {limit}): {example.input_text[:60]!r}"
                )
            if limit is None and trained is not None and n > trained:
                warnings.warn(
                    f"{side} of {n} tokens is longer than what {self.name} was trained on ({trained})", stacklevel=2
                )
        self.check_ids(example.source_ids, "source")
        self.check_ids(example.target_ids)

    def check_ids(self, ids: Sequence[int], block: str = "target") -> None:
        """Raise `InputError` for ids that the embeddings do not have: a tokenizer with tokens the model never got."""
        size = int(self.embedding(block).weight.shape[0])
        wrong = next((i for i in ids if not 0 <= i < size), None)
        if wrong is not None:
            token = self.tokenizer.convert_ids_to_tokens(wrong)
            raise InputError(
                f"the tokenizer gives {token!r} the id {wrong}, but the embeddings of {self.name} have {size} rows: "
                "use the tokenizer it was trained with, or model.resize_token_embeddings"
            )

    def tokens(self, ids: Sequence[int], **fields: Any) -> list[Any]:
        """Readable tokens of ids (see `tokens.ids_to_tokens`)."""
        return ids_to_tokens(self.tokenizer, ids, **fields)

    # -- running ----------------------------------------------------------------------------------------------------

    def embed(self, ids: Tensor, block: str) -> Tensor:
        """Token embeddings `[..., hidden]` as the model wants them in place of ids, embedding scale included."""
        return self.embedding(block)(ids) * self.embedding_scale(block)

    @torch.no_grad()
    def embedding_table(self, block: str) -> Tensor:
        """What `embed` gives for every id of the vocabulary, `[vocab, hidden]`."""
        weight = weight_of(self.embedding(block))
        ids = torch.arange(min(8, weight.shape[0]), device=weight.device)
        embedded = self.embed(ids, block)
        if torch.equal(embedded, weight[ids]):
            return weight  # no copy of a large table
        return self.embed(torch.arange(weight.shape[0], device=weight.device), block)

    def run(self, rows: Rows) -> Tensor:
        """Logits at the query positions, `[row, step, vocab]`: one model call (more where `rope` asks for it)."""
        if self.rope is None or not self.rope.reached(rows.query):
            return self._run(rows)
        parts = []
        for width, chosen in self.rope.apart(rows.query):
            row = chosen.any(1).nonzero().squeeze(1)
            read = self._run(rows.cut(row, width, torch.where(chosen[row], rows.query[row], 0)))
            parts.append((read[chosen[row].to(read.device)], chosen))
        return scattered(parts, rows.query)

    def _run(self, rows: Rows) -> Tensor:
        if self.rope is not None:
            self.rope.forget()
        keep, offset = None, 0
        if self._keeps_logits:
            # the LM head runs only over the span of positions that some row asks for
            low, high = int(rows.query.min()), int(rows.query.max())
            keep, offset = torch.arange(low, high + 1, device=rows.query.device), low
        logits = self._answered(rows, keep)
        if keep is not None and logits.shape[1] != len(keep):
            offset = 0  # a model that takes the argument and returns all positions all the same
        index = (rows.query - offset).to(logits.device)
        if torch.equal(index, torch.arange(logits.shape[1], device=index.device).expand(len(index), -1)):
            picked = logits  # no copy of what is as large as the vocabulary
        else:
            picked = at(logits, index)
        return picked if picked.dtype == torch.float64 else picked.float()

    def _answered(self, rows: Rows, keep: Tensor | None) -> Tensor:
        """`_call`; where a text is longer than the model was trained on, a failure is said to be of its length."""
        try:
            return self._call(rows, keep)
        except (AssertionError, IndexError, RuntimeError, ValueError) as error:
            read, trained = int(rows.query.max()) + 1, self.reach["target"][1]
            if isinstance(error, AttriflowError) or "memory" in str(error) or trained is None or read <= trained:
                raise
            reason = str(error).strip().splitlines()[0][:200]
            raise InputError(f"{read} tokens are too many for {self.name}, made for {trained}: {reason}") from error

    @abstractmethod
    def _call(self, rows: Rows, keep: Tensor | None) -> Tensor:
        """Logits `[row, kept position, vocab]`."""

    @contextmanager
    def _fed(self, rows: Rows, names: Mapping[str, tuple[str, str]]) -> Iterator[dict[str, Tensor]]:
        """Arguments of one model call (made within) for the ids or embeddings of blocks.

        Args:
            rows: Inputs.
            names: Block -> the arguments that ids and embeddings go by, in the order in which blocks are embedded.
        """
        arguments: dict[str, Tensor] = {}
        sides: list[Fed] = []
        for block, (of_ids, of_embeds) in names.items():
            ids, embeds = getattr(rows, f"{block}_ids"), getattr(rows, f"{block}_embeds")
            if embeds is not None and self.feeds[block] == "argument":
                arguments[of_embeds] = embeds
                continue
            arguments[of_ids] = ids
            if embeds is not None:
                sides.append(Fed(self.embedding(block), ids, embeds))
        with embedded(sides):
            yield arguments

    def encoder_states(self, rows: Rows) -> Tensor:
        """Encoder output `[row, source, hidden]`."""
        raise UnsupportedModelError(f"{self.name} has no encoder")

    def embedding_scale(self, block: str) -> float:
        """Factor between the embedding module's output and what the model expects in place of ids.

        Models differ in where they scale (in the embedding module, in the forward always, or in the forward only when
        ids are given; encoder and decoder of one model need not agree), so it is measured once: ids and embeddings must
        give the same logits. Where no factor does it, embeddings go in by hook (see `feeds`).
        """
        if block not in self._scales:
            self._scales[block] = self._measure_scale(block)
        return self._scales[block]

    @torch.no_grad()
    def _measure_scale(self, block: str) -> float:
        """The scale, and with it `feeds`; where both ways are open, they must agree on embeddings of no token, too."""
        ids = torch.tensor([[1, 2, 3]], device=self.device) % self.vocab_size
        query = torch.arange(3, device=self.device).unsqueeze(0)  # all: without ids some models forget their masks
        given: dict[str, Any] = {"target_ids": ids, "query": query}
        if self.is_encoder_decoder:
            given |= {"source_ids": ids, "source_mask": torch.ones_like(ids)}
        plain = self.run(Rows(**given))
        embeds = self.embedding(block)(ids)
        tolerance = (1e-4 if self.dtype in (torch.float64, torch.float32) else 5e-2) * float(plain.abs().max())
        reason = "computes other logits from embeddings than from ids"

        def logits(feed: Feed, factor: float) -> Tensor | None:
            nonlocal reason
            self.feeds[block] = feed
            try:
                return self.run(Rows(**given, **{f"{block}_embeds": embeds * factor}))
            except torch.OutOfMemoryError:
                raise
            except (AttributeError, IndexError, RuntimeError, TypeError, ValueError, UnsupportedModelError) as error:
                reason = f"does not take embeddings: {str(error).strip().splitlines()[0]}"
                return None

        def same(found: Tensor | None, wanted: Tensor) -> bool:
            return found is not None and torch.allclose(found, wanted, atol=tolerance, rtol=0)

        hooked = logits("hook", 0.5)
        owners = [m for m in self.hf.modules() if isinstance(getattr(m, "embed_scale", None), (int, float, Tensor))]
        for scale in dict.fromkeys([1.0, *(float(m.embed_scale) for m in owners), float(embeds.shape[-1]) ** 0.5]):
            if same(logits("argument", scale), plain):
                if hooked is None or same(logits("argument", scale * 0.5), hooked):
                    return scale
                break
        if same(logits("hook", 1.0), plain):
            return 1.0
        raise UnsupportedModelError(f"{type(self.hf).__name__} {reason}")

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Evaluation mode, no parameter gradients, no training-time branches; everything is restored on exit."""
        training = [(m, m.training) for m in self.hf.modules()]
        # by name: parameters that are offloaded between forwards are other objects afterwards
        named = ((m, name, p) for m in self.hf.modules() for name, p in m.named_parameters(recurse=False))
        wanted = [(m, name) for m, name, p in named if p.requires_grad]
        self.hf.eval()
        for module, name in wanted:
            getattr(module, name).requires_grad_(False)
        try:
            yield
        finally:
            for module, name in wanted:
                getattr(module, name).requires_grad_(True)
            for module, mode in training:
                module.training = mode
