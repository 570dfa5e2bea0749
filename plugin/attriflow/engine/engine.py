"""The three primitives every method and every faithfulness metric is made of: forward, gradients, rescore.

The engine is bound to one batch and one objective (see `bound`). It alone chooses chunk sizes, retries with smaller
ones when memory runs out, and counts passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attriflow.engine.baselines import Baseline, Draw, baseline_embeddings
from attriflow.engine.bound import Bound, Embed, Reduce, Sites
from attriflow.engine.gradients import Gradients
from attriflow.engine.memory import Halving
from attriflow.engine.passes import CHANGEABLE as OF_INPUTS
from attriflow.engine.passes import EnginePasses
from attriflow.engine.prefix import SHORTEST, Prefix, record
from attriflow.engine.sizes import in_parts, worthwhile
from attriflow.errors import AttriflowError, InputError, UnsupportedModelError, check_keywords, out_of_memory
from attriflow.kernels.plain import shortcuts
from attriflow.models.attention import AttentionRecord, attentions_returned, interface_works, listen
from attriflow.models.base import Rows
from attriflow.types import Passes

CHANGEABLE = (*OF_INPUTS, "encoder_states")
"""Fields of `Rows` that versions of a batch may differ in."""


@dataclass
class Engine(Bound):
    """One batch of examples, one objective, and the primitives to explain them (attributes: see `bound.Bound`)."""

    def __post_init__(self) -> None:
        """Pad the examples once."""
        super().__post_init__()
        self._prefix: Prefix | None = None
        self._versions = Halving("a single changed version of the batch")

    def passes(self, rows: Rows, steps: slice) -> Passes:
        """Further passes over the rows of a call."""
        return EnginePasses(self, rows, steps)

    def baseline_embeddings(self, block: str, baseline: Baseline | Draw = "unk") -> Tensor:
        """Embeddings that stand for absent tokens, `[batch, position, hidden]` (see `baselines.baseline_ids`)."""
        return baseline_embeddings(self, block, baseline)

    def values_at(self, embeddings: Mapping[str, Tensor]) -> Tensor:
        """The objective with other input embeddings, block -> `[batch, position, hidden]`; `[batch, step]`."""
        changed = {f"{block}_embeds": value.to(self.model.dtype) for block, value in embeddings.items()}
        return self.rescore(1, lambda _start, _stop: changed)[0]

    # -- gradients --------------------------------------------------------------------------------------------------

    def gradients(
        self,
        points: Callable[[float], Mapping[str, Tensor]] | None = None,
        alphas: Sequence[float] = (1.0,),
        weights: Sequence[float] | Tensor | None = None,
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
        yield from Gradients(
            self,
            self.reusable_prefix,
            points,
            alphas,
            weights,
            max_rows,
            sites,
            within,
            reduce,
            embed,
            unchanged,
            together,
        )

    # -- rescore ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def rescore(self, n: int, changes: Callable[[int, int], Mapping[str, Tensor]], *, in_order: bool = False) -> Tensor:
        """The objective on `n` changed versions of the batch, `[version, batch, step]`.

        Args:
            n: Number of versions.
            changes: For versions `start:stop`, the fields of `Rows` that change (see `CHANGEABLE`), with rows ordered
                version by version (`[(stop - start) * batch, ...]`).
            in_order: Versions come in the order of the first decoder position they change: what stands before it is
                then not computed again (decoder-only models; about half of the work where every token is changed).

        Complexity: `n` forwards, packed into as few calls as memory allows. The encoder runs once when the source side
        does not change.
        """
        prefix = self.reusable_prefix() if in_order and worthwhile(self.sizes, n) else None
        reached = 0  # versions from here on change nothing before this position

        def size(_at: int) -> int:
            read = self.read.n_steps - self.reads_after(reached).start
            versions = self.sizes.rows_at_once(left_out=reached, steps=read) // self.batch.size
            return versions if prefix is None else min(versions, in_parts(n))

        def scored(start: int, stop: int) -> Tensor:
            nonlocal reached
            changed = self._fitting(stop - start, dict(changes(start, stop)))
            found = None if prefix is None else prefix.values(changed)
            if found is None:
                return self._whole(stop - start, changed)
            values, length = found
            reached = length if length < self.ids("target").shape[1] else reached
            return values

        return torch.cat(list(self._versions.parts(n, size, scored)))

    def _fitting(self, n: int, changed: dict[str, Any]) -> dict[str, Any]:
        """The changes of `n` versions, once their names and numbers of rows are known to be right."""
        check_keywords("what rescore changes", changed, CHANGEABLE)
        for name, value in changed.items():
            if len(value) != n * self.batch.size:
                wanted = f"{n} versions of {self.batch.size} examples need {n * self.batch.size} rows"
                raise InputError(f"rescore: {wanted} in '{name}', not {len(value)}")
        return changed

    def _whole(self, n: int, changed: dict[str, Any]) -> Tensor:
        """The objective on `n` versions that run as a whole; an encoder whose side does not change runs once."""
        reusable = self.model.is_encoder_decoder and self.model.checked.works("encoder") and shortcuts()
        reusable = reusable and not self.objective.passes
        if reusable and not {"source_embeds", "source_ids", "source_mask"} & set(changed):
            changed["encoder_states"] = self.encoder_states().repeat(n, 1, 1)
        return self.of_steps(self.objective(self.run(self.rows(n, **changed)))).unflatten(0, (n, self.batch.size))

    def reusable_prefix(self) -> Prefix | None:
        """Keys and values of the unchanged batch, where reusing them gives the logits of a run that does not."""
        width = self.ids("target").shape[1]
        if self.model.is_encoder_decoder or self.model.reuses_prefix is False or width <= 2 * SHORTEST:
            return None
        if self.objective.passes or not shortcuts():
            return None
        if self.model.rope is not None and self.model.rope.reached(self.read.host.query):
            return None  # keys of a prefix are others in a longer text
        if self._prefix is None:
            self._prefix = record(self)
            if self._prefix is not None and self.model.reuses_prefix is None:
                self.model.reuses_prefix = self._prefix.agrees()
            if self._prefix is None or not self.model.reuses_prefix:
                self.model.reuses_prefix, self._prefix = False, None
        return self._prefix

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
        record = self.attention_record(whole)
        if interface_works(hf):
            with listen(hf, record):
                forward = self.run(self.rows())
            if record.complete:
                if self._base is None and shortcuts():
                    self._base = forward
                return {name: record.stacked(name) for name in (*self.blocks, *whole)}
        record = self._attention_outputs(whole)
        return {name: record.stacked(name) for name in (*self.blocks, *whole)}

    def attention_record(self, whole: tuple[str, ...] = ()) -> AttentionRecord:
        """What takes attention weights, or tells what a layer of attention is for (see `attention`)."""
        self.watched()
        widths = {side: self.ids(side).shape[1] for side in self.model.sides}
        before = self.model.puts_before or self.model.virtual_tokens > 0
        return AttentionRecord(self.model.hf, widths, self.read.query, self.blocks, whole, before)

    def _attention_outputs(self, whole: tuple[str, ...]) -> AttentionRecord:
        """The same for architectures outside the attention interface, through `output_attentions`.

        They choose among ways to compute attention in code of their own, so the pass is held against an ordinary one,
        once per model.
        """
        hf, record = self.model.hf, self.attention_record(whole)
        base = None if self.model.shows_attention else self.base()
        caught: list[Any] = []
        hook = hf.register_forward_hook(lambda _m, _a, output: caught.append(output))
        try:
            with attentions_returned(hf):
                forward = self.run(self.rows())
        except (AttributeError, ImportError, IndexError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, AttriflowError) or out_of_memory(error):
                raise
            raise self._no_attention(f" ({str(error).strip().splitlines()[0]})") from error
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
                if isinstance(weights, Tensor):
                    record.add(role, weights)
        if not record.complete:
            raise self._no_attention()
        if base is not None:
            tolerance = (1e-4 if self.dtype == self.model.dtype else 5e-2) * float(base.logits.abs().max())
            if not torch.allclose(forward.logits, base.logits, atol=tolerance, rtol=0):
                raise self._no_attention(": it computes other logits where it returns them")
            self.model.shows_attention = True
        if self._base is None and shortcuts():
            self._base = forward
        return record

    def _no_attention(self, why: str = "") -> UnsupportedModelError:
        return UnsupportedModelError(f"{type(self.model.hf).__name__} does not give its attention weights{why}")
