"""What the engine needs from a Hugging Face model, the same for decoder-only models and encoder-decoders."""

from __future__ import annotations

import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attriflow.errors import AttriflowError, InputError, UnsupportedModelError
from attriflow.kernels.positions import at
from attriflow.models.batch import Batch, alike, collate
from attriflow.models.feeding import Fed, Feed, embedded, looked_up
from attriflow.models.findings import ALWAYS, ModelCheck
from attriflow.models.handed import logits_of, parameters_of, state_of, uncompiled
from attriflow.models.locks import lock_of
from attriflow.models.offload import device_of, devices_of, weight_of
from attriflow.models.positions import Rope, scattered, table_length, trained_lengths
from attriflow.models.shape import Shape
from attriflow.texts.tokens import ids_to_tokens
from attriflow.types import Example

BLOCKS = ("source", "target")
"""Input blocks: "source" = encoder tokens, "target" = decoder tokens (prompt and continuation of a causal model)."""

_BY_ROW = (*(f"{block}_{what}" for block in BLOCKS for what in ("ids", "embeds", "mask")), "encoder_states")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Inputs of one model call; every row is one (possibly changed) example.

    Ids or embeddings for each side: embeddings win, and stand for the ids, which have to be there for models that need
    them all the same (see `feeding`). `encoder_states` `[row, source, hidden]` skips the encoder.
    Masks are 1 = token; a decoder mask is only needed where tokens before the end are hidden. With `past`, a cache
    of keys and values and the number of decoder positions in it, the target fields and `query` begin after these.
    `places` is `query` as the host planned it (of the rows, or of the batch that they repeat): no device is asked.
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
    places: Tensor | None = None

    @classmethod
    def of(cls, batch: Batch) -> Rows:
        """Those of a batch."""
        read = {name: getattr(batch, name) for name in ("target_ids", "source_ids", "source_mask", "query")}
        return cls(**read, places=batch.host.query)

    @property
    def planned(self) -> Tensor:
        """`places`, or `query` brought home where nobody has said them."""
        return self.query.cpu() if self.places is None else self.places

    @property
    def span(self) -> tuple[int, int]:
        """First and last position that some row is read at."""
        planned = self.planned
        return int(planned.min()), int(planned.max())

    def cut(self, row: Tensor, width: int, query: Tensor) -> Rows:
        """Some of the rows, with decoder tokens up to a width, read at other positions."""
        fields = {name: getattr(self, name) for name in _BY_ROW}
        kept: dict[str, Tensor] = {
            name: value[row.to(value.device)] for name, value in fields.items() if value is not None
        }
        kept = {k: v[:, :width] if k.startswith("target") else v for k, v in kept.items()}
        return replace(self, **kept, query=query, places=None)


