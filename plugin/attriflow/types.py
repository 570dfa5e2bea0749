"""The types everything speaks: `Token`, `Example`, `Provenance`, `Attribution`, `Forward`.

Axes travel as data (`Attribution.axes`), step first: a row of `scores` is the explanation of one generated token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from attriflow.doors import ShownAttributions, opened
from attriflow.errors import InputError, changed_by
from attriflow.kernels.equality import same

_COSTS = ("batch_size", "seconds", "forward_rows", "forward_calls", "backward_rows")

Segment = Literal["source", "prompt", "generated"]
SpanValue = Literal["sum", "mean"]
Infill = Literal["infill", "infill_model", "masked_lm"]
Perturbation = Literal["delete", "mask", Infill, "baseline", "unk", "pad", "eos", "bos", "mask_token", "soft"] | int
"""What removing a token means, see `Rescore`."""


@changed_by("dataclasses.replace(token, {name}=...)")
@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token of a sequence.

    Attributes:
        text: Readable form (what the token looks like, not the raw vocabulary entry).
        id: Vocabulary id.
        start, end: Character span `[start, end)` in the text the token came from; None for tokens that stand for no
            characters (special tokens, generated ids without text).
        segment: "source" (encoder input), "prompt" (given part of a causal sequence) or "generated".
        special: Whether the tokenizer calls it a special token.
    """

    text: str
    id: int
    start: int | None = None
    end: int | None = None
    segment: Segment = "prompt"
    special: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """The foil of an example: what it is compared with, aligned to its steps.

    Attributes:
        source_ids: Encoder ids; empty for decoder-only models.
        target_ids: All decoder ids of the contrastive text.
        positions: For each step, the position in `target_ids` of the token it is compared with.
        step_ids: For each step, the id it is compared with, where that is not the token at its position.
    """

    source_ids: tuple[int, ...] = ()
    target_ids: tuple[int, ...]
    positions: tuple[int, ...]
    step_ids: tuple[int, ...] | None = None

    @property
    def ids(self) -> tuple[int, ...]:
        """For each step, the id it is compared with."""
        return tuple(self.target_ids[p] for p in self.positions) if self.step_ids is None else self.step_ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One encoded example: token ids, never re-tokenised afterwards.

    Attributes:
        source: Encoder tokens; empty for decoder-only models.
        target: All decoder tokens: prompt and continuation, or decoder start token and target.
        start, stop: Steps are the predictions of `target[start:stop]`; step j predicts `target[start + j]` from
            `target[: start + j]` (and the whole source).
        input_text, target_text: What the user gave (or what was generated).
        contrast: The foil for contrastive step functions, or None.
        segments: Character spans of `input_text` that the user wants explained as wholes (`unit="segment"`).
        turns: Character spans of the turns in `input_text`, if it is a rendered chat (`unit="turn"`).
        spans: Ranges `[first, stop)` of target positions that are explained as one step each, in order and apart from
            each other; None where every token is a step.
        span_value: What a span's value is of those of its tokens, "sum" or "mean".
    """

    source: tuple[Token, ...] = ()
    target: tuple[Token, ...]
    start: int
    stop: int
    input_text: str = ""
    target_text: str = ""
    contrast: Contrast | None = None
    segments: tuple[tuple[int, int], ...] = ()
    turns: tuple[tuple[int, int], ...] = ()
    spans: tuple[tuple[int, int], ...] | None = None
    span_value: SpanValue = "sum"

    @property
    def n_steps(self) -> int:
        """Number of steps: of explained tokens, or of spans."""
        return self.stop - self.start if self.spans is None else len(self.spans)

    @property
    def n_tokens(self) -> int:
        """Number of explained tokens, in spans or not."""
        return self.stop - self.start if self.spans is None else sum(stop - first for first, stop in self.spans)

    def positions(self, step: int) -> tuple[int, int]:
        """Decoder positions `[first, stop)` of a step's tokens."""
        return (self.start + step, self.start + step + 1) if self.spans is None else self.spans[step]

    @property
    def prompt_length(self) -> int:
        """Decoder tokens that were given: the prompt, or the decoder start token."""
        if self.source:
            return 1
        return next((i for i, t in enumerate(self.target) if t.segment == "generated"), len(self.target))

    @property
    def source_ids(self) -> list[int]:
        """Encoder token ids."""
        return [t.id for t in self.source]

    @property
    def target_ids(self) -> list[int]:
        """Decoder token ids."""
        return [t.id for t in self.target]

    def inputs(self, attribute_target: bool = False) -> tuple[Token, ...]:
        """What gets credit: source tokens, then (decoder-only, or when asked for) decoder tokens to the last step."""
        with_target = attribute_target or not self.source
        return (*self.source, *(self.target[: self.stop] if with_target else ()))


