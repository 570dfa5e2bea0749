"""A batch, a model and an objective: inputs, one counted model call, the pass over the unchanged input and its values.

One teacher-forced pass scores every target step, because in a causal decoder a token's output depends on nothing
after it:

    decoder input     p0  p1  p2  y0  y1        (prompt p, continuation y; y2 is never an input)
    output predicts   .   .   y0  y1  y2        step j is read at position start + j - 1
    step                      0   1   2
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from attriflow.engine.sizes import Sizes
from attriflow.engine.spans import Spans
from attriflow.errors import InputError, UnsupportedModelError
from attriflow.kernels.plain import shortcuts
from attriflow.kernels.stopping import check_stop
from attriflow.models.base import LanguageModel, Rows
from attriflow.models.batch import Batch, collate_contrast
from attriflow.models.findings import ALWAYS
from attriflow.types import Example, Forward, Passes

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
        logarithm: Whether it gives logarithms of probabilities, for methods that are made for probabilities.
    """

    function: Callable[[Forward], Tensor]
    stepwise: bool = True
    passes: bool = False
    logarithm: bool = False

    def __call__(self, forward: Forward) -> Tensor:
        """Value per step, `[batch, step]`."""
        values = self.function(forward)
        if not isinstance(values, Tensor):
            raise UnsupportedModelError(f"the attributed function returned a {type(values).__name__}, not a tensor")
        if values.shape != forward.target_ids.shape:
            raise UnsupportedModelError(
                f"the attributed function returned shape {tuple(values.shape)}, "
                f"expected [batch, step] = {tuple(forward.target_ids.shape)}"
            )
        return values


