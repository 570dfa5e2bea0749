"""The three primitives every method and every faithfulness metric is made of: forward, gradients, rescore.

One teacher-forced pass scores every target step, because in a causal decoder a token's output depends on nothing
after it:

    decoder input     p0  p1  p2  y0  y1        (prompt p, continuation y; y2 is never an input)
    output predicts   .   .   y0  y1  y2        step j is read at position start + j - 1
    step                      0   1   2

The engine is bound to one batch and one objective. It alone chooses chunk sizes, retries with smaller ones when memory
runs out, and counts passes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from attriflow.errors import InputError, OutOfMemoryError, UnsupportedModelError
from attriflow.models.attention import AttentionRecord, attentions_returned, implementation, interface_works, listen
from attriflow.models.base import LanguageModel, Rows
from attriflow.models.batch import Batch, collate_contrast
from attriflow.passes import EnginePasses
from attriflow.prefix import SHORTEST, Prefix, agrees, first_change, moved_steps, record, rescored, worthwhile
from attriflow.sizes import Sizes
from attriflow.types import Example, Forward

Sites = Mapping[str, nn.Module]
"""Block -> the module whose output is looked at in place of the block's input embeddings."""

Reduce = Callable[[str, Tensor, Sequence[float]], Tensor]
"""`(block, gradients [step, point, batch, position, hidden], path parameters)` -> `[step, batch, position, ...]`."""

Embed = Callable[[Mapping[str, Tensor], Sequence[float]], Mapping[str, Tensor]]
"""`(points [point * batch, ...] by block, path parameters)` -> embeddings `[point * batch, position, hidden]`."""


@dataclass
class Counter:
    """What was computed: sequences sent through the model, batched calls, vector-Jacobian products of one sequence."""

    forward_rows: int = 0
    forward_calls: int = 0
    backward_rows: int = 0


@dataclass(frozen=True)
class Objective:
    """The scalar that is explained at each step.

    Attributes:
        function: `(Forward) -> [batch, step]`.
        stepwise: Whether a step's value depends on that step's logits only, as the contract says; the engine then sends
            one gradient per step through the LM head, not one per pair of steps. False for unregistered callables
            that have no attribute `stepwise`.
        passes: Whether it runs the model again, so that nothing of a pass may be left out or taken from another.
    """

    function: Callable[[Forward], Tensor]
    stepwise: bool = True
    passes: bool = False

    def __call__(self, forward: Forward) -> Tensor:
        """Value per step, `[batch, step]`."""
        values = self.function(forward)
        if values.shape != forward.target_ids.shape:
            raise UnsupportedModelError(
                f"the attributed function returned shape {tuple(values.shape)}, "
                f"expected [batch, step] = {tuple(forward.target_ids.shape)}"
            )
        return values