class Passes(Protocol):
    """The input of a `Forward` and further passes over it, read at the same steps.

    A row is an example of the batch, or a changed version of one.
    """

    def ids(self, block: str = "target") -> Tensor:
        """Token ids, `[row, position]`, padded on the right; of the target all but the last, which is never read."""

    def embeddings(self, block: str = "target") -> Tensor:
        """Input embeddings as the model read them, `[row, position, width]`."""

    def mask(self, block: str = "target") -> Tensor | None:
        """1 = token, `[row, position]`; None where nothing is hidden."""

    def positions(self) -> Tensor:
        """The decoder position that each step is read at, `[row, step]`: the last token of its prefix."""

    def hidden_states(self) -> Sequence[Tensor]:
        """States at the steps before the first decoder layer and after each, `[row, step, width]`; one more pass."""

    def again(self, **changes: Tensor) -> Forward:
        """One more pass with other ids, embeddings or masks (`target_ids`, `source_embeds`, ...) in their places."""

    def dropout(self, n: int) -> Sequence[Forward]:
        """`n` passes with dropout, seeded; a warning when the model has none."""
        ...

    def lens(self, layer: int | None = None) -> Sequence[Forward]:
        """What the LM head reads from the states after a decoder layer, or after all of them but the last."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """What a step function sees: one teacher-forced pass, read at the target positions.

    Attributes:
        logits: `[batch, step, vocab]`, the prediction of each target token from its own prefix.
        target_ids: `[batch, step]`, the token at each step (0 where `mask` is False).
        mask: `[batch, step]`, False on steps that only pad shorter examples.
        contrast: The same for contrastive inputs, or None. As the attributed function, its logits are those of the
            original input unless `contrast_force_inputs` is set; as step scores, those of the contrastive input.
        model: The wrapped model (its tokenizer, its sizes); None in tests with plain tensors.
        passes: Further passes over the same input, for functions that need them; None in tests with plain tensors.
    """

    logits: Tensor
    target_ids: Tensor
    mask: Tensor | None = None
    contrast: Forward | None = None
    model: Any = None
    passes: Passes | None = None

    def log_probs(self) -> Tensor:
        """Log-probabilities in nats, `[batch, step, vocab]`."""
        return self.logits.log_softmax(-1)

    def of_target(self, values: Tensor) -> Tensor:
        """Pick each step's target token from `[batch, step, vocab]` values: `[batch, step]`."""
        return values.gather(-1, self.target_ids.unsqueeze(-1)).squeeze(-1)


StepFunction = Callable[..., Tensor]
"""`(Forward) -> [batch, step]`."""


class Rescore(Protocol):
    """Scores the explained tokens again under changed inputs: all that a faithfulness metric needs of a model."""

    def __call__(
        self, keep: Tensor, steps: Sequence[int] | None = None, *, how: Perturbation = "delete", draw: int = 0
    ) -> Tensor:
        """Log-probabilities (nats, float64) of the target tokens with some inputs removed.

        Args:
            keep: Bool `[variant, input]` over the attribution's `inputs`; False removes the token. For "soft" floats in
                [0, 1], the chance of an element of the token's embedding to stay. Special tokens and inputs beyond a
                step's prefix are not the caller's business: the former always stay, the latter are cut.
            steps: One step per variant, or None for all steps of every variant.
            how: "delete" the token (later tokens move up); "mask" it out of attention (positions kept); replace it by
                the tokenizer's "unk", "pad", "eos", "bos" or "mask_token" or by the token with an id ("baseline" is
                "unk", and what stands in for it, as in methods); "infill" it: the mean probability over 4 draws from
                the tokens of all examples, for "infill_model" from what the model expects there after the tokens
                before it, for "masked_lm" from what a masked language model expects in its place (see
                `attriflow.use_masked_lm`); or "soft": zero each element of its embedding by chance.
            draw: Number of the draw of "soft"; the same one uses the same random numbers for all inputs and methods.

        Returns:
            `[variant]` when `steps` is given, else `[variant, step]` (NaN nowhere). Of a span: the sum of its tokens'
            log-probabilities, each read after its own changed prefix, or their mean where that is its value.
        """
        ...


