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
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attriflow.errors import OutOfMemoryError, UnsupportedModelError
from attriflow.models.attention import AttentionRecord, attentions_returned, implementation, interface_works, listen
from attriflow.models.base import LanguageModel, Rows
from attriflow.models.batch import Batch, collate_contrast
from attriflow.types import Example, Forward

CHUNK_BYTES = 512 * 2**20
"""Working memory that one chunk of rows or of vector-Jacobian products may take."""


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
            one gradient per step through the LM head, not one per pair of steps. False for unregistered callables.
    """

    function: Callable[[Forward], Tensor]
    stepwise: bool = True

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
        self._base: Forward | None = None
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

    def run(self, rows: Rows) -> Forward:
        """One counted model call on repetitions of the batch."""
        logits = self.model.run(rows)
        n = rows.query.shape[0]
        self.counter.forward_rows += n
        self.counter.forward_calls += 1
        repeat = n // self.batch.size
        forward = Forward(
            logits=logits,
            target_ids=self.batch.step_ids.repeat(repeat, 1),
            mask=self.batch.step_mask.repeat(repeat, 1),
            model=self.model,
        )
        return self._contrasted(forward, repeat, forced=self.force_contrast)

    # -- contrast ---------------------------------------------------------------------------------------------------

    def _collate_contrast(self) -> Batch | None:
        contrasts = [e.contrast for e in self.examples if e.contrast is not None]
        if len(contrasts) != len(self.examples):
            return None
        return collate_contrast(contrasts, self.model.pad_id, self.model.device)

    def _contrasted(self, forward: Forward, repeat: int, forced: bool) -> Forward:
        """The forward with its foil: the foil's tokens under the same logits, or under its own input's."""
        if self._contrast is None:
            return forward
        logits = self._foil_logits().repeat(repeat, 1, 1) if forced else forward.logits
        foil = Forward(logits=logits, target_ids=self._contrast.step_ids.repeat(repeat, 1), mask=forward.mask)
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

    def scored(self) -> Forward:
        """What step scores read: the pass over the unchanged input and, if there is one, over the foil."""
        return self._contrasted(self.base(), 1, forced=True)

    def base(self) -> Forward:
        """The pass over the unchanged input, run once."""
        if self._base is None:
            with torch.no_grad():
                self._base = self.run(self.rows())
        return self._base

    @torch.no_grad()
    def values(self) -> Tensor:
        """The objective on the unchanged input, `[batch, step]`."""
        return self.objective(self.base()).detach()

    # -- gradients --------------------------------------------------------------------------------------------------

    def gradients(
        self,
        points: Callable[[float], Mapping[str, Tensor]] | None = None,
        alphas: Sequence[float] = (1.0,),
        weights: Sequence[float] = (1.0,),
        max_rows: int | None = None,
    ) -> Iterator[tuple[slice, dict[str, Tensor]]]:
        """Gradients of every step with respect to the input embeddings, summed over weighted path points.

        One graph per chunk of path points serves all steps: the gradient first goes from every step's value to the
        hidden state it is read from (one backward through the LM head for all steps), then one batched
        vector-Jacobian product per chunk of steps goes down to the embeddings.

        Args:
            points: Block -> embeddings `[batch, position, hidden]` for a path parameter; the input itself when None.
            alphas, weights: Path parameters and the weight of each gradient in the sum.
            max_rows: At most this many sequences per model call.

        Yields:
            Slices of steps with block -> `[batch, step, position, hidden]`.

        Complexity: `len(alphas)` forwards and `len(alphas) * steps` products. Forwards are repeated for groups of steps
        only where there are several graphs and the gradients of all steps do not fit into memory together.
        """
        per_point = self._bytes_per_row(grad=True) * self.batch.size
        limit = max(1, int(CHUNK_BYTES // per_point))
        if max_rows is not None:
            limit = min(limit, max(1, max_rows // self.batch.size))
        n_steps = self.batch.n_steps
        if len(alphas) <= limit:
            try:
                yield from self._chunk_gradients(points, alphas, weights)
                return
            except torch.OutOfMemoryError:  # raised by the forward pass, before anything was yielded
                limit = len(alphas) // 2
        # several graphs: the gradient of every step is summed up, in groups of steps that fit into memory
        width = sum(self.ids(b).shape[1] for b in self.blocks)
        group = max(1, min(n_steps, 4 * CHUNK_BYTES // (self.batch.size * width * self.model.hidden_size * 8)))
        for start in range(0, n_steps, group):
            total: dict[str, Tensor] = {}
            steps = slice(start, min(n_steps, start + group))
            limit = self._accumulate(total, steps, points, alphas, weights, max(1, limit))
            yield steps, total

    def _accumulate(
        self,
        total: dict[str, Tensor],
        group: slice,
        points: Callable[[float], Mapping[str, Tensor]] | None,
        alphas: Sequence[float],
        weights: Sequence[float],
        limit: int,
    ) -> int:
        """Add up the gradients of a group of steps over chunks of path points; returns the chunk size that fitted."""
        at = 0
        while at < len(alphas):
            end = at + limit
            try:
                chunk = self._chunk_gradients(points, alphas[at:end], weights[at:end], group.start, group.stop)
                for steps, grads in chunk:
                    place = slice(steps.start - group.start, steps.stop - group.start)
                    for block, g in grads.items():
                        shape = (g.shape[0], group.stop - group.start, *g.shape[2:])
                        total.setdefault(block, g.new_zeros(shape))[:, place] += g
            except torch.OutOfMemoryError:
                if limit == 1:
                    raise OutOfMemoryError("out of memory with a single point of the path") from None
                limit = max(1, limit // 2)
                continue
            at = end
        return limit

    def _chunk_gradients(
        self,
        points: Callable[[float], Mapping[str, Tensor]] | None,
        alphas: Sequence[float],
        weights: Sequence[float],
        start: int = 0,
        stop: int | None = None,
    ) -> Iterator[tuple[slice, dict[str, Tensor]]]:
        stop = self.batch.n_steps if stop is None else stop
        n, size = len(alphas), self.batch.size
        made = [points(a) if points is not None else {b: self.embeddings(b) for b in self.blocks} for a in alphas]
        dtype = self.model.dtype
        leaves = {b: torch.cat([m[b] for m in made]).to(dtype).detach().requires_grad_(True) for b in self.blocks}
        with torch.enable_grad():
            hidden, values = self._graph(leaves, n)
            weight = torch.tensor(list(weights), dtype=values.dtype, device=values.device).repeat_interleave(size)
            values = values * weight.unsqueeze(-1) * self.batch.step_mask.repeat(n, 1)
            for steps, grads in self._products(hidden, values, list(leaves.values()), start, stop):
                # [step, point * batch, ...] -> [batch, step, ...], summed over the points
                yield (
                    steps,
                    {
                        block: g.unflatten(1, (n, size)).sum(1, dtype=self.dtype).transpose(0, 1)
                        for block, g in zip(leaves, grads, strict=True)
                    },
                )

    def _graph(self, leaves: Mapping[str, Tensor], n: int) -> tuple[Tensor | None, Tensor]:
        """Hidden states that feed the LM head (None when it cannot be told apart by step), values `[row, step]`."""
        changes: dict[str, Any] = {f"{block}_embeds": leaf for block, leaf in leaves.items()}
        rows = self.rows(n, **changes)
        caught: list[Tensor] = []
        head = self.model.hf.get_output_embeddings() if self.objective.stepwise else None
        hook = head.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0])) if head is not None else None
        try:
            forward = self.run(rows)
        finally:
            if hook is not None:
                hook.remove()
        if n == 1 and self._base is None and self._unchanged(leaves):
            plain = dataclasses.replace(forward, logits=forward.logits.detach(), contrast=None)
            self._base = self._contrasted(plain, 1, forced=self.force_contrast)
        hidden = caught[0] if len(caught) == 1 and caught[0].requires_grad else None
        return hidden, self.objective(forward)

    def _unchanged(self, leaves: Mapping[str, Tensor]) -> bool:
        return all(torch.equal(leaf.detach(), self.embeddings(block)) for block, leaf in leaves.items())

    def _products(
        self, hidden: Tensor | None, values: Tensor, leaves: list[Tensor], start: int, stop: int
    ) -> Iterator[tuple[slice, list[Tensor]]]:
        """Vector-Jacobian products of steps `start:stop`, `[step, row, position, hidden]` per leaf."""
        if not values.requires_grad:
            # the objective does not depend on the input (a constant custom function): zero is the answer
            yield slice(start, stop), [leaf.new_zeros((stop - start, *leaf.shape)) for leaf in leaves]
            return
        if hidden is not None:
            # one backward through head and step function for all steps: a step only reads its own hidden state
            (cotangent,) = torch.autograd.grad(values.sum(), hidden, retain_graph=True)
            output, place = hidden, self._places(hidden, values.shape[0])
        else:
            cotangent, output, place = torch.ones_like(values), values, None
        size = max(1, int(CHUNK_BYTES // (self._bytes_per_row(grad=True) * values.shape[0])))
        at, batched = start, True
        while at < stop:
            end = min(stop, at + size)
            try:
                vectors = torch.stack([_one_step(cotangent, t, place) for t in range(at, end)])
                grads = _vjp(output, leaves, vectors, batched)
            except torch.OutOfMemoryError:
                if size == 1:
                    raise OutOfMemoryError("out of memory in the backward pass of a single step") from None
                size = max(1, size // 2)
                continue
            except RuntimeError:
                # an operation without a batching rule (custom kernels): the same products one by one
                if not batched:
                    raise
                batched = False
                continue
            self.counter.backward_rows += (end - at) * values.shape[0]
            yield slice(at, end), grads
            at = end

    def _places(self, hidden: Tensor, n_rows: int) -> Tensor:
        """Where each step is read in the head's input, `[row, step]`: the head may see a span of positions only."""
        query = self.batch.query.repeat(n_rows // self.batch.size, 1)
        low, high = int(self.batch.query.min()), int(self.batch.query.max())
        return (query - low if hidden.shape[1] == high - low + 1 else query).to(hidden.device)

    # -- rescore ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def rescore(self, n: int, changes: Callable[[int, int], Mapping[str, Tensor]]) -> Tensor:
        """The objective on `n` changed versions of the batch, `[version, batch, step]`.

        Args:
            n: Number of versions.
            changes: For versions `start:stop`, the fields of `Rows` that change, with rows ordered version by version
                (`[(stop - start) * batch, ...]`).

        Complexity: `n` forwards, packed into as few calls as memory allows. The encoder runs once when the source side
        does not change.
        """
        out: list[Tensor] = []
        size = self._max_rows or max(1, int(CHUNK_BYTES // (self._bytes_per_row(grad=False) * self.batch.size)))
        at = 0
        while at < n:
            end = min(n, at + size)
            try:
                changed = dict(changes(at, end))
                if self.model.is_encoder_decoder and not {"source_embeds", "source_ids", "source_mask"} & set(changed):
                    changed["encoder_states"] = self.encoder_states().repeat(end - at, 1, 1)
                forward = self.run(self.rows(end - at, **changed))
                out.append(self.objective(forward).unflatten(0, (end - at, self.batch.size)))
            except torch.OutOfMemoryError:
                if size == 1:
                    raise OutOfMemoryError("out of memory with a single changed version of the batch") from None
                size = self._max_rows = max(1, size // 2)
                continue
            at = end
        return torch.cat(out)

    def encoder_states(self) -> Tensor:
        """Encoder output of the unchanged source, run once."""
        if self._encoder is None:
            with torch.no_grad():
                self._encoder = self.model.encoder_states(self.rows())
        return self._encoder

    # -- attention --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def attention(self) -> dict[str, Tensor]:
        """Attention weights at the query positions, block -> `[batch, step, attended, layer, head]`; one forward."""
        hf = self.model.hf
        record = AttentionRecord(hf, self.model.is_encoder_decoder, self.batch.query, self.blocks)
        if interface_works(hf):
            with listen(hf, record):
                forward = self.run(self.rows())
        if not all(record.maps[b] for b in self.blocks):
            record, forward = self._attention_outputs()
        if self._base is None:
            self._base = forward
        return {b: record.stacked(b) for b in self.blocks}

    def _attention_outputs(self) -> tuple[AttentionRecord, Forward]:
        """The same for architectures outside the attention interface, through `output_attentions`."""
        hf = self.model.hf
        record = AttentionRecord(hf, self.model.is_encoder_decoder, self.batch.query, self.blocks)
        caught: list[Any] = []
        hook = hf.register_forward_hook(lambda _m, _a, output: caught.append(output))
        try:
            with implementation(hf, "eager"), attentions_returned(hf):
                forward = self.run(self.rows())
        finally:
            hook.remove()
        names = {"source": "cross_attentions", "target": "decoder_attentions"}
        if not self.model.is_encoder_decoder:
            names = {"target": "attentions"}
        for block in self.blocks:
            maps = getattr(caught[0], names[block], None)
            if not maps or maps[0] is None:
                raise UnsupportedModelError(f"{type(hf).__name__} does not give its attention weights")
            for weights in maps:
                record.add(block, weights)
        return record, forward

    # -- memory -----------------------------------------------------------------------------------------------------

    def _bytes_per_row(self, grad: bool) -> float:
        """Rough peak memory of one sequence in a call: activations (kept per layer for gradients) and logits."""
        config = self.model.hf.config.get_text_config()
        width = self.batch.target_ids.shape[1] + (
            0 if self.batch.source_ids is None else self.batch.source_ids.shape[1]
        )
        item = torch.finfo(self.model.dtype).bits / 8
        layers = int(getattr(config, "num_hidden_layers", 12)) if grad else 1
        heads = int(getattr(config, "num_attention_heads", 8))
        activations = width * self.model.hidden_size * 16 * layers + heads * width * width * 2
        vocabulary = self.batch.n_steps * self.model.vocab_size * 4
        return max(1.0, item * (activations + vocabulary))


def _one_step(cotangent: Tensor, step: int, place: Tensor | None) -> Tensor:
    """The cotangent with everything but one step's entry set to zero."""
    out = torch.zeros_like(cotangent)
    if place is None:
        out[:, step] = cotangent[:, step]
    else:
        row = torch.arange(cotangent.shape[0], device=cotangent.device)
        out[row, place[:, step]] = cotangent[row, place[:, step]]
    return out


def _vjp(output: Tensor, leaves: list[Tensor], vectors: Tensor, batched: bool) -> list[Tensor]:
    """Products `vectors[i] . d output / d leaf`, stacked over i; zeros for leaves the output does not depend on."""
    if batched and len(vectors) > 1:
        grads = torch.autograd.grad(
            output, leaves, vectors, retain_graph=True, allow_unused=True, is_grads_batched=True
        )
        return [
            g if g is not None else leaf.new_zeros((len(vectors), *leaf.shape))
            for g, leaf in zip(grads, leaves, strict=True)
        ]
    single = [torch.autograd.grad(output, leaves, v, retain_graph=True, allow_unused=True) for v in vectors]
    return [
        torch.stack([torch.zeros_like(leaf) if s[i] is None else s[i] for s in single]) for i, leaf in enumerate(leaves)
    ]