class LanguageModel(ABC):
    """A Hugging Face model with its tokenizer, read step by step.

    Subclasses turn texts into `Example`s (`encode`) and make the one teacher-forced call (`_call`).
    """

    is_encoder_decoder: ClassVar[bool]

    def __init__(self, hf: Any, tokenizer: Any, name: str, revision: str | None = None) -> None:
        """Wrap a model; nothing of it is changed."""
        self.hf, self.tokenizer, self.name, self.revision = hf, tokenizer, name, revision
        self._seen = state_of(hf, list(hf.modules()))
        self._is_frozen = False
        self._forget()

    def _forget(self) -> None:
        """What was found out about the model is found out again."""
        hf = self.hf
        vars(self).pop("checked", None)
        self.feeds: dict[str, Feed] = {}
        """How embeddings of a block go in; found out by the check."""
        self.virtual_tokens = 0
        """Positions that the model puts before every text (prompt tuning); found out by the check."""
        self.reuses_prefix: bool | None = None
        """Whether cached keys and values give the same logits; found out once (see `Engine.rescore`)."""
        self.last_block_separable: bool | None = None
        """Whether gradients of all steps can go through the last block together; found out once (see `last_block`)."""
        self.stack_is_chain: bool | None = None
        """Whether gradients can go down a few blocks at a time; found out by the first long text (see `stretches`)."""
        self.plain_tables: dict[str, bool] = {}
        """Block -> whether embeddings are rows of the table as they are; found out once."""
        self.shows_attention = False
        """Whether a pass outside the attention interface that returns its maps is the ordinary one; found out once."""
        self.shares_gradients: bool | None = None
        """Whether gradients that share work between steps are those of a plain backward pass; found out once."""
        self.generates_padded: bool | None = None
        """Whether generation goes on alike after padded prompts; found out once (see `generation`)."""
        self.puts_before = bool(getattr(getattr(hf, "active_peft_config", None), "is_prompt_learning", False))
        """Whether the model puts something before every text that attention reads (prompt and prefix tuning)."""
        configs = getattr(hf, "peft_config", None)
        configs = configs.values() if isinstance(configs, Mapping) else ()
        self.reads_ids = any(getattr(c, "alora_invocation_tokens", None) for c in configs)
        """Whether adapters look for certain tokens in the ids, which embeddings in their place do not tell."""
        parameters = parameters_of(hf)
        self._keeps_logits = "logits_to_keep" in parameters
        self.takes_positions = "position_ids" in parameters and not self.puts_before

    # -- facts ------------------------------------------------------------------------------------------------------

    def check_attention(self) -> None:
        """Raise `UnsupportedModelError` where tokens attend to something that is not in the text."""
        if self.reads_ids:
            raise UnsupportedModelError(
                f"an adapter of {type(self.hf).__name__} looks for tokens in the ids (aLoRA), which this method cannot "
                "follow; use 'attention' or a perturbation method"
            )
        if self.puts_before or (self.checked and self.virtual_tokens):
            raise UnsupportedModelError(
                f"{type(self.hf).__name__} puts virtual tokens before every text (prompt or prefix tuning), and this "
                "method cannot tell what they get; use 'attention', a gradient or a perturbation method"
            )

    @property
    def sides(self) -> tuple[str, ...]:
        """Blocks that the model reads."""
        return BLOCKS if self.is_encoder_decoder else ("target",)

    @property
    @abstractmethod
    def checked(self) -> ModelCheck:
        """What the check of this model found (see `checking`); done once, at first use."""

    @property
    def lock(self) -> threading.RLock:
        """Held by whoever runs or changes the model; by its embeddings, which all wrappers of a model share."""
        return lock_of(self.embedding("target"))

    @property
    def device(self) -> torch.device:
        """Device of the input embeddings (where ids must go)."""
        return device_of(self.embedding("target"))

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """All devices that the model computes on, that of the embeddings first."""
        return tuple(dict.fromkeys((self.device, *devices_of(self.hf))))

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

    @property
    def start_id(self) -> int:
        """The token every target of an encoder-decoder begins with."""
        raise UnsupportedModelError(f"{self.name} has no decoder start token")

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

    def batches(
        self, examples: Sequence[Example], batch_size: int | None = None, *, sort: bool = True
    ) -> list[list[int]]:
        """Indices of the examples of each batch (see `batch.alike`).

        When sorted, those apart that would not be alone what they are together: of different lengths where padding
        changes what a model computes, all of them where any other row does.
        """
        if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
            raise InputError(f"batch_size must be a positive integer or None, not {batch_size!r}")
        lengths = [len(e.source) + len(e.target) for e in examples]
        sizes = [(len(e.source), e.stop) for e in examples]
        rows, padding = (not sort or self.checked.works(what) for what in ("rows", "padding"))
        return alike(lengths, batch_size, sort=sort, together=lambda i, j: rows and (padding or sizes[i] == sizes[j]))

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
        """Token embeddings `[..., hidden]` of a block, in the space that `embedding_scale` tells."""
        return self.embedding(block)(ids).to(ids.device) * self.embedding_scale(block)

    @torch.no_grad()
    def embedding_table(self, block: str) -> Tensor:
        """What `embed` gives for every id of the vocabulary, `[vocab, hidden]`."""
        weight = weight_of(self.embedding(block))
        if block not in self.plain_tables:
            ids = torch.arange(min(8, weight.shape[0]), device=weight.device)
            self.plain_tables[block] = torch.equal(self.embed(ids, block), weight[ids])
        if not self.plain_tables[block]:  # else no copy of a large table
            weight = self.embed(torch.arange(weight.shape[0], device=weight.device), block)
        return weight.to(self.device)

    def run(self, rows: Rows) -> Tensor:
        """Logits at the query positions, `[row, step, vocab]`: one model call (more where `rope` asks for it).

        Raises:
            UnsupportedModelError: What the check of the model found stands against it.
        """
        self.checked.require(*ALWAYS)
        if any(t is not None and t.requires_grad for t in (rows.source_embeds, rows.target_embeds)):
            self.checked.require("gradient")
        return self.read(rows)

    def read(self, rows: Rows) -> Tensor:
        """The same without looking at what the check found."""
        if self.rope is None or not self.rope.reached(rows.planned):
            return self._run(rows)
        parts = []
        for width, chosen in self.rope.apart(rows.query):
            row = chosen.any(1).nonzero().squeeze(1)
            read = self._run(rows.cut(row, width, torch.where(chosen[row], rows.query[row], 0)))
            parts.append((read[chosen[row]], chosen))
        return scattered(parts, rows.query)

    def _run(self, rows: Rows) -> Tensor:
        if self.rope is not None:
            self.rope.forget()
        keep, offset = None, -self.virtual_tokens
        if self._keeps_logits and not self.virtual_tokens:
            # the LM head runs only over the span of positions that some row asks for
            low, high = rows.span
            keep, offset = slice(low, high + 1), low  # unlike a tensor at home on every device a head may be on
        logits = self._answered(rows, keep).to(rows.query.device)  # of a model laid over several, back to the batch
        if keep is not None and logits.shape[1] != keep.stop - keep.start:
            offset = 0  # a model that takes the argument and returns all positions all the same
        planned = rows.planned - offset
        if torch.equal(planned, torch.arange(logits.shape[1]).expand(len(planned), -1)):
            picked = logits  # no copy of what is as large as the vocabulary
        else:
            picked = at(logits, rows.query - offset)
        return picked if picked.dtype == torch.float64 else picked.float()

    def logits(self, **given: Any) -> Tensor:
        """All logits of one forward without a cache, `[row, position, vocab]`."""
        return logits_of(self.hf(**{"use_cache": False, **given}))

    def _answered(self, rows: Rows, keep: slice | None) -> Tensor:
        """`_call`; where a text is longer than the model was trained on, a failure is said to be of its length."""
        try:
            return self._call(rows, keep)
        except (AssertionError, IndexError, RuntimeError, ValueError) as error:
            read, trained = rows.span[1] + 1, self.reach["target"][1]
            if isinstance(error, AttriflowError) or "memory" in str(error) or trained is None or read <= trained:
                raise
            reason = str(error).strip().splitlines()[0][:200]
            raise InputError(f"{read} tokens are too many for {self.name}, made for {trained}: {reason}") from error

    @abstractmethod
    def _call(self, rows: Rows, keep: slice | None) -> Tensor:
        """Logits `[row, kept position, vocab]`."""

    def encoder_states(self, rows: Rows) -> Tensor:
        """Encoder output `[row, source, hidden]`."""
        raise UnsupportedModelError(f"{self.name} has no encoder")

    def embedding_scale(self, block: str) -> float:
        """Factor between the embedding module's output and the space that embeddings are given and explained in.

        That is what positions are added to, on both sides of an encoder-decoder. Models differ in where they scale: in
        the embedding module, in the forward always, or in the forward only when ids are given; encoder and decoder of
        one model need not agree.
        """
        return self._feed(block).scale

    def _feed(self, block: str) -> Feed:
        if block not in self.feeds:  # the check itself asks once it has found it
            self.checked.require(*ALWAYS)
        return self.feeds[block]

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
            if embeds is None:
                arguments[of_ids] = ids
                continue
            feed = self._feed(block)
            given = embeds if feed.inner == 1 else embeds / feed.inner
            if given.is_leaf and given.requires_grad:
                given = given.clone()  # some models go on in place
            if feed.way == "argument":
                arguments[of_embeds] = given
            elif feed.way == "hook":
                arguments[of_ids] = ids
                sides.append(Fed(self.embedding(block), ids, given))
            elif (ids := looked_up(embeds, self.embedding_table(block))) is None:
                raise UnsupportedModelError(self.checked["embeddings"].detail)
            else:
                arguments[of_ids] = ids
        with embedded(sides):
            yield arguments

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Evaluation mode, no parameter gradients, nothing compiled, gradients possible; all is restored on exit."""
        with self.lock:
            if self._is_frozen:  # by a caller, who has this lock
                yield
                return
            self._is_frozen = True
            try:
                yield from self._frozen()
            finally:
                self._is_frozen = False

    def _frozen(self) -> Iterator[None]:
        modules = list(self.hf.modules())
        if (state := state_of(self.hf, modules)) != self._seen:  # adapters, hooks or masks are others than last time
            self._seen = state
            self._forget()
        training = [module for module in modules if module.training]
        # by name: parameters that are offloaded between forwards are other objects afterwards
        named = ((m, name, p) for m in modules for name, p in m.named_parameters(recurse=False))
        wanted = [(m, name) for m, name, p in named if p.requires_grad and not p.is_inference()]
        if training:
            self.hf.eval()
        for module, name in wanted:
            getattr(module, name).requires_grad_(False)
        try:
            with torch.inference_mode(False), uncompiled(modules):
                yield
        finally:
            for module, name in wanted:
                getattr(module, name).requires_grad_(True)
            for module in training:
                module.training = True