class Reexplain(Protocol):
    """Explains an example again under changed circumstances: what a robustness or sanity metric needs of a method."""

    def __call__(self, **changes: Any) -> Attribution:
        """The explanation of the same steps and inputs by the same method.

        Args:
            **changes: One of
                `seed=k`: the method draws other random numbers, the k-th ones (0: those of the evaluation);
                `noise=s, draw=k`: Gaussian noise on the token embeddings, its standard deviation `s` times their root
                mean square;
                `randomise=share, draw=k`: parameters drawn anew in this share of the stages of the model, output first;
                `other_target=k`: the k-th random other token is explained at each step in place of the target.
        """
        ...


@changed_by("dataclasses.replace(provenance, {name}=...)")
@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """How an attribution came to be; enough to make it again.

    `seconds`, `forward_rows` (sequences sent through the model), `forward_calls` (batched invocations) and
    `backward_rows` (vector-Jacobian products of one sequence each) are this example's share of its batch.
    `foil` holds the token that each explained one was compared with, where there was a contrast, `foil_input` what
    preceded it in the contrastive input, where that was another text, and `foil_text` the whole contrastive target.
    `span_value` is "sum" or "mean" where steps are spans.
    `baseline_ids` and `baseline_tokens` are the tokens that stood for absent ones; in `options` the baseline has the
    name of the token that was used, also where "unk" had to be another one. `aggregations` are the aggregators applied
    since, in order, with the options that were given: `hops(hops=2, sign='signed')`.
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    attributed_fn: str = "probability"
    attributed_fn_args: Mapping[str, Any] = field(default_factory=dict)
    step_scores_args: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    model: str = ""
    revision: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    dtype: str = ""
    device: str = ""
    batch_size: int = 1
    forward_rows: float = 0.0
    forward_calls: float = 0.0
    backward_rows: float = 0.0
    seconds: float = 0.0
    generated: bool = False
    foil: tuple[str, ...] = ()
    foil_input: str = ""
    foil_text: str = ""
    attribute_target: bool = False
    include_eos_baseline: bool = False
    contrast_force_inputs: bool = False
    span_value: str = ""
    baseline_ids: tuple[int, ...] = ()
    baseline_tokens: tuple[str, ...] = ()
    aggregations: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Lists, as files give them, become tuples."""
        for name in ("foil", "baseline_ids", "baseline_tokens", "aggregations"):
            object.__setattr__(self, name, tuple(getattr(self, name)))