@dataclass
class Engine:
    """One batch of examples, one objective, and the primitives to explain them.

    Attributes:
        model: The wrapped model.
        examples: The examples of the batch.
        objective: What is explained.
        blocks: Input blocks that get credit: ("target",) for decoder-only models, ("source",) or ("source", "target").
        seed: For methods that draw random numbers.
        include_eos_baseline: Whether EOS tokens are replaced in baselines too.
        granular: Keep the embedding axis.
        force_contrast: Contrastive objectives compare with the contrastive input's own logits.
        counter: Passes so far.
    """

    model: LanguageModel
    examples: Sequence[Example]
    objective: Objective
    blocks: tuple[str, ...]
    seed: int = 0
    include_eos_baseline: bool = False
    granular: bool = False
    force_contrast: bool = False
    counter: Counter = field(default_factory=Counter)

    def __post_init__(self) -> None:
        """Pad the examples once."""
        self.batch = self.model.collate(self.examples)
        self.sizes = Sizes(self.model, self.batch)
        self._base: Forward | None = None
        self._values: Tensor | None = None
        self._pieces: dict[int, Tensor] = {}
        self._prefix: Prefix | None = None
        self._encoder: Tensor | None = None
        self._max_rows: int | None = None
        self._contrast = self._collate_contrast()
        self._contrast_logits: Tensor | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Type of scores: double for a double model, single otherwise; half-precision sums would lose digits."""
        return torch.float64 if self.model.dtype == torch.float64 else torch.float32

    # -- inputs -----------------------------------------------------------------------------------------------------

    def ids(self, block: str) -> Tensor:
        """Token ids of a block, `[batch, position]`."""
        ids = self.batch.source_ids if block == "source" else self.batch.target_ids
        if ids is None:
            raise UnsupportedModelError(f"{self.model.name} has no {block} side")
        return ids

    def present(self, block: str) -> Tensor:
        """Bool `[batch, position]`: real tokens, not padding."""
        mask = self.batch.source_mask if block == "source" else self.batch.target_mask
        if mask is None:
            raise UnsupportedModelError(f"{self.model.name} has no {block} side")
        return mask.bool()

    def visible(self, block: str) -> Tensor:
        """Bool `[batch, step, position]`: which inputs a step can see."""
        present = self.present(block).unsqueeze(1)
        if block == "source":
            return present & self.batch.step_mask.unsqueeze(-1)
        position = torch.arange(present.shape[-1], device=present.device)
        return present & (position <= self.batch.query.unsqueeze(-1)) & self.batch.step_mask.unsqueeze(-1)

    def embeddings(self, block: str) -> Tensor:
        """Input embeddings of a block, `[batch, position, hidden]`."""
        return self.model.embed(self.ids(block), block)

    def baseline_embeddings(self, block: str, baseline: str | int = "unk") -> Tensor:
        """Embeddings that stand for absent tokens, `[batch, position, hidden]` (see `baselines.baseline_ids`)."""
        from attriflow.baselines import baseline_embeddings

        return baseline_embeddings(self, block, baseline)

    # -- forward ----------------------------------------------------------------------------------------------------

    def rows(self, n: int = 1, **changes: Any) -> Rows:
        """Inputs of the whole batch, repeated `n` times (row = repetition * batch + example), with some replaced."""
        b = self.batch
        fields: dict[str, Any] = {"target_ids": b.target_ids, "query": b.query}
        if b.source_ids is not None:
            fields |= {"source_ids": b.source_ids, "source_mask": b.source_mask}
        fields = {k: v if v is None else v.repeat(n, *([1] * (v.ndim - 1))) for k, v in fields.items()}
        return Rows(**{**fields, **changes})

    def run(self, rows: Rows, steps: slice = slice(None)) -> Forward:
        """One counted model call on repetitions of the batch, read at all steps or at a range of them."""
        logits = self.model.run(rows)
        n = rows.query.shape[0]
        self.counter.forward_rows += n
        self.counter.forward_calls += 1
        return self.forward_of(logits, steps, rows)

    def forward_of(self, logits: Tensor, steps: slice = slice(None), rows: Rows | None = None) -> Forward:
        """What step functions see of `[version * batch, step, vocab]` logits, and the rows they came from."""
        repeat = logits.shape[0] // self.batch.size
        forward = Forward(
            logits=logits,
            target_ids=self.batch.step_ids[:, steps].repeat(repeat, 1),
            mask=self.batch.step_mask[:, steps].repeat(repeat, 1),
            model=self.model,
            passes=EnginePasses(self, self.rows(repeat) if rows is None else rows, steps),
        )
        return self._contrasted(forward, repeat, self.force_contrast, steps)

    # -- contrast ---------------------------------------------------------------------------------------------------

    @property
    def contrasted(self) -> bool:
        """Whether the examples have foils."""
        return self._contrast is not None

    def _collate_contrast(self) -> Batch | None:
        contrasts = [e.contrast for e in self.examples if e.contrast is not None]
        if len(contrasts) != len(self.examples):
            return None
        return collate_contrast(contrasts, self.model.pad_id, self.model.device)

    def _contrasted(self, forward: Forward, repeat: int, forced: bool, steps: slice = slice(None)) -> Forward:
        """The forward with its foil: the foil's tokens under the same logits, or under its own input's."""
        if self._contrast is None:
            return forward
        logits = self._foil_logits()[:, steps].repeat(repeat, 1, 1) if forced else forward.logits
        ids = self._contrast.step_ids[:, steps].repeat(repeat, 1)
        foil = Forward(logits=logits, target_ids=ids, mask=forward.mask)
        return dataclasses.replace(forward, contrast=foil)

    def _foil_logits(self) -> Tensor:
        """Logits of the contrastive input, `[batch, step, vocab]`; a constant, run once."""
        if self._contrast_logits is None and self._contrast is not None:
            c = self._contrast
            rows = Rows(target_ids=c.target_ids, source_ids=c.source_ids, source_mask=c.source_mask, query=c.query)
            with torch.no_grad():
                self._contrast_logits = self.model.run(rows)
            self.counter.forward_rows += self.batch.size
            self.counter.forward_calls += 1
        if self._contrast_logits is None:
            raise UnsupportedModelError("the examples have no contrastive inputs")
        return self._contrast_logits

    def run_foil(self) -> None:
        """Have the pass over a contrastive input behind, where one will be needed, before anyone records a pass."""
        if self.force_contrast and self._contrast is not None:
            self._foil_logits()

    def scored(self) -> Forward:
        """What step scores read: the pass over the unchanged input and, if there is one, over the foil."""
        return self._contrasted(self.base(), 1, forced=True)

    def base(self) -> Forward:
        """The pass over the unchanged input, run once."""
        if self._base is None:
            with torch.no_grad():
                self._base = self.run(self.rows())
        return self._base

    def offer_base(self, forward: Forward, inputs: Mapping[str, Tensor], steps: slice = slice(0, None)) -> None:
        """Keep a pass that turns out to have run on the unchanged input, so that it need not be run again.

        A range of steps is kept until the others have come: later tokens do not change what earlier steps read.
        """
        if self._base is not None or not all(torch.equal(t.detach(), self.embeddings(b)) for b, t in inputs.items()):
            return
        self._pieces[steps.start] = forward.logits.detach()
        if sum(piece.shape[1] for piece in self._pieces.values()) == self.batch.n_steps:
            logits = torch.cat([self._pieces[start] for start in sorted(self._pieces)], 1)
            self._base = self.forward_of(logits)
            self._pieces.clear()

    @torch.no_grad()
    def values(self) -> Tensor:
        """The objective on the unchanged input, `[batch, step]`; computed once."""
        if self._values is None:
            self._values = self.objective(self.base()).detach()
        return self._values

    def values_at(self, embeddings: Mapping[str, Tensor]) -> Tensor:
        """The objective with other input embeddings, block -> `[batch, position, hidden]`; `[batch, step]`."""
        changed = {f"{block}_embeds": value.to(self.model.dtype) for block, value in embeddings.items()}
        return self.rescore(1, lambda _start, _stop: changed)[0]

    # -- gradients --------------------------------------------------------------------------------------------------

    def gradients(
        self,
        points: Callable[[float], Mapping[str, Tensor]] | None = None,
        alphas: Sequence[float] = (1.0,),
        weights: Sequence[float] | None = None,
        max_rows: int | None = None,
        *,
        sites: Sites | None = None,
        within: Callable[[], AbstractContextManager[Any]] | None = None,
        reduce: Reduce | None = None,
        embed: Embed | None = None,
        unchanged: int = 0,
        together: int | None = None,
    ) -> Iterator[tuple[slice, dict[str, Tensor]]]:
        """Gradients of every step with respect to the inputs, summed over weighted points (see `gradients.Gradients`).

        Args:
            points: Block -> embeddings `[batch, position, hidden]` for a path parameter (or the number of a sample);
                the input itself when None.
            alphas, weights: Path parameters and the weight of each gradient in the sum (1 when None).
            max_rows: At most this many sequences per model call.
            sites: Block -> module whose output takes the place of the input embeddings.
            within: Makes a context that model and objective run in, instead of `linearised.linearised`.
            reduce: Combines the gradients of the points of one graph; their sum when None.
            embed: Makes the input embeddings from the points, where these are not the embeddings of whole blocks.
            unchanged: Decoder positions before this one are as in the input at every point; with `reusable_prefix`,
                their keys and values are taken from there, and steps that only see them are left out.
            together: Products of one sequence that go through a graph at once; chosen by memory when None.

        Yields:
            Slices of steps with block -> `[batch, step, position, hidden]`.
        """
        from attriflow.gradients import Gradients

        weights = [1.0] * len(alphas) if weights is None else weights
        yield from Gradients(self, points, alphas, weights, max_rows, sites, within, reduce, embed, unchanged, together)

    @torch.no_grad()
    def activations(self, sites: Sites, changes: Mapping[str, Any] | None = None) -> dict[str, Tensor]:
        """What modules put out on the batch (with some of its inputs changed), block -> `[batch, position, width]`."""
        found: dict[str, Tensor] = {}

        def keep(block: str) -> Callable[..., None]:
            def hook(_module: Any, _args: Any, output: Any) -> None:
                tensor = site_output(output, self.ids(block).shape[:2])
                if block in found:
                    raise UnsupportedModelError(f"the target layer of the {block} side runs several times in one pass")
                found[block] = tensor.detach()

            return hook

        hooks = [module.register_forward_hook(keep(block)) for block, module in sites.items()]
        try:
            self.run(self.rows(**dict(changes or {})))
        finally:
            for handle in hooks:
                handle.remove()
        if missing := set(sites) - set(found):
            raise UnsupportedModelError(f"the target layer of the {sorted(missing)[0]} side did not run")
        return found

    # -- rescore ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def rescore(self, n: int, changes: Callable[[int, int], Mapping[str, Tensor]], *, in_order: bool = False) -> Tensor:
        """The objective on `n` changed versions of the batch, `[version, batch, step]`.

        Args:
            n: Number of versions.
            changes: For versions `start:stop`, the fields of `Rows` that change, with rows ordered version by version
                (`[(stop - start) * batch, ...]`).
            in_order: Versions come in the order of the first decoder position they change: what stands before it is
                then not computed again (decoder-only models; about half of the work where every token is changed).

        Complexity: `n` forwards, packed into as few calls as memory allows. The encoder runs once when the source side
        does not change.
        """
        out: list[Tensor] = []
        prefix = self.reusable_prefix() if in_order and worthwhile(self, n) else None
        at = reached = 0  # versions from here on change nothing before this position
        while at < n:
            read = self.batch.n_steps - moved_steps(self, reached).start
            size = max(1, self.sizes.rows_at_once(left_out=reached, steps=read) // self.batch.size)
            if prefix is not None:
                size = min(size, max(8, -(-n // 8)))  # short runs of versions share long prefixes
            end = min(n, at + min(size, self._max_rows or size))
            try:
                changed = dict(changes(at, end))
                length = 0 if prefix is None else first_change(self, changed)
                if prefix is not None and length >= SHORTEST:
                    out.append(rescored(self, prefix, length, changed["target_embeds"]))
                    reached = length if length < self.ids("target").shape[1] else reached
                    at = end
                    continue
                reusable = self.model.is_encoder_decoder and not self.objective.passes
                if reusable and not {"source_embeds", "source_ids", "source_mask"} & set(changed):
                    changed["encoder_states"] = self.encoder_states().repeat(end - at, 1, 1)
                forward = self.run(self.rows(end - at, **changed))
                out.append(self.objective(forward).unflatten(0, (end - at, self.batch.size)))
            except torch.OutOfMemoryError:
                if end == at + 1:
                    raise OutOfMemoryError("out of memory with a single changed version of the batch") from None
                self._max_rows = (end - at) // 2
                continue
            at = end
        return torch.cat(out)

    def reusable_prefix(self) -> Prefix | None:
        """Keys and values of the unchanged batch, where reusing them gives the logits of a run that does not."""
        width = self.ids("target").shape[1]
        if self.model.is_encoder_decoder or self.model.reuses_prefix is False or width <= 2 * SHORTEST:
            return None
        if self.objective.passes:
            return None
        if self._prefix is None:
            self._prefix = record(self)
            if self._prefix is not None and self.model.reuses_prefix is None:
                self.model.reuses_prefix = agrees(self, self._prefix)
            if self._prefix is None or not self.model.reuses_prefix:
                self.model.reuses_prefix, self._prefix = False, None
        return self._prefix

    def encoder_states(self) -> Tensor:
        """Encoder output of the unchanged source, run once."""
        if self._encoder is None:
            with torch.no_grad():
                self._encoder = self.model.encoder_states(self.rows())
        return self._encoder

    # -- attention --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def attention(self, whole: tuple[str, ...] = ()) -> dict[str, Tensor]:
        """Attention weights at the query positions, block -> `[batch, step, attended, layer, head]`; one forward.

        Args:
            whole: Whole maps to return as well, "encoder_self" or "decoder_self" ->
                `[batch, attended, receiving, layer, head]`.
        """
        hf = self.model.hf
        self.run_foil()
        record = AttentionRecord(hf, self.model.is_encoder_decoder, self.batch.query, self.blocks, whole)
        forward: Forward | None = None
        if interface_works(hf):
            with listen(hf, record):
                forward = self.run(self.rows())
        if forward is None or not record.complete:
            record, forward = self._attention_outputs(whole)
        if self._base is None:
            self._base = forward
        return {name: record.stacked(name) for name in (*self.blocks, *whole)}

    def _attention_outputs(self, whole: tuple[str, ...]) -> tuple[AttentionRecord, Forward]:
        """The same for architectures outside the attention interface, through `output_attentions`."""
        hf = self.model.hf
        record = AttentionRecord(hf, self.model.is_encoder_decoder, self.batch.query, self.blocks, whole)
        caught: list[Any] = []
        hook = hf.register_forward_hook(lambda _m, _a, output: caught.append(output))
        try:
            with implementation(hf, "eager"), attentions_returned(hf):
                forward = self.run(self.rows())
        finally:
            hook.remove()
        names = {
            "cross": "cross_attentions",
            "decoder_self": "decoder_attentions",
            "encoder_self": "encoder_attentions",
        }
        if not self.model.is_encoder_decoder:
            names = {"decoder_self": "attentions"}
        for role, name in names.items():
            for weights in getattr(caught[0], name, None) or ():
                if weights is not None:
                    record.add(role, weights)
        if not record.complete:
            raise UnsupportedModelError(f"{type(hf).__name__} does not give its attention weights")
        return record, forward


def site_output(output: Any, shape: Sequence[int]) -> Tensor:
    """The tensor a layer puts out (the first of several), checked to be `[row, position, width]`."""
    tensor = output[0] if isinstance(output, (tuple, list)) else output
    if not isinstance(tensor, Tensor) or tensor.ndim != 3 or tensor.shape[1] != shape[1]:
        found = list(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
        raise InputError(f"a target layer must put out [row, position, width]; this one puts out {found}")
    return tensor
