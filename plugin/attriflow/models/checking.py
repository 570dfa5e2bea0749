"""The model check: what a forward on ids alone computes is the truth, and what we take for granted is held against it.

Done once per model, at its first use, with a few ordinary tokens in about ten rows of a handful of tokens: does every
token have its row of logits; does a later token leave earlier predictions alone; are rows of a batch, padding,
positions that we count, embeddings in place of ids and encoder states that we reuse as good as the ids alone; does the
gradient that comes back agree with what changes of the embeddings do. What differs is switched off where there is
another way, and refused where there is none.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from attriflow.errors import out_of_memory, reason_of
from attriflow.models.base import LanguageModel, Rows
from attriflow.models.batch import pad
from attriflow.models.feeding import Feed
from attriflow.models.findings import Finding, ModelCheck, State
from attriflow.models.handed import compiled
from attriflow.texts.tokens import special_ids

_CLOSE = {torch.float64: 1e-6, torch.float32: 1e-4}
_ROUGH = 5e-2
"""How far logits may lie apart, relative to the largest: what rounding does; in half precision, the second."""

_NOTHING = 1e-6
"""Differences of logits, in nats, that are none: of models whose logits hardly leave 0."""

_MOVE = {torch.float64: 1e-4, torch.float32: 1e-2}
"""Size of the changes that gradients are held against, relative to the embeddings; half precision is too coarse."""

_SLOPE = 0.2
"""How far a gradient may lie from a difference, relative to it. What is cut out of a graph is off by more."""


def check_model(model: LanguageModel) -> ModelCheck:
    """Look at a wrapped model; what it does without is switched off on it (`takes_positions`, `virtual_tokens`)."""
    with model.frozen():
        return _Check(model).run()


def ordinary_ids(model: LanguageModel, n: int) -> list[int]:
    """Ids of `n` ordinary tokens: such that neither tokenizer nor configuration gives a meaning of their own."""
    blocks = ("source", "target") if model.is_encoder_decoder else ("target",)
    size = min(model.embedding(block).weight.shape[0] for block in blocks)
    special = set(special_ids(model.tokenizer))
    for config in (model.hf.config, getattr(model.hf, "generation_config", None)):
        special.update(_ids_in(config))
    # from all over the vocabulary, as frequent tokens lie close together and close to the special ones
    spread = dict.fromkeys([*(int(k * 0.618034 % 1 * size) for k in range(1, 65)), *range(min(size, 1000))])
    found = [i for i in spread if i not in special] or [0]
    return [found[i % len(found)] for i in range(n)]


def _ids_in(config: Any) -> Iterator[int]:
    for name, value in () if config is None else vars(config).items():
        if name.endswith(("token_id", "token_ids", "token_index")):
            yield from (i for i in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(i, int))
        elif hasattr(value, "model_type"):  # of a part: text, decoder, ...
            yield from _ids_in(value)


class _NothingLeftError(Exception):
    """Nothing more can be compared."""


class _Check:
    """The texts, and one comparison after the other."""

    def __init__(self, model: LanguageModel) -> None:
        self.model, self.name = model, type(model.hf).__name__
        a, b, c, d, e, f = ids = ordinary_ids(model, 6)
        self.others = dict(zip(ids, [*ids[1:], a], strict=True))
        first = [model.start_id] if model.is_encoder_decoder else [a]
        self.third = [model.start_id if model.is_encoder_decoder else f, c, e, d]
        self.long, self.other, self.short = [*first, b, c, d], [*first, b, e, f], [*first, b, e]
        self.source, self.short_source = [c, d, a, b], [b, e]
        self.found: list[Finding] = []
        self.rows = 0
        self.together = self.padded = True

    def run(self) -> ModelCheck:
        try:
            self.compiled()
            self.truth()
            self.causality()
            self.batches()
            self.embeddings()
            self.encoder()
            self.gradient()
        except _NothingLeftError:
            pass
        return ModelCheck(tuple(self.found), self.rows)

    # -- what is compared -------------------------------------------------------------------------------------------

    def note(self, name: str, state: State = "ok", detail: str = "") -> None:
        self.found.append(Finding(name, state, detail))

    def refuse(self, name: str, detail: str) -> NoReturn:
        self.note(name, "refused", f"{self.name} {detail}")
        raise _NothingLeftError

    def alone(self, targets: list[list[int]], sources: list[list[int]]) -> Tensor:
        """What the model as it was handed over computes on ids alone: `[row, position, vocab]`."""
        ids = torch.tensor(targets, device=self.model.device)
        given = {"input_ids": ids}
        if self.model.is_encoder_decoder:
            given = {"input_ids": torch.tensor(sources, device=self.model.device), "decoder_input_ids": ids}
        self.rows += len(targets)
        with torch.no_grad():
            return self.model.logits(**given)

    def calls(self) -> list[tuple[Rows, list[Tensor]]]:
        """The two texts as rows of our own calls, in one padded batch or in one call each, and the logits they have."""
        texts = [(self.long, self.source, self.whole), (self.short, self.short_source, self.part)]
        return [self.call(some) for some in ([texts] if self.padded else [[text] for text in texts])]

    def call(self, texts: Sequence[tuple[list[int], list[int], Tensor]]) -> tuple[Rows, list[Tensor]]:
        targets, sources, wanted = (list(part) for part in zip(*texts, strict=True))
        ids, _ = pad(targets, self.model.pad_id, self.model.device)
        read = torch.arange(ids.shape[1]).expand(len(texts), -1)
        where = {"query": read.to(ids.device), "places": read}
        if not self.model.is_encoder_decoder:
            return Rows(target_ids=ids, **where), wanted
        source, mask = pad(sources, self.model.pad_id, self.model.device)
        return Rows(target_ids=ids, source_ids=source, source_mask=mask, **where), wanted

    def logits(self, rows: Rows) -> Tensor:
        self.rows += len(rows.query)
        return self.model.read(rows)

    @torch.no_grad()
    def wrong(self, change: Callable[[Rows], Rows] = lambda rows: rows) -> str:
        """Why the texts, given in a way of ours, do not have the logits that they have alone; "" if they do."""
        try:
            for rows, wanted in self.calls():
                for row, logits in zip(self.logits(change(rows)), wanted, strict=True):
                    if not self.same(row[: len(logits)], logits):
                        return "gives other logits"
        except Exception as error:
            if out_of_memory(error):
                raise
            return f"fails ({reason_of(error)})"
        return ""

    def same(self, found: Tensor, wanted: Tensor) -> bool:
        """Whether logits are equal but for rounding; what is not finite tells nothing."""
        found, wanted = found.float().to(wanted.device), wanted.float()
        use = found.isfinite() & wanted.isfinite()
        found, wanted = torch.where(use, found, 0), torch.where(use, wanted, 0)
        limit = _CLOSE.get(self.model.dtype, _ROUGH) * float(wanted.abs().max())
        return bool(((found - wanted).abs() <= max(limit, _NOTHING)).all())

    # -- comparisons ------------------------------------------------------------------------------------------------

    def compiled(self) -> None:
        """Compiled code, which hides its parts."""
        parts = [name for name, module in self.model.hf.named_modules() if compiled(module)]
        if parts:
            what = "the whole model" if parts[0] in ("", "_orig_mod") else ", ".join(parts[:3])
            self.note("compiled", "off", f"{what} runs as it was written: torch.compile is left out meanwhile")

    def truth(self) -> None:
        """Every token has its row of logits."""
        model = self.model
        try:
            whole, part = self.alone([self.long], [self.source])[0], self.alone([self.short], [self.short_source])[0]
        except Exception as error:
            if out_of_memory(error):
                raise
            self.refuse("logits", f"cannot be read: its forward on token ids fails: {reason_of(error)}")
        more = len(whole) - len(self.long)
        if whole.ndim != 2 or more < 0 or len(part) - len(self.short) != more:
            self.refuse(
                "logits", f"gives {list(whole.shape)} logits for {len(self.long)} tokens: one row each is needed"
            )
        model.virtual_tokens = more
        self.whole, self.part = whole[more:], part[more:]
        self.note("logits", "ok", f"{more} virtual tokens stand before every text" if more else "")

    def causality(self) -> None:
        """A later token leaves what comes before it as it is; so does another row."""
        rows, sources = [self.long, self.other, self.third], [self.source, self.source, self.source[::-1]]
        pair = self.alone(rows, sources)[:, self.model.virtual_tokens :]
        together = self.same(pair[0], self.whole)
        other = pair[1] if together else self.alone([self.other], [self.source])[0, self.model.virtual_tokens :]
        if not self.same(other[:2], self.whole[:2]):
            self.refuse(
                "causality",
                "is no causal language model: a later token changes what it predicts earlier (an encoder? "
                "is_decoder=True in its configuration makes a decoder of those that can be one)",
            )
        prefix = self.part  # what a shorter text ends with must not depend on there being more
        if self.model.is_encoder_decoder:
            prefix = self.alone([self.short], [self.source])[0, self.model.virtual_tokens :]
        if not self.same(other[: len(prefix)], prefix):
            self.refuse(
                "causality", "predicts from a prefix otherwise than within a longer text: every step would differ"
            )
        self.note("causality")
        self.together = together
        if not together:
            self.note("rows", "off", f"rows of a batch change each other in {self.name}: a call gets one")

    def batches(self) -> None:
        """Ids as we give them: with positions, in a padded batch; without either where that differs."""
        model, counted = self.model, self.model.takes_positions
        for padded, positions in itertools.product(
            *((True, False) if on else (False,) for on in (self.together, counted))
        ):
            self.padded, model.takes_positions = padded, positions
            if why := self.wrong():
                continue
            if counted and not positions:
                self.note("positions", "off", f"{self.name} counts positions in its own way, and is left to")
            if self.together and not padded:
                self.note(
                    "padding", "off", f"padding changes what {self.name} computes: a batch has texts of one length"
                )
            return
        self.refuse("logits", f"cannot be read: with a text and its positions in a call of ours, it {why}")

    def embeddings(self) -> None:
        """Embeddings in place of ids: those of tokens, and others."""
        reasons = ["has an adapter that looks for tokens in the ids"] if self.model.reads_ids else []
        reasons = reasons or [why for block in self.model.sides if (why := self.feed(block))]
        if not reasons:
            self.one_space()
            hooked = [block for block, feed in self.model.feeds.items() if feed.way == "hook"]
            self.note("embeddings", "ok", f"given beside the ids on the {' and '.join(hooked)} side" if hooked else "")
            return
        self.model.feeds = dict.fromkeys(self.model.sides, Feed("ids"))
        what = f"{self.name} takes no embeddings in place of ids: it {reasons[0]}"
        self.note("embeddings", "off", f"{what}. Those of tokens are given as their ids")
        self.note("gradient", "refused", f"{what}. Methods that only replace tokens work (occlusion, LIME, ...)")

    def feed(self, block: str) -> str:
        """Find the way that embeddings of a block go in; why there is none, or ""."""
        model, why = self.model, ""
        module = model.embedding(block)
        owners = [m for m in model.hf.modules() if isinstance(getattr(m, "embed_scale", None), (int, float, Tensor))]
        scales = dict.fromkeys([1.0, *(float(m.embed_scale) for m in owners), float(model.hidden_size) ** 0.5])
        for feed in (*(Feed("argument", scale) for scale in scales), Feed("hook")):
            model.feeds[block] = feed

            def embedded(rows: Rows, feed: Feed = feed) -> Rows:
                ids = getattr(rows, f"{block}_ids")
                if feed.way == "hook":  # beside ids that do not tell which embeddings
                    beside = ids.clone().cpu().apply_(lambda i: self.others.get(i, i)).to(ids.device)
                else:
                    beside = ids
                return dataclasses.replace(
                    rows, **{f"{block}_embeds": module(ids) * feed.scale, f"{block}_ids": beside}
                )

            with torch.no_grad():
                reason = self.wrong(embedded) or self.mixed(block)
            if not reason:
                return ""
            why = why or reason
        return why

    def one_space(self) -> None:
        """Where one side is given scaled embeddings and the other scales them itself, both are given scaled ones."""
        feeds = self.model.feeds
        if len(feeds) < 2 or all(feed.scale == 1 for feed in feeds.values()):
            return
        for block, feed in feeds.items():
            stack = self.model.hf.get_encoder() if block == "source" else self.model.hf.get_decoder()
            scale = getattr(stack, "embed_scale", 1.0)
            if feed.scale == 1 and isinstance(scale, (int, float, Tensor)):
                feeds[block] = Feed(feed.way, float(scale), float(scale))

    def mixed(self, block: str) -> str:
        """Why embeddings that are no token's cannot be given; "" if they can."""
        rows, _ = self.call([(self.long, self.source, self.whole)])
        embeds = self.model.embed(getattr(rows, f"{block}_ids"), block)
        try:
            self.logits(dataclasses.replace(rows, **{f"{block}_embeds": (embeds + embeds.flip(1)) / 2}))
        except Exception as error:
            if out_of_memory(error):
                raise
            return f"fails on others than those of tokens ({reason_of(error)})"
        return ""

    def encoder(self) -> None:
        """Encoder states that were computed before."""
        if self.model.is_encoder_decoder:
            why = self.wrong(lambda rows: dataclasses.replace(rows, encoder_states=self.model.encoder_states(rows)))
            self.note("encoder", "off" if why else "ok", f"{self.name} with states of its encoder {why}" if why else "")

    def gradient(self) -> None:
        """The gradient that comes back against differences of the logits."""
        if not ModelCheck(tuple(self.found), 0).works("gradient"):
            return
        model, (rows, _) = self.model, self.call([(self.long, self.source, self.whole)])
        at = {block: model.embed(getattr(rows, f"{block}_ids"), block).detach() for block in model.sides}
        leaves = {block: t.clone().requires_grad_(True) for block, t in at.items()}
        try:
            with torch.enable_grad():
                value = self.value(rows, leaves)
                if not value.requires_grad:
                    self.refuse("gradient", "makes no gradient: its forward runs without, or on whole numbers")
                grads = torch.autograd.grad(value.sum(), list(leaves.values()))
        except Exception as error:
            if out_of_memory(error) or isinstance(error, _NothingLeftError):
                raise
            self.refuse("gradient", f"makes no gradient at its embeddings: {reason_of(error)}")
        for block, grad in zip(leaves, grads, strict=True):
            if not grad.any():
                side = f" of its {block} side" if model.is_encoder_decoder else ""
                self.refuse("gradient", f"makes no gradient at the embeddings{side}")
            if (size := _MOVE.get(model.dtype)) is not None:
                self.held_against_differences(block, grad, at, rows, size)
        self.note("gradient")

    def held_against_differences(
        self, block: str, grad: Tensor, at: dict[str, Tensor], rows: Rows, size: float
    ) -> None:
        """Compare the gradient's slope along one direction with changes of the value, if these agree on one."""
        noise = torch.randn(grad.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        way = noise.to(grad.device, grad.dtype) * at[block].pow(2).mean().sqrt()
        moves = [sign * s for s in (size, size / 2) for sign in (1, -1)]
        with torch.no_grad():
            values = [self.value(rows, {**at, block: at[block] + move * way}).item() for move in moves]
        slopes = [
            (up - down) / (2 * s) for (up, down), s in zip((values[:2], values[2:]), (size, size / 2), strict=True)
        ]
        error = abs(slopes[0] - slopes[1]) + 100 * torch.finfo(grad.dtype).eps * max(map(abs, values)) / size + _NOTHING
        found = float((grad * way).sum())
        if abs(found - slopes[1]) > _SLOPE * abs(slopes[1]) + 3 * error:
            self.refuse(
                "gradient",
                f"makes a gradient at the embeddings of its {block} side that is not that of its logits ({found:.3g} "
                f"along a direction in which they change by {slopes[1]:.3g}): something in it is cut out of the graph",
            )

    def value(self, rows: Rows, embeds: dict[str, Tensor]) -> Tensor:
        """A logit of the last position, `[row]`, with embeddings in place of ids."""
        given = dataclasses.replace(rows, **{f"{block}_embeds": t for block, t in embeds.items()})
        return self.logits(given)[:, -1, self.long[1]]
