"""Results in Inseq's layout: plain fields that can be changed, over attributions of attriflow."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from attriflow.aggregation._sides import UNKNOWN, sides_of
from attriflow.inseq.data.aggregator import options_of, steps_of
from attriflow.inseq.data.files import read, write
from attriflow.inseq.data.steps import FeatureAttributionStepOutput as FeatureAttributionStepOutput
from attriflow.inseq.data.steps import GranularFeatureAttributionStepOutput as GranularFeatureAttributionStepOutput
from attriflow.inseq.data.steps import step_of
from attriflow.inseq.data.tokens import TokenWithId
from attriflow.inseq.data.viz import show_attributions, show_granular_attributions, show_token_attributions
from attriflow.io.files import load as load_own
from attriflow.io.inseqfiles import StoredSequence, attribution_of
from attriflow.kernels.equality import same
from attriflow.output import AttributionOutput
from attriflow.types import Attribution, Token

Raw = Callable[[Token], str]


@dataclass(eq=False, repr=False)
class FeatureAttributionSequenceOutput:
    """One attribution in Inseq's layout.

    Attributes:
        source, target: Raw tokens of the input (of decoder-only models the prompt) and of the decoder.
        source_attributions, target_attributions: `[attributed token, generated token, ...]`; None where there are none.
        step_scores, sequence_scores: Name -> values.
        attr_pos_start, attr_pos_end: Range of the explained tokens in `target`.
    """

    source: list[TokenWithId]
    target: list[TokenWithId]
    source_attributions: Tensor | None = None
    target_attributions: Tensor | None = None
    step_scores: dict[str, Tensor] = field(default_factory=dict)
    sequence_scores: dict[str, Tensor] = field(default_factory=dict)
    attr_pos_start: int = 0
    attr_pos_end: int | None = None
    _aggregator: Any = "scores"
    _attribution: Attribution | None = None
    _was: Any = None

    def __post_init__(self) -> None:
        """The end is that of the target unless it is said."""
        self._was = self._tokens()
        if self.attr_pos_end is None or self.attr_pos_end > len(self.target):
            self.attr_pos_end = len(self.target)

    @classmethod
    def of(
        cls,
        a: Attribution,
        raw: dict[Token, str] | None = None,
        before: Sequence[Token] = (),
        foils: Sequence[str] | None = None,
    ) -> FeatureAttributionSequenceOutput:
        """An attribution of attriflow.

        Args:
            a: The attribution.
            raw: Token -> its entry in the vocabulary; readable texts stand for others.
            before: Decoder tokens, for those before the explained ones that the attribution does not hold.
            foils: What each explained token was compared with: Inseq writes "foil → token".
        """
        names, sides = dict(raw or {}), sides_of(a)
        for token, foil in zip(a.targets, foils or (), strict=False):
            if token.start is not None and foil != names.get(token, token.text):
                names[token] = f"{foil} → {names.get(token, token.text)}"
        decoder = [before[i] if t is UNKNOWN and i < len(before) else t for i, t in enumerate(sides.decoder)]

        def named(token: Token) -> TokenWithId:
            shown = names.get(token, token.text)
            return TokenWithId(shown, -1 if "→" in shown else token.id)

        target = [named(t) for t in decoder]
        silent, kind = a.provenance.method == "dummy", "attentions" if a.provenance.method == "attention" else "scores"
        return cls(
            source=[named(t) for t in sides.source or decoder[: a.start]],
            target=target,
            source_attributions=None if silent else a.source_attributions,
            target_attributions=None if silent else a.target_attributions,
            step_scores=dict(a.step_scores),
            sequence_scores={f"{name}_{kind}": values for name, values in a.sequence_scores.items()},
            attr_pos_start=a.start,
            attr_pos_end=a.start + len(a.targets),
            _aggregator=_default(a),
            _attribution=a,
        )

    def to_attribution(self) -> Attribution:
        """As an attribution of attriflow, with whatever was changed here."""
        like = self._attribution
        stored = StoredSequence(
            source=[(t.token, t.id) for t in self.source],
            target=[(t.token, t.id) for t in self.target],
            **{f.name: getattr(self, f.name) for f in dataclasses.fields(StoredSequence) if f.name in _SAME},
            granular=like is None or like.axes[2:3] == ("embedding",),
        )
        made = attribution_of(stored, {} if like is None else _texts(like), 0)
        if like is None:
            return made
        changed = self._was != self._tokens()
        if not stored.scored and not changed:
            return like.replace(step_scores=self.step_scores)
        kept: dict[str, Any] = {name: getattr(like, name) for name in ("provenance", "segments", "turns")}
        if not changed:
            kept |= {"inputs": like.inputs, "targets": like.targets, "spans": like.spans}
        if not changed and same(made.scores, like.scores):
            kept["norms"] = like.norms
        return made.replace(**kept)

    def _tokens(self) -> Any:
        return [(t.token, t.id) for t in (*self.source, *self.target)], self.attr_pos_start

    def aggregate(self, aggregator: Any = None, aggregate_fn: Any = None, **options: Any) -> Any:
        """Aggregate as attriflow does.

        Args:
            aggregator: A name, a class, a list of them, pairs with functions, an `AggregatorPipeline`; None is Inseq's
                default of the method.
            aggregate_fn: The same: a function or its name, or one per aggregator.
            **options: `normalize`, `rescale`, `select_idx`, `paired_attr`, `source_spans`, `target_spans`,
                `aggregate_source`, `aggregate_target`, `vnorm_ord` and what else attriflow's aggregators take;
                `do_pre_aggregation_checks`, `do_post_aggregation_checks`, `special_chars` and `is_suffix_symbol` have
                no effect; others are ignored with a warning.
        """
        steps = steps_of(self._aggregator if aggregator is None else aggregator, aggregate_fn)
        if not steps:
            return copy.copy(self)
        given, other = options_of(steps, options), None
        if isinstance(given.get("paired_attr"), FeatureAttributionSequenceOutput):
            other = given["paired_attr"]
            given["paired_attr"] = other.to_attribution()
        if isinstance(given.get("split_pattern"), str):  # of raw tokens in Inseq, of the text here
            given["split_pattern"] = given["split_pattern"].replace("Ġ", " ").replace("▁", " ")
        own = self.to_attribution()
        out = self._with(own, own.aggregate(steps, **given))
        for side in ("source", "target") if other is not None else ():
            out._pair(side, getattr(self, side), getattr(other, side))
        return out

    def _pair(self, side: str, ours: list[TokenWithId], others: list[TokenWithId]) -> None:
        """Name tokens of a pair by the raw ones that they stand for, unless they were merged on the way."""
        tokens = getattr(self, side)
        if len(tokens) == len(ours) == len(others):
            for token, one, other in zip(tokens, ours, others, strict=True):
                token.token = one.token if one.token == other.token else f"{one.token} → {other.token}"
            self._was = self._tokens()

    def _with(self, own: Attribution, made: Attribution) -> FeatureAttributionSequenceOutput:
        """What was made of this sequence, with the tokens that stand here."""
        sides = sides_of(own)
        pairs = [*zip(sides.source, self.source, strict=False), *zip(sides.decoder, self.target, strict=False)]
        # special tokens have no place, so that those of a kind are the same: the first one names them
        names = {token: shown.token for token, shown in reversed(pairs)}
        return self.of(made, names, [Token(text=t.token, id=t.id) for t in self.target])

    def __getitem__(self, span: slice) -> FeatureAttributionSequenceOutput:
        """Inputs cut to a range of the source, or of a decoder-only model's prompt."""
        own = self.to_attribution()
        return self._with(own, own[span])

    def __sub__(self, other: FeatureAttributionSequenceOutput) -> FeatureAttributionSequenceOutput:
        """The other one's scores minus these, as Inseq has it."""
        return cast(FeatureAttributionSequenceOutput, self.aggregate("pair", paired_attr=other))

    def __eq__(self, other: object) -> bool:
        """Whether all public fields are equal."""
        return isinstance(other, FeatureAttributionSequenceOutput) and same(self.to_dict(), other.to_dict())

    def __hash__(self) -> int:
        """Of the tokens."""
        return hash((tuple(self.source), tuple(self.target)))

    def __repr__(self) -> str:
        """Fields; tensors by their shapes."""
        shown = {k: list(v.shape) if isinstance(v, Tensor) else v for k, v in self.to_dict().items()}
        return f"{type(self).__name__}({', '.join(f'{k}={v}' for k, v in shown.items())})"

    def weight_attributions(self, step_fn_id: str) -> FeatureAttributionSequenceOutput:
        """Multiply aggregated scores by a step score, in place."""
        own = self.to_attribution()
        weighted = self._with(own, own.weight_attributions(step_fn_id))
        self.source_attributions, self.target_attributions = weighted.source_attributions, weighted.target_attributions
        self._aggregator = []
        return self

    def get_scores_dicts(self, aggregator: Any = None, do_aggregation: bool = True, **options: Any) -> dict[str, Any]:
        """Scores by (position, token), as attriflow's `get_scores_dicts`, with the tokens that stand here."""
        a = self.aggregate(aggregator, **options) if do_aggregation else self
        sides = {"source_attributions": a.source, "target_attributions": a.target}
        found: dict[str, Any] = {name: {} for name in (*sides, "step_scores")}
        for step, place in enumerate(range(a.attr_pos_start, a.stop)):
            key = (place, a.target[place].token)
            for name, tokens in sides.items():
                scores = getattr(a, name)
                if scores is not None:
                    own = scores[:, step].tolist()
                    pairs = zip(tokens, own, strict=False)
                    found[name][key] = {(i, t.token): score for i, (t, score) in enumerate(pairs)}
            if a.step_scores:
                found["step_scores"][key] = {name: v[step].item() for name, v in a.step_scores.items()}
        return found

    def decode_tokens(self, tokenizer: Any) -> FeatureAttributionSequenceOutput:
        """Readable tokens in place of raw ones, in place."""
        for token in {id(t): t for t in (*self.source, *self.target)}.values():
            if token.id >= 0:
                token.token = tokenizer.decode([token.id])
        return self

    def show(self, aggregator: Any = None, do_aggregation: bool = True, **options: Any) -> str | None:
        """Show aggregated scores.

        Args:
            aggregator: See `aggregate`.
            do_aggregation: The same: False shows scores as they are.
            **options: `min_val`, `max_val`, `max_show_size`, `show_dim`, `slice_dims`, `display`, `return_html`;
                `return_figure` returns what notebooks show; others go to the aggregator.
        """
        return show_attributions(self, aggregator=aggregator, do_aggregation=do_aggregation, **options)

    def show_granular(self, **options: Any) -> str | None:
        """Show layers, heads or dimensions one by one."""
        return show_granular_attributions(self, **options)

    def show_tokens(self, aggregator: Any = None, do_aggregation: bool = True, **options: Any) -> str | None:
        """Show texts coloured for each generated token."""
        return show_token_attributions(self, aggregator=aggregator, do_aggregation=do_aggregation, **options)

    @property
    def granular(self) -> bool:
        """Whether the last axis is that of embeddings."""
        return self._attribution is not None and self._attribution.axes[2:3] == ("embedding",)

    @property
    def stop(self) -> int:
        """`attr_pos_end`."""
        return len(self.target) if self.attr_pos_end is None else self.attr_pos_end

    @property
    def minimum(self) -> float:
        """The smallest score, or 0."""
        return self.to_attribution().minimum

    @property
    def maximum(self) -> float:
        """The largest score, or 0."""
        return self.to_attribution().maximum

    def to_dict(self) -> dict[str, Any]:
        """The public fields."""
        names = [f.name for f in dataclasses.fields(self) if not f.name.startswith("_")]
        return {name: getattr(self, name) for name in names}

    def to(self, *place: Any) -> FeatureAttributionSequenceOutput:
        """Scores of another type or on another device, in place."""
        self.source_attributions, self.target_attributions = (
            None if t is None else t.to(*place) for t in (self.source_attributions, self.target_attributions)
        )
        for scores in (self.step_scores, self.sequence_scores):
            scores.update({name: values.to(*place) for name, values in scores.items()})
        return self

    def detach(self) -> FeatureAttributionSequenceOutput:
        """Nothing to do: scores hold no graph."""
        return self

    def clone(self) -> FeatureAttributionSequenceOutput:
        """A copy that shares nothing."""
        return copy.deepcopy(self)

    def numpy(self) -> FeatureAttributionSequenceOutput:
        """A copy with arrays in place of tensors."""
        made = copy.copy(self)
        for name in ("source_attributions", "target_attributions"):
            scores = getattr(self, name)
            setattr(made, name, None if scores is None else scores.numpy())
        for name in ("step_scores", "sequence_scores"):
            setattr(made, name, {key: values.numpy() for key, values in getattr(self, name).items()})
        return made