@changed_by("attribution.replace({name}=...)")
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Attribution(ShownAttributions):
    """The explanation of one generated sequence by one method.

    Two are equal when their tokens, scores (NaN equals NaN) and provenance are, but for costs and `aggregations`.

    Attributes:
        scores: `[step, input, ...]`; NaN where the input is not visible to the step, 0 where it has no effect.
        axes: Names of the axes of `scores`: ("step", "input") and then ("embedding",) or ("layer", "head").
        inputs: The tokens that get credit: source tokens, then (decoder-only, or with `attribute_target`) the decoder
            tokens up to the last explained one.
        targets: The explained tokens, one per step.
        start: Index of the first explained token in the decoder sequence.
        norms: L2 norm over the embedding axis, `[step, input]`, for methods whose raw scores have one and that were
            reduced to a signed sum; None otherwise.
        step_scores: Name -> `[step]`.
        sequence_scores: Attention-like scores between the tokens of one side, by name ("encoder_self", "decoder_self"):
            `[credited token, receiving token, layer(, head)]`; only where a method was asked for them.
        provenance: Method, options, seed, versions, cost.
        input_text, target_text: Texts the token spans refer to.
        segments, turns: Character spans of the caller's segments and of a chat's turns in `input_text` (see `Example`).
        spans: Where steps are spans of tokens: the decoder positions `[first, stop)` of each; None where every step is
            the token at `start` + its number.
    """

    scores: Tensor
    axes: tuple[str, ...] = ("step", "input")
    inputs: tuple[Token, ...]
    targets: tuple[Token, ...]
    start: int = 0
    norms: Tensor | None = None
    step_scores: Mapping[str, Tensor] = field(default_factory=dict)
    sequence_scores: Mapping[str, Tensor] = field(default_factory=dict)
    provenance: Provenance
    input_text: str = ""
    target_text: str = ""
    segments: tuple[tuple[int, int], ...] = ()
    turns: tuple[tuple[int, int], ...] = ()
    spans: tuple[tuple[int, int], ...] | None = None

    def __post_init__(self) -> None:
        """Check that the lengths of the axes agree with tokens, step scores and sequence scores."""
        if self.axes[:2] != ("step", "input"):
            raise InputError(f"axes must begin with ('step', 'input'), not {self.axes}")
        if self.scores.ndim != len(self.axes):
            raise InputError(f"scores have {self.scores.ndim} axes, expected {len(self.axes)}: {self.axes}")
        for axis, tokens in (("step", self.targets), ("input", self.inputs)):
            size = self.scores.shape[self.axes.index(axis)]
            if size != len(tokens):
                raise InputError(f"axis '{axis}' has {size} entries, expected {len(tokens)}")
        if self.spans is not None and len(self.spans) != len(self.targets):
            raise InputError(f"{len(self.targets)} steps with {len(self.spans)} spans")
        for name, values in self.step_scores.items():
            if tuple(values.shape) != (len(self.targets),):
                raise InputError(
                    f"step score '{name}' has shape {tuple(values.shape)}, expected ({len(self.targets)},)"
                )
        if self.norms is not None and self.norms.shape != self.scores.shape[:2]:
            raise InputError(f"norms have shape {tuple(self.norms.shape)}, expected {tuple(self.scores.shape[:2])}")
        for name, values in self.sequence_scores.items():
            shape = tuple(values.shape)
            if values.ndim != len(self.axes) or shape[0] != shape[1]:
                raise InputError(
                    f"sequence score '{name}' has shape {shape}, expected [token, token"
                    f"{''.join(f', {axis}' for axis in self.axes[2:])}]"
                )

    def __eq__(self, other: object) -> bool:
        """Whether everything but the cost is equal."""
        if not isinstance(other, Attribution):
            return NotImplemented
        return same(self, other, leave_out=(*_COSTS, "aggregations"))

    def __hash__(self) -> int:
        """Of the tokens and texts."""
        return hash((self.inputs, self.targets, self.input_text, self.target_text))

    @property
    def visible(self) -> Tensor:
        """Bool `[step, input]`: which inputs a step can see."""
        flat = self.scores.flatten(2) if self.scores.ndim > 2 else self.scores.unsqueeze(-1)
        return ~torch.isnan(flat).all(-1)

    @property
    def preceding(self) -> Tensor:
        """Bool `[step, input]`: which inputs stand before a step, as its tokens say; source tokens always do."""
        n_source = sum(t.segment == "source" for t in self.inputs)
        place = torch.arange(len(self.inputs)) - n_source
        last = [self.positions(step)[1] - 1 for step in range(len(self.targets))]
        return place < torch.tensor(last, dtype=torch.long).unsqueeze(1)

    def positions(self, step: int) -> tuple[int, int]:
        """Decoder positions `[first, stop)` of a step's tokens."""
        return (self.start + step, self.start + step + 1) if self.spans is None else self.spans[step]

    def token_scores(self) -> Tensor:
        """One number per step and input, `[step, input]`: extra axes reduced (embedding: sum; layer, head: mean)."""
        scores = self.scores
        for axis in reversed(self.axes[2:]):
            scores = scores.sum(-1) if axis == "embedding" else scores.mean(-1)
        return scores

    def units(self, unit: str) -> list[int]:
        """The number of each input's "word", "sentence", "segment" or "turn"; see `attriflow.texts.units`."""
        return list(opened("units")(self, self.inputs, unit))

    def _rows(self, source: bool) -> Tensor | None:
        index = [i for i, t in enumerate(self.inputs) if (t.segment == "source") == source]
        return self.scores[:, index].transpose(0, 1) if index else None

    @property
    def source_attributions(self) -> Tensor | None:
        """Inseq's view of the encoder side, `[attributed token, generated token, ...]`; None for decoder-only."""
        return self._rows(source=True)

    @property
    def target_attributions(self) -> Tensor | None:
        """Inseq's view of the decoder side, `[attributed token, generated token, ...]`; None when not attributed."""
        return self._rows(source=False)

    def replace(self, **changes: Any) -> Attribution:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    @property
    def minimum(self) -> float:
        """Smallest score, or 0 if none is below: the lower end of a colour scale."""
        return float(self.scores.nan_to_num().clamp(max=0).min()) if self.targets else 0.0

    @property
    def maximum(self) -> float:
        """Largest score, or 0 if none is above."""
        return float(self.scores.nan_to_num().clamp(min=0).max()) if self.targets else 0.0

    def aggregate(self, aggregator: Any = "scores", aggregate_fn: Any = None, **options: Any) -> Attribution:
        """Reduce axes, merge tokens, compare: see `AttributionOutput.aggregate`."""
        return opened("aggregate")(self, aggregator, aggregate_fn, options)

    def __getitem__(self, span: slice) -> Attribution:
        """Only source tokens (of decoder-only models: prompt) of a range as inputs; see the aggregator "slices"."""
        return opened("sliced")(self, span)

    def __sub__(self, other: Attribution) -> Attribution:
        """This one's scores minus the other's, token by token; see the aggregator "pair"."""
        if not isinstance(other, Attribution):
            return NotImplemented
        return other.aggregate("pair", paired_attr=self)

    def weight_attributions(self, step_fn: str) -> Attribution:
        """One score per token (as `aggregate()` gives it), times the value of a step score at each step."""
        return opened("weighted")(self, step_fn)

    def get_scores_dicts(
        self, aggregator: Any = "scores", do_aggregation: bool = True, **options: Any
    ) -> dict[str, dict[tuple[int, str], dict[Any, float]]]:
        """All scores by generated token; see `AttributionOutput.get_scores_dicts`."""
        reduced = self.aggregate(aggregator, **options) if do_aggregation else self
        return opened("scores_dict")(reduced)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricValues:
    """What a metric says about one attribution: a value per step, or the reason why there is none.

    Attributes:
        values: One Python float per step; None where the step was skipped. A single one when not `per_step`.
        skipped: Step -> reason, for every None in `values` ("empty rationale", "constant scores", ...).
        curves: Step -> (x, y) points of the curve behind its value, x ascending in [0, 1], for metrics that have one.
        per_step: False for one value of the whole explanation.
    """

    values: tuple[float | None, ...]
    skipped: Mapping[int, str] = field(default_factory=dict)
    curves: Mapping[int, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    per_step: bool = True

    def __post_init__(self) -> None:
        """Every step has a finite value or a reason."""
        for step, value in enumerate(self.values):
            if (value is None) != (step in self.skipped):
                raise InputError(f"step {step} needs a value or a reason, not both or neither")
            if value is not None and value != value:
                raise InputError(f"step {step} is NaN; skip it with a reason instead")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One changed input to score again: which inputs of an attribution stay, for one step or (None) for all.

    Attributes:
        keep: One bool per input of the attribution; for "soft" the chance of an element to stay.
        step: The step that is scored; None scores all.
        how, draw: See `Rescore`.
    """

    keep: tuple[float, ...]
    step: int | None = None
    how: Perturbation = "delete"
    draw: int = 0
