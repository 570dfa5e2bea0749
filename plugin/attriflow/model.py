"""The user's model object: `load_model(...).attribute(...)`."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from attriflow import __version__ as attriflow_version
from attriflow.engine import Counter, Engine, Objective
from attriflow.errors import InputError, OptionError, OutOfMemoryError, check_keywords, unknown
from attriflow.models.base import LanguageModel, Rows
from attriflow.models.contrast import Alignments, add_contrasts
from attriflow.models.loading import load
from attriflow.output import AttributionOutput
from attriflow.progress import track
from attriflow.registry import methods, step_functions
from attriflow.rescore import rescore
from attriflow.types import Attribution, Example, Forward, Provenance, StepFunction, Token, Variant

BATCH_TOKENS = 4096
BATCH_EXAMPLES = 32


def load_model(
    name_or_path_or_model_or_mlflow_uri: Any,
    method: str | None = None,
    tokenizer: Any = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    tokenizer_kwargs: Mapping[str, Any] | None = None,
    **method_options: Any,
) -> AttributionModel:
    """Load a causal language model or an encoder-decoder for attribution.

    Args:
        name_or_path_or_model_or_mlflow_uri: "demo/recall" or "demo/translate" (shipped with attriflow), a local folder,
            a Hugging Face name, an MLflow model URI ("models:/...", "runs:/...") or a loaded `PreTrainedModel`.
        method: Default attribution method (see `list_feature_attribution_methods`).
        tokenizer: Tokenizer or its name; needed for a model object whose name says nothing.
        device: "auto" (a GPU when there is one), "cpu", "cuda", ...
        dtype: A torch type or its name; None keeps the checkpoint's.
        model_kwargs, tokenizer_kwargs: Passed on to `from_pretrained`.
        **method_options: Default options of `method`.

    Raises:
        AttriflowError: A wrong method name, option, device, dtype or model, named in one message, before weights are
            loaded where that is possible.
    """
    if method is not None:
        methods.build(method, **method_options)
    elif method_options:
        message = unknown("option of load_model", next(iter(method_options)), _LOAD_OPTIONS)
        raise OptionError(f"{message} (options of a method need method=)")
    wrapped = load(name_or_path_or_model_or_mlflow_uri, tokenizer, device, dtype, model_kwargs, tokenizer_kwargs)
    return AttributionModel(wrapped, method, method_options)


_LOAD_OPTIONS = ("method", "tokenizer", "device", "dtype", "model_kwargs", "tokenizer_kwargs")


@dataclasses.dataclass(frozen=True)
class _Job:
    """Everything about a call that is the same for all its batches, checked before any model runs."""

    name: str
    method: Callable[[Engine], Any]
    options: Mapping[str, Any]
    objective: Objective
    fn_name: str
    fn_args: Mapping[str, Any]
    steps: Mapping[str, StepFunction]
    step_args: Mapping[str, Any]
    blocks: tuple[str, ...]
    seed: int
    eos_baseline: bool
    granular: bool
    force_contrast: bool


class AttributionModel:
    """A Hugging Face generation model that can be asked why it wrote what it wrote."""

    def __init__(
        self, wrapped: LanguageModel, method: str | None = None, method_options: Mapping[str, Any] | None = None
    ) -> None:
        """Use `load_model` instead."""
        self.wrapped, self.method, self.method_options = wrapped, method, dict(method_options or {})

    # -- facts ------------------------------------------------------------------------------------------------------

    @property
    def model(self) -> Any:
        """The Hugging Face model."""
        return self.wrapped.hf

    @property
    def tokenizer(self) -> Any:
        """The tokenizer."""
        return self.wrapped.tokenizer

    @property
    def name(self) -> str:
        """Name or path the model was loaded from."""
        return self.wrapped.name

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether there is a separate source."""
        return self.wrapped.is_encoder_decoder

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return self.wrapped.device

    @property
    def dtype(self) -> torch.dtype:
        """Floating point type of the weights."""
        return self.wrapped.dtype

    def __repr__(self) -> str:
        """Name, architecture, default method."""
        return f"AttributionModel({self.name!r}, {type(self.model).__name__}, method={self.method!r}, {self.device})"

    # -- texts to examples ------------------------------------------------------------------------------------------

    def encode(
        self,
        input_texts: str | Sequence[str],
        generated_texts: str | Sequence[str] | None = None,
        *,
        continuation: bool = False,
        generation_args: Mapping[str, Any] | None = None,
        batch_size: int | None = None,
        attr_pos_start: int | None = None,
        attr_pos_end: int | None = None,
        skip_special_tokens: bool = False,
        seed: int = 0,
    ) -> list[Example]:
        """Tokenise texts; generate targets when none are given.

        Args:
            input_texts: One text or several.
            generated_texts: Forced targets: full texts that begin with the input for decoder-only models, target texts
                for encoder-decoders. None: generate with `generation_args`.
            continuation: Decoder-only: a target that does not begin with its input is appended to it.
            generation_args: Arguments of `model.generate` (at most 20 new tokens unless told otherwise).
            batch_size: Texts per `generate` call.
            attr_pos_start, attr_pos_end: First and (exclusive) last decoder position to explain; the start never lies
                before the first generated token. Tokens from `attr_pos_end` on are not inputs of the attribution.
            skip_special_tokens: Tokenise without the tokenizer's special tokens.
            seed: For sampling (`do_sample=True`); torch's own generators are left as they were.
        """
        inputs = _texts("input_texts", input_texts)
        if generated_texts is not None:
            targets = _texts("generated_texts", generated_texts)
            if len(targets) != len(inputs):
                raise InputError(f"{len(inputs)} input texts but {len(targets)} generated texts")
            if generation_args:
                raise InputError("generation_args have no use with generated_texts: the target is given")
            examples = self.wrapped.encode(
                inputs, targets, continuation=continuation, skip_special_tokens=skip_special_tokens
            )
        else:
            checked = self.wrapped.encode(inputs, None, skip_special_tokens=skip_special_tokens)
            examples = []
            with self.wrapped.frozen(), torch.random.fork_rng():
                torch.manual_seed(seed)
                for index in self.plan_batches(checked, batch_size, sort=False):
                    texts = [inputs[i] for i in index]
                    examples += self.wrapped.generate(
                        texts, generation_args=generation_args or {}, skip_special_tokens=skip_special_tokens
                    )
        return [_positions(e, attr_pos_start, attr_pos_end) for e in examples]

    def generate(self, input_texts: str | Sequence[str], **generation_args: Any) -> list[str]:
        """Generated texts (for decoder-only models with their prompts)."""
        return [e.target_text for e in self.encode(input_texts, generation_args=generation_args)]

    def plan_batches(
        self, examples: Sequence[Example], batch_size: int | None = None, *, sort: bool = True
    ) -> list[list[int]]:
        """Indices of the examples of each batch, similar lengths together; 4,096 padded tokens unless told."""
        if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
            raise InputError(f"batch_size must be a positive integer or None, not {batch_size!r}")
        lengths = [len(e.source) + len(e.target) for e in examples]
        order = sorted(range(len(examples)), key=lambda i: -lengths[i]) if sort else list(range(len(examples)))
        batches: list[list[int]] = []
        width = 0
        for i in order:
            width = max(width, lengths[i])
            last = batches[-1] if batches else None
            limit = batch_size or min(BATCH_EXAMPLES, BATCH_TOKENS // max(1, width))
            if last is None or len(last) >= max(1, limit):
                batches.append([i])
                width = lengths[i]
            else:
                last.append(i)
        return batches

    # -- attribution ------------------------------------------------------------------------------------------------

    def attribute(
        self,
        input_texts: str | Sequence[str],
        generated_texts: str | Sequence[str] | None = None,
        *,
        method: str | None = None,
        attributed_fn: str | Callable[[Forward], Tensor] = "probability",
        step_scores: str | Sequence[str] = (),
        attribute_target: bool = False,
        attr_pos_start: int | None = None,
        attr_pos_end: int | None = None,
        generation_args: Mapping[str, Any] | None = None,
        batch_size: int | None = None,
        granular: bool = False,
        include_eos_baseline: bool = False,
        seed: int = 0,
        show_progress: bool = True,
        attributed_fn_args: Mapping[str, Any] | None = None,
        step_scores_args: Mapping[str, Any] | None = None,
        skip_special_tokens: bool = False,
        contrast_sources: str | Sequence[str] | None = None,
        contrast_targets: str | Sequence[str] | None = None,
        contrast_targets_alignments: Alignments | None = None,
        contrast_force_inputs: bool = False,
        **method_options: Any,
    ) -> AttributionOutput:
        """Explain every token of generated (or forced) texts.

        Args:
            input_texts: One text or several.
            generated_texts: Forced targets; None generates them (see `encode`).
            method: Attribution method; the one given to `load_model` when None.
            attributed_fn: What is explained at each step: the name of a step function, or a callable that takes a
                `Forward` and returns `[batch, step]`.
            step_scores: Step functions whose values are recorded for every step.
            attribute_target: Encoder-decoders: explain by the target prefix too, not by the source only.
            attr_pos_start, attr_pos_end: Range of decoder positions to explain.
            generation_args: Arguments of `model.generate`.
            batch_size: Examples per batch; by length when None.
            granular: Keep the embedding axis of gradient methods.
            include_eos_baseline: Replace EOS tokens in baselines too.
            seed: For methods that draw random numbers, and for sampling in generation.
            show_progress: Show a progress bar in terminals on anything over two seconds.
            attributed_fn_args: Options of `attributed_fn`.
            step_scores_args: Options of the step scores: `{option: value}` for all that take it, or
                `{step function: {option: value}}`.
            skip_special_tokens: Tokenise without the tokenizer's special tokens.
            contrast_sources: Contrastive source texts (encoder-decoders), for contrastive step functions.
            contrast_targets: Contrastive targets: whole texts for decoder-only models, target texts otherwise.
            contrast_targets_alignments: Pairs (target position, contrast position) per text, positions counted in the
                whole decoder sequence; without them the two targets are aligned one to one from the right.
            contrast_force_inputs: A contrastive `attributed_fn` compares with the contrastive input's own prediction
                instead of the foil's probability after the original input.
            **method_options: Options of the method (as in Inseq, of the step functions too); unknown ones are errors.

        Returns:
            One `Attribution` per text, in order.
        """
        name = method or self.method
        if name is None:
            raise InputError(
                f"no attribution method: pass method= to attribute or load_model ({', '.join(methods.names())})"
            )
        routed = self._route(name, attributed_fn, step_scores, attributed_fn_args, step_scores_args, method_options)
        job = self._job(
            name,
            attributed_fn=attributed_fn,
            step_scores=step_scores,
            attribute_target=attribute_target,
            include_eos_baseline=include_eos_baseline,
            granular=granular,
            seed=seed,
            force_contrast=contrast_force_inputs,
            **routed,
        )
        contrasted = contrast_targets is not None or contrast_sources is not None
        check_contrast((attributed_fn, *_names(step_scores)), contrasted)
        if contrast_targets_alignments is not None and contrast_targets is None:
            raise InputError("contrast_targets_alignments needs contrast_targets")
        examples = self.encode(
            input_texts,
            generated_texts,
            generation_args=generation_args,
            batch_size=batch_size,
            attr_pos_start=attr_pos_start,
            attr_pos_end=attr_pos_end,
            skip_special_tokens=skip_special_tokens,
            seed=seed,
        )
        if contrasted:
            examples = add_contrasts(
                self.wrapped,
                examples,
                None if contrast_sources is None else _texts("contrast_sources", contrast_sources),
                None if contrast_targets is None else _texts("contrast_targets", contrast_targets),
                contrast_targets_alignments,
                skip_special_tokens,
            )
        return AttributionOutput(self._attribute(examples, job, batch_size, show_progress, generated_texts is None))

    def attribute_examples(
        self,
        examples: Sequence[Example],
        method: str,
        *,
        attributed_fn: str | Callable[[Forward], Tensor] = "probability",
        attributed_fn_args: Mapping[str, Any] | None = None,
        step_scores: str | Sequence[str] = (),
        step_scores_args: Mapping[str, Any] | None = None,
        attribute_target: bool = False,
        include_eos_baseline: bool = False,
        granular: bool = False,
        batch_size: int | None = None,
        seed: int = 0,
        show_progress: bool = False,
        **method_options: Any,
    ) -> list[Attribution]:
        """Explain encoded examples (see `attribute`)."""
        job = self._job(
            method,
            attributed_fn=attributed_fn,
            attributed_fn_args=attributed_fn_args or {},
            step_scores=step_scores,
            step_scores_args=step_scores_args or {},
            attribute_target=attribute_target,
            include_eos_baseline=include_eos_baseline,
            granular=granular,
            seed=seed,
            method_options=method_options,
            force_contrast=False,
        )
        check_contrast((attributed_fn, *_names(step_scores)), all(e.contrast is not None for e in examples))
        return self._attribute(examples, job, batch_size, show_progress, False)

    def _route(
        self,
        name: str,
        attributed_fn: Any,
        step_scores: str | Sequence[str],
        attributed_fn_args: Mapping[str, Any] | None,
        step_scores_args: Mapping[str, Any] | None,
        given: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Sort keywords into options of the method, of the attributed function and of the step scores."""
        method_options = methods.info(name).options
        fn_options = step_functions.info(attributed_fn).options if isinstance(attributed_fn, str) else {}
        score_options = {o for s in _names(step_scores) for o in step_functions.info(s).options}
        allowed = {*method_options, *fn_options, *score_options}
        check_keywords(f"attribute with method '{name}'", given, [*sorted(allowed), *_ATTRIBUTE_OPTIONS])
        defaults = self.method_options if name == self.method else {}
        return {
            "method_options": {**defaults, **{k: v for k, v in given.items() if k in method_options}},
            "attributed_fn_args": {**{k: v for k, v in given.items() if k in fn_options}, **(attributed_fn_args or {})},
            "step_scores_args": {**{k: v for k, v in given.items() if k in score_options}, **(step_scores_args or {})},
        }

    def _job(
        self,
        name: str,
        *,
        attributed_fn: str | Callable[[Forward], Tensor],
        attributed_fn_args: Mapping[str, Any],
        step_scores: str | Sequence[str],
        step_scores_args: Mapping[str, Any],
        attribute_target: bool,
        include_eos_baseline: bool,
        granular: bool,
        seed: int,
        method_options: Mapping[str, Any],
        force_contrast: bool,
    ) -> _Job:
        info = methods.info(name)
        if not isinstance(seed, int):
            raise InputError(f"seed must be an integer, not {seed!r}")
        blocks = ("source", "target") if attribute_target else ("source",)
        objective, fn_name = _objective(attributed_fn, attributed_fn_args)
        return _Job(
            name=info.name,
            method=info.build(**method_options),
            options={**info.options, **method_options},
            objective=objective,
            fn_name=fn_name,
            fn_args=attributed_fn_args,
            steps=bind_step_functions(step_scores, step_scores_args),
            step_args=step_scores_args,
            blocks=blocks if self.is_encoder_decoder else ("target",),
            seed=seed,
            eos_baseline=include_eos_baseline,
            granular=granular,
            force_contrast=force_contrast,
        )

    def _attribute(
        self, examples: Sequence[Example], job: _Job, batch_size: int | None, show: bool, generated: bool
    ) -> list[Attribution]:
        found: dict[int, Attribution] = {}
        with self.wrapped.frozen():
            for index in track(self.plan_batches(examples, batch_size), job.name, show):
                batch = [examples[i] for i in index]
                for i, attribution in zip(index, self._safe_batch(batch, job, generated), strict=True):
                    found[i] = attribution
        return [found[i] for i in range(len(examples))]

    def _safe_batch(self, batch: list[Example], job: _Job, generated: bool) -> list[Attribution]:
        """A batch; on out-of-memory, its halves."""
        try:
            return self._batch(batch, job, generated)
        except (torch.OutOfMemoryError, OutOfMemoryError):
            if len(batch) == 1:
                raise OutOfMemoryError(
                    f"'{job.name}' runs out of memory on {self.device} with a single example"
                ) from None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        half = len(batch) // 2
        return self._safe_batch(batch[:half], job, generated) + self._safe_batch(batch[half:], job, generated)

    def _batch(self, batch: list[Example], job: _Job, generated: bool) -> list[Attribution]:
        counter, begin = Counter(), time.perf_counter()
        engine = Engine(
            self.wrapped,
            batch,
            job.objective,
            job.blocks,
            seed=job.seed,
            include_eos_baseline=job.eos_baseline,
            granular=job.granular,
            force_contrast=job.force_contrast,
            counter=counter,
        )
        scores = job.method(engine)
        with torch.no_grad():
            values = {name: fn(engine.scored()) for name, fn in job.steps.items()}
        values.update(scores.step_scores)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        provenance = Provenance(
            method=job.name,
            options=job.options,
            attributed_fn=job.fn_name,
            attributed_fn_args=job.fn_args,
            step_scores_args=job.step_args,
            seed=job.seed,
            model=self.name,
            revision=self.wrapped.revision,
            versions=versions(),
            dtype=str(self.dtype).removeprefix("torch."),
            device=str(self.device),
            batch_size=len(batch),
            forward_rows=counter.forward_rows / len(batch),
            forward_calls=counter.forward_calls / len(batch),
            backward_rows=counter.backward_rows / len(batch),
            seconds=(time.perf_counter() - begin) / len(batch),
            generated=generated,
        )
        return [_unbatch(engine, i, scores, values, provenance) for i in range(len(batch))]

    # -- what evaluation needs --------------------------------------------------------------------------------------

    @torch.no_grad()
    def score_steps(
        self,
        examples: Sequence[Example],
        step_functions: Mapping[str, Mapping[str, Any]],
        batch_size: int | None = None,
        seed: int = 0,
    ) -> list[dict[str, Tensor]]:
        """Values of step functions, per example name -> `[step]`, from one forward per batch."""
        functions = bind_step_functions(list(step_functions), step_functions)
        found: dict[int, dict[str, Tensor]] = {}
        objective = Objective(lambda forward: forward.of_target(forward.logits))
        with self.wrapped.frozen():
            for index in self.plan_batches(examples, batch_size):
                batch = [examples[i] for i in index]
                engine = Engine(self.wrapped, batch, objective, ("target",), seed)
                values = {name: fn(engine.scored()).cpu() for name, fn in functions.items()}
                for row, i in enumerate(index):
                    found[i] = {name: v[row, : examples[i].n_steps] for name, v in values.items()}
        return [found[i] for i in range(len(examples))]

    @torch.no_grad()
    def teacher_forced(self, examples: Sequence[Example], batch_size: int | None = None) -> None:
        """One plain forward of the same batches: the unit in which costs are stated."""
        with self.wrapped.frozen():
            for index in self.plan_batches(examples, batch_size):
                b = self.wrapped.collate([examples[i] for i in index])
                rows = Rows(target_ids=b.target_ids, source_ids=b.source_ids, source_mask=b.source_mask, query=b.query)
                self.wrapped.run(rows)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def rescore(
        self,
        examples: Sequence[Example],
        variants: Sequence[tuple[int, Variant]],
        *,
        attribute_target: bool = False,
        batch_size: int | None = None,
        counter: Counter | None = None,
    ) -> list[Tensor]:
        """Log-probabilities of the target tokens under changed inputs (see `attriflow.rescore.rescore`)."""
        with self.wrapped.frozen():
            return rescore(
                self.wrapped,
                examples,
                variants,
                attribute_target=attribute_target,
                batch_size=batch_size,
                counter=counter,
            )


_ATTRIBUTE_OPTIONS = (
    "method",
    "attributed_fn",
    "step_scores",
    "attribute_target",
    "attr_pos_start",
    "attr_pos_end",
    "generation_args",
    "batch_size",
    "granular",
    "include_eos_baseline",
    "seed",
    "show_progress",
    "attributed_fn_args",
    "step_scores_args",
    "skip_special_tokens",
    "contrast_sources",
    "contrast_targets",
    "contrast_targets_alignments",
    "contrast_force_inputs",
)


def _texts(name: str, texts: str | Sequence[str]) -> list[str]:
    given = [texts] if isinstance(texts, str) else list(texts)
    for text in given:
        if not isinstance(text, str):
            raise InputError(
                f"{name} must be a string or a list of strings; found {type(text).__name__}: {text!r}"[:200]
            )
    if not given:
        raise InputError(f"{name} is empty")
    return given


def _names(step_scores: str | Sequence[str]) -> list[str]:
    return [step_scores] if isinstance(step_scores, str) else list(step_scores)


def _positions(example: Example, start: int | None, end: int | None) -> Example:
    """Restrict the steps; the start is moved up to the first generated token, the end is exclusive.

    Negative positions count from the end, as in Python; only the start of decoder-only models does not, where Inseq
    (and so this) takes anything before the generated tokens, negative numbers too, for "from their beginning".
    """
    if start is None and end is None:
        return example
    length = len(example.target)
    if start is not None and start < 0 and example.source:
        start += length
    if end is not None and end < 0:
        end += length
    low = max(example.start, example.start if start is None else start)
    high = example.stop if end is None else min(end, example.stop)
    if high <= low:
        raise InputError(
            f"no step left to explain: attr_pos_start={start}, attr_pos_end={end}, but the generated tokens are at "
            f"positions {example.start} to {example.stop - 1}"
        )
    return dataclasses.replace(example, start=low, stop=high)


def _objective(fn: str | Callable[[Forward], Tensor], args: Mapping[str, Any]) -> tuple[Objective, str]:
    if callable(fn):
        bound = (lambda forward: fn(forward, **args)) if args else fn
        return Objective(bound, stepwise=False), getattr(fn, "__name__", type(fn).__name__)
    info = step_functions.info(fn)
    return Objective(info.build(**args), stepwise=bool(info.meta.get("stepwise", True))), info.name


def check_contrast(functions: Sequence[Any], contrasted: bool) -> None:
    """Raise `InputError` when a contrastive step function is used without contrastive inputs."""
    for name in functions:
        if isinstance(name, str) and step_functions.info(name).meta.get("contrast") and not contrasted:
            raise InputError(f"step function '{name}' compares with a foil: pass contrast_targets or contrast_sources")


def bind_step_functions(names: str | Sequence[str], args: Mapping[str, Any]) -> dict[str, StepFunction]:
    """Name -> step function with its options bound.

    Args:
        names: Registered names (an alias keeps its own name in the result).
        args: `{option: value}` for every function that takes it, or `{name: {option: value}}`.
    """
    names = _names(names)
    infos = {name: step_functions.info(name) for name in names}
    known = {o for info in infos.values() for o in info.options}
    check_keywords("step_scores_args", args, [*known, *infos])
    bound: dict[str, StepFunction] = {}
    for name, info in infos.items():
        own = {k: v for k, v in args.items() if k in info.options and k not in infos}
        nested = args.get(name, {}) if name in args else {}
        bound[name] = info.build(**{**own, **nested})
    return bound


def versions() -> dict[str, str]:
    """Versions of what computes the numbers."""
    import transformers

    return {"attriflow": attriflow_version, "torch": str(torch.__version__), "transformers": transformers.__version__}


def _unbatch(
    engine: Engine, row: int, scores: Any, values: Mapping[str, Tensor], provenance: Provenance
) -> Attribution:
    """One example's attribution, without padding and with NaN where a step cannot see an input."""
    example: Example = engine.examples[row]
    n_steps = example.n_steps
    parts, norms, tokens = [], [], list[Token]()
    for block in engine.blocks:
        shown = example.source if block == "source" else example.target[: example.stop]
        tokens += shown
        seen = engine.visible(block)[row, :n_steps]
        parts.append(_masked(scores.blocks[block][row, :n_steps], seen, len(shown)))
        if scores.norms is not None:
            norms.append(_masked(scores.norms[block][row, :n_steps], seen, len(shown)))
    return Attribution(
        scores=torch.cat(parts, 1),
        axes=("step", "input", *scores.axes),
        inputs=tuple(tokens),
        targets=example.target[example.start : example.stop],
        start=example.start,
        norms=torch.cat(norms, 1) if norms else None,
        step_scores={name: v[row, :n_steps].detach().cpu() for name, v in values.items()},
        provenance=provenance,
        input_text=example.input_text,
        target_text=example.target_text,
    )


def _masked(scores: Tensor, seen: Tensor, width: int) -> Tensor:
    """Scores on the CPU, `[step, width, ...]`, NaN where not seen (and beyond what the model read)."""
    n = min(width, scores.shape[1])
    out = scores.new_full((scores.shape[0], width, *scores.shape[2:]), torch.nan, device="cpu")
    seen = seen[:, :n].cpu().view(seen.shape[0], n, *([1] * (scores.ndim - 2)))
    out[:, :n] = torch.where(seen, scores[:, :n].detach().cpu(), torch.nan)
    return out