_SAME = (
    "source_attributions", "target_attributions", "step_scores", "sequence_scores", "attr_pos_start", "attr_pos_end",
)  # fmt: skip
GranularFeatureAttributionSequenceOutput = FeatureAttributionSequenceOutput
CoarseFeatureAttributionSequenceOutput = FeatureAttributionSequenceOutput
MultiDimensionalFeatureAttributionSequenceOutput = FeatureAttributionSequenceOutput
FeatureAttributionInput = str | Sequence[str]


def _default(a: Attribution) -> Any:
    """What Inseq aggregates by when it is not told."""
    if a.axes[2:] == ("embedding",):
        return "vnorm"
    return ["mean"] * (len(a.axes) - 2) or "scores"


def _texts(a: Attribution) -> dict[str, Any]:
    return {"input_texts": [a.input_text], "generated_texts": [a.target_text]}


@dataclass(eq=False)
class FeatureAttributionOutput:
    """Attributions of several texts in Inseq's layout, and how they were made (`info`)."""

    sequence_attributions: list[FeatureAttributionSequenceOutput]
    step_attributions: list[FeatureAttributionStepOutput] | None = None
    info: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, out: AttributionOutput, info: dict[str, Any] | None = None, tokenizer: Any = None
    ) -> FeatureAttributionOutput:
        """An output of attriflow; with a tokenizer, tokens are raw ("Ġhat", "▁hat")."""
        sequences = []
        for a in out:
            tokens = [t for t in {*a.inputs, *a.targets} if t.id >= 0 and tokenizer is not None]
            raw = tokenizer.convert_ids_to_tokens([t.id for t in tokens]) if tokens else []
            sequences.append(FeatureAttributionSequenceOutput.of(a, dict(zip(tokens, raw, strict=True))))
        return cls(sequences, info=dict(info or {}))

    def to_output(self) -> AttributionOutput:
        """As an output of attriflow."""
        return AttributionOutput(s.to_attribution() for s in self.sequence_attributions)

    def __len__(self) -> int:
        """How many texts."""
        return len(self.sequence_attributions)

    def __getitem__(self, index: Any) -> Any:
        """One of the sequence attributions."""
        return self.sequence_attributions[index]

    def __iter__(self) -> Iterator[FeatureAttributionSequenceOutput]:
        """The sequence attributions."""
        return iter(self.sequence_attributions)

    def __eq__(self, other: object) -> bool:
        """Whether sequences and `info` are equal."""
        if not isinstance(other, FeatureAttributionOutput):
            return NotImplemented
        return self.sequence_attributions == other.sequence_attributions and same(self.info, other.info)

    def __hash__(self) -> int:
        """Of the sequences."""
        return hash(tuple(self.sequence_attributions))

    def __add__(self, other: FeatureAttributionOutput) -> FeatureAttributionOutput:
        """Both as one."""
        return merge_attributions([self, other])

    def __radd__(self, other: Any) -> FeatureAttributionOutput:
        """So that `sum(outputs)` joins them."""
        return self if other == 0 else merge_attributions([other, self])

    def aggregate(self, aggregator: Any = None, **options: Any) -> FeatureAttributionOutput:
        """Each sequence aggregated."""
        return dataclasses.replace(self, sequence_attributions=[s.aggregate(aggregator, **options) for s in self])

    def weight_attributions(self, step_score_id: str) -> None:
        """Multiply aggregated scores by a step score, in place."""
        for sequence in self:
            sequence.weight_attributions(step_score_id)

    def get_scores_dicts(self, aggregator: Any = None, do_aggregation: bool = True, **options: Any) -> list[Any]:
        """Scores by (position, token), one dictionary per text."""
        return [s.get_scores_dicts(aggregator, do_aggregation, **options) for s in self]

    def decode_tokens(self, tokenizer: Any) -> FeatureAttributionOutput:
        """Readable tokens in place of raw ones, in place."""
        for sequence in self:
            sequence.decode_tokens(tokenizer)
        return self

    def show(self, aggregator: Any = None, do_aggregation: bool = True, **options: Any) -> str | None:
        """Show every sequence (see `FeatureAttributionSequenceOutput.show`)."""
        return show_attributions(self, aggregator=aggregator, do_aggregation=do_aggregation, **options)

    def show_granular(self, **options: Any) -> str | None:
        """Show layers, heads or dimensions one by one."""
        return show_granular_attributions(self, **options)

    def show_tokens(self, aggregator: Any = None, do_aggregation: bool = True, **options: Any) -> str | None:
        """Show texts coloured for each generated token."""
        return show_token_attributions(self, aggregator=aggregator, do_aggregation=do_aggregation, **options)

    def save(
        self,
        path: str | Path,
        overwrite: bool = False,
        compress: bool = False,
        ndarray_compact: bool = True,
        use_primitives: bool = False,
        split_sequences: bool = False,
        scores_precision: str = "float32",
    ) -> None:
        """Write JSON that Inseq and attriflow read.

        Args:
            path: The same.
            overwrite: The same: a file that exists is an error without it.
            compress: The same: gzip.
            ndarray_compact: No effect: step attributions are not written, as every column of scores is one.
            use_primitives: The same: without names of classes; attriflow reads this, too.
            split_sequences: The same: a file per text, "out_0.json", ...
            scores_precision: "float32", "float16" or "float8".
        """
        del ndarray_compact  # of step attributions, which are not written: every column of scores is one
        parts = [self]
        if split_sequences:
            texts = ("input_texts", "generated_texts")
            parts = []
            for i, s in enumerate(self):
                own = {name: [self.info[name][i]] for name in texts if name in self.info}
                parts.append(FeatureAttributionOutput([s], info={**self.info, **own}))
        for number, part in enumerate(parts):
            name = f"{str(path).split('.json')[0]}_{number}.json{'.gz' * compress}" if split_sequences else path
            write(part, Path(name), overwrite, compress, use_primitives, scores_precision)

    @staticmethod
    def load(path: str | Path, decompress: bool = False) -> FeatureAttributionOutput:
        """Read what Inseq, `save` or a command of attriflow wrote.

        Args:
            path: The same; files with step attributions are read, too, which Inseq itself cannot, and attriflow's own,
                with readable tokens.
            decompress: No effect: compressed files are known by their first bytes.
        """
        del decompress
        found = read(Path(path))
        if found is None:
            return FeatureAttributionOutput.of(AttributionOutput(load_own(path)))
        info, sequences, steps = found
        out = []
        for number, stored in enumerate(sequences):
            a = attribution_of(stored, info, number)
            made = FeatureAttributionSequenceOutput.of(a)
            made.source, made.target = ([TokenWithId(*t) for t in side] for side in (stored.source, stored.target))
            made.source_attributions, made.target_attributions = stored.source_attributions, stored.target_attributions
            made.sequence_scores = stored.sequence_scores
            made.attr_pos_end = made.attr_pos_start + stored.steps
            made._was = made._tokens()
            out.append(made)
        return FeatureAttributionOutput(out, None if steps is None else [step_of(s) for s in steps], info)


def merge_attributions(attributions: Sequence[FeatureAttributionOutput]) -> FeatureAttributionOutput:
    """Outputs made alike as one; `ValueError` names a fact of `info` in which they differ."""
    first = attributions[0]
    for name in _AGREE:
        if any(not same(a.info.get(name), first.info.get(name)) for a in attributions):
            raise ValueError(f"cannot merge outputs that differ in {name}")
    info = dict(first.info)
    for name in ("input_texts", "generated_texts"):
        if name in info:
            info[name] = [text for a in attributions for text in a.info[name]]
    steps = None if first.step_attributions is None else [s for a in attributions for s in a.step_attributions or ()]
    return FeatureAttributionOutput([s for a in attributions for s in a], steps, info)


_AGREE = (
    "attribute_target", "attribution_method", "constrained_decoding", "include_eos_baseline", "model_class",
    "model_name", "step_scores", "tokenizer_class", "tokenizer_name",
)  # fmt: skip