@dataclass
class Bound:
    """One batch of examples and one objective.

    Attributes:
        model: The wrapped model.
        examples: The examples of the batch.
        objective: What is explained.
        blocks: Input blocks that get credit: ("target",) for decoder-only models, ("source",) or ("source", "target").
        seed: For methods that draw random numbers.
        include_eos_baseline: Whether EOS tokens are replaced in baselines too.
        granular: Keep the embedding axis.
        force_contrast: Contrastive objectives compare with the contrastive input's own logits.
        spanned: Steps are the examples' spans, where they have some.
        counter: Passes so far.

    Where steps are spans, `batch` has a step per span, `read` one per token that the model is read at; else they are
    the same.
    """

    model: LanguageModel
    examples: Sequence[Example]
    objective: Objective
    blocks: tuple[str, ...]
    seed: int = 0
    include_eos_baseline: bool = False
    granular: bool = False
    force_contrast: bool = False
    spanned: bool = True
    counter: Counter = field(default_factory=Counter)

    def __post_init__(self) -> None:
        """Pad the examples once; a model that nothing can be said about is refused."""
        self.model.checked.require(*ALWAYS)
        self.read = self.model.collate(self.examples)
        self.spans = Spans.of(self.examples, self.read) if self.spanned else None
        self.batch = self.read if self.spans is None else self.spans.batch
        self._visible: dict[str, Tensor] = {}
        self.sizes = Sizes.of(self.model, self.read)
        self.absent_ids = set[int]()  # of tokens that stood for absent ones
        self.infilled: dict[tuple[str, str], Tensor] = {}  # ids that were drawn to do so, by how and block
        self._base: Forward | None = None
        self._token_values: Tensor | None = None
        self._values: Tensor | None = None
        self._pieces: dict[int, Tensor] = {}
        self._encoder: Tensor | None = None
        self._contrast = self._collate_contrast()
        self._contrast_logits: Tensor | None = None

    def passes(self, rows: Rows, steps: slice) -> Passes | None:
        """Further passes that a step function may ask of a call; the engine has them."""
        return None

    @property
    def dtype(self) -> torch.dtype:
        """Type of scores: double for a double model, single otherwise; half-precision sums would lose digits."""
        return torch.float64 if self.model.dtype == torch.float64 else torch.float32

    # -- inputs -----------------------------------------------------------------------------------------------------

    def ids(self, block: str) -> Tensor:
        """Token ids of a block, `[batch, position]`."""
        return self._ids(self.batch, block)

    def planned_ids(self, block: str) -> Tensor:
        """The same on the host."""
        return self._ids(self.batch.host, block)

    def _ids(self, batch: Batch, block: str) -> Tensor:
        ids = batch.source_ids if block == "source" else batch.target_ids
        if ids is None:
            raise UnsupportedModelError(f"{self.model.name} has no {block} side")
        return ids

    def present(self, block: str) -> Tensor:
        """Bool `[batch, position]`: real tokens, not padding."""
        return self.batch.present(block)

    def visible(self, block: str) -> Tensor:
        """Bool `[batch, step, position]`: which inputs a step can see."""
        if block not in self._visible:
            self._visible[block] = self.batch.visible(block)
        return self._visible[block]

    def steps_after(self, position: int) -> slice:
        """Steps that see something at or after a position, for some example of the batch."""
        moved = (self.batch.host.query >= position).any(0).nonzero()
        return slice(int(moved[0]) if len(moved) else self.batch.n_steps, self.batch.n_steps)

    def reads_after(self, position: int) -> slice:
        """The same of the tokens that are read."""
        moved = (self.read.host.query >= position).any(0).nonzero()
        return slice(int(moved[0]) if len(moved) else self.read.n_steps, self.read.n_steps)

    def embeddings(self, block: str) -> Tensor:
        """Input embeddings of a block, `[batch, position, hidden]`."""
        return self.model.embed(self.ids(block), block)

    # -- forward ----------------------------------------------------------------------------------------------------

    def rows(self, n: int = 1, **changes: Any) -> Rows:
        """Inputs of the whole batch, repeated `n` times (row = repetition * batch + example), with some replaced."""
        b = self.read
        fields: dict[str, Any] = {"target_ids": b.target_ids, "query": b.query}
        if b.source_ids is not None:
            fields |= {"source_ids": b.source_ids, "source_mask": b.source_mask}
        fields = {k: v if v is None else _repeated(v, n) for k, v in fields.items() if k not in changes}
        places = None if "query" in changes else b.host.query
        return Rows(**{**fields, "places": places, **changes})

    def watched(self) -> None:
        """To be called by whoever looks into a pass over the batch: it has to be one pass.

        Raises:
            UnsupportedModelError: Steps are run apart.
        """
        rope = self.model.rope
        if rope is not None and rope.reached(self.read.host.query):
            raise UnsupportedModelError(
                f"{self.model.name} has other rotary frequencies for texts beyond {rope.length} tokens, so that steps "
                "are run apart; what looks inside a pass (attention, layers, dropout) needs shorter texts"
            )

    def run(self, rows: Rows, steps: slice = slice(None)) -> Forward:
        """One counted model call on repetitions of the batch, read at all tokens or at a range of them."""
        return self.forward_of(self.logits(rows), steps, rows)

    def logits(self, rows: Rows) -> Tensor:
        """One counted model call, `[row, step, vocab]`."""
        check_stop()
        self.counter.forward_rows += rows.query.shape[0]
        self.counter.forward_calls += 1
        return self.model.run(rows)

    def forward_of(self, logits: Tensor, steps: slice = slice(None), rows: Rows | None = None) -> Forward:
        """What step functions see of `[version * batch, step, vocab]` logits, and the rows they came from."""
        repeat = logits.shape[0] // self.batch.size
        forward = Forward(
            logits=logits,
            target_ids=_repeated(self.read.step_ids[:, steps], repeat),
            mask=_repeated(self.read.step_mask[:, steps], repeat),
            model=self.model,
            passes=self.passes(self.rows(repeat) if rows is None else rows, steps),
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
            with torch.no_grad():
                self._contrast_logits = self.logits(Rows.of(c))
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

    @property
    def has_run(self) -> bool:
        """Whether the pass over the unchanged input is there already."""
        return self._base is not None

    def base(self) -> Forward:
        """The pass over the unchanged input, run once."""
        if self._base is None:
            with torch.no_grad():
                self._base = self.run(self.rows())
        return self._base

    def offer_base(self, forward: Forward, steps: slice = slice(0, None)) -> None:
        """Keep a pass that has run on the unchanged input, so that it need not be run again.

        A range of steps is kept until the others have come: later tokens do not change what earlier steps read.
        """
        if self._base is not None or not shortcuts():
            return
        self._pieces[steps.start] = forward.logits.detach()
        if sum(piece.shape[1] for piece in self._pieces.values()) == self.read.n_steps:
            logits = torch.cat([self._pieces[start] for start in sorted(self._pieces)], 1)
            self._base = self.forward_of(logits)
            self._pieces.clear()

    @torch.no_grad()
    def values(self) -> Tensor:
        """The objective on the unchanged input, `[batch, step]`; computed once."""
        if self._values is None:
            self._values = self.of_steps(self.token_values())
        return self._values

    @torch.no_grad()
    def token_values(self) -> Tensor:
        """The same for every token that is read, `[batch, token]`."""
        if self._token_values is None:
            self._token_values = self.objective(self.base()).detach()
        return self._token_values

    def of_steps(
        self, values: Tensor, reads: slice = slice(None), steps: slice | None = None, since: int = 0
    ) -> Tensor:
        """Values of steps, `[version * batch, step]`, of those of a range of tokens, `[version * batch, token]`."""
        if self.spans is None:
            return values
        return self.spans.pool(values.unflatten(0, (-1, self.batch.size)), reads, steps, since).flatten(0, 1)

    def encoder_states(self) -> Tensor:
        """Encoder output of the unchanged source, run once."""
        if self._encoder is None:
            with torch.no_grad():
                self._encoder = self.model.encoder_states(self.rows())
        return self._encoder

    @torch.no_grad()
    def activations(self, sites: Sites, changes: Mapping[str, Any] | None = None) -> dict[str, Tensor]:
        """What modules put out on the batch (with some of its inputs changed), block -> `[batch, position, width]`."""
        self.watched()
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


def _repeated(t: Tensor, n: int) -> Tensor:
    return t if n == 1 else t.repeat(n, *([1] * (t.ndim - 1)))


def site_output(output: Any, shape: Sequence[int]) -> Tensor:
    """The tensor a layer puts out (the first of several), checked to be `[row, position, width]`."""
    tensor = output[0] if isinstance(output, (tuple, list)) else output
    if not isinstance(tensor, Tensor) or tensor.ndim != 3 or tensor.shape[1] != shape[1]:
        found = list(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
        raise InputError(f"a target layer must put out [row, position, width]; this one puts out {found}")
    return tensor
