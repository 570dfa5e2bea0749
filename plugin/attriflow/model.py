"""The user's model object: `load_model(...).attribute(...)`."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from attriflow.doors import opened
from attriflow.engine import Counter, Engine, Objective
from attriflow.engine.finite import reasons
from attriflow.engine.job import (
    Job,
    bind_step_functions,
    check_contrast,
    explain_batch,
    is_difference,
    make_job,
    names_of,
    route,
    step_values,
)
from attriflow.engine.memory import Halving, check_room
from attriflow.engine.spans import of_steps
from attriflow.engine.variants import count_rows, score_variants
from attriflow.errors import InputError, NotFiniteError, OptionError, unknown
from attriflow.kernels.annotations import keywords_of
from attriflow.kernels.devices import synchronize
from attriflow.kernels.transfer import home
from attriflow.models.base import LanguageModel, Rows
from attriflow.models.contrast import Alignments, add_contrasts, check_foils
from attriflow.models.encoding import encode
from attriflow.models.loading import load
from attriflow.models.locks import alone
from attriflow.output import AttributionOutput, explained, named
from attriflow.progress import track
from attriflow.registry import methods
from attriflow.texts.segments import Inputs, Segments, read_inputs
from attriflow.texts.target_spans import TargetSpans
from attriflow.types import Attribution, Example, Forward, SpanValue, StepFunction, Variant

TARGET_LOGIT = Objective(lambda forward: forward.of_target(forward.logits))
"""What an engine is bound to where nothing is explained."""


def load_model(
    name_or_path_or_model_or_mlflow_uri: Any,
    method: str | None = None,
    tokenizer: Any = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    tokenizer_kwargs: Mapping[str, Any] | None = None,
    device_map: str | Mapping[str, Any] | None = None,
    max_memory: Mapping[int | str, int | str] | None = None,
    **method_options: Any,
) -> AttributionModel:
    """Load a causal language model or an encoder-decoder for attribution.

    Args:
        name_or_path_or_model_or_mlflow_uri: "demo/recall" or "demo/translate" (shipped with attriflow), a local folder,
            a Hugging Face name, an MLflow model URI ("models:/...", "runs:/...") or a loaded `PreTrainedModel`.
        method: Default attribution method (see `list_feature_attribution_methods`).
        tokenizer: Tokenizer or its name; needed for a model object whose name says nothing.
        device: "auto" (an accelerator when there is one), "cpu", "cuda", ...: any that torch can make a tensor on.
        dtype: A torch type or its name; None keeps the checkpoint's.
        model_kwargs, tokenizer_kwargs: Passed on to `from_pretrained`.
        device_map: How accelerate lays the model over several devices: "auto", ..., or module -> device.
        max_memory: Device -> how much of it that may take.
        **method_options: Default options of `method`.

    Raises:
        AttriflowError: A wrong method name, option, device, dtype or model, named in one message, before weights are
            loaded where that is possible.
    """
    if method is not None:
        methods.build(method, **method_options)
    elif method_options:
        message = unknown("option of load_model", next(iter(method_options)), keywords_of(load_model)[1:])
        raise OptionError(f"{message} (options of a method need method=)")
    wrapped = load(
        name_or_path_or_model_or_mlflow_uri,
        tokenizer,
        device,
        dtype,
        model_kwargs,
        tokenizer_kwargs,
        device_map,
        max_memory,
    )
    return AttributionModel(wrapped, method, method_options)


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
    def lock(self) -> threading.RLock:
        """Held by whoever runs or changes the model: threads that share one take turns."""
        return self.wrapped.lock

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

    def report(self) -> Any:
        """What attriflow makes of this model: facts, the model check, and every method tried on one short text.

        Returns:
            A `ModelReport` (`attriflow.measuring.inspection`): `show()` prints it, `to_dict()` is its JSON.
        """
        return opened("report")(self)

    # -- texts to examples ------------------------------------------------------------------------------------------

    @alone
    def encode(
        self,
        input_texts: Inputs,
        generated_texts: str | Sequence[str] | None = None,
        *,
        continuation: bool = False,
        generation_args: Mapping[str, Any] | None = None,
        batch_size: int | None = None,
        attr_pos_start: int | None = None,
        attr_pos_end: int | None = None,
        skip_special_tokens: bool = False,
        seed: int = 0,
        segments: Segments | None = None,
    ) -> list[Example]:
        """Tokenise texts; generate targets when none are given.

        Args:
            input_texts: One text or several; or a chat (a list of messages with role and content) or several, which
                the tokenizer's chat template turns into texts.
            generated_texts: Forced targets: full texts that begin with the input for decoder-only models (for a chat,
                the reply will do), target texts for encoder-decoders. None: generate with `generation_args`.
            continuation: Decoder-only: a target that does not begin with its input is appended to it.
            generation_args: Arguments of `model.generate` (at most 20 new tokens unless told otherwise).
            batch_size: Texts per `generate` call.
            attr_pos_start, attr_pos_end: First and (exclusive) last decoder position to explain; the start never lies
                before the first generated token. Tokens from `attr_pos_end` on are not inputs of the attribution.
            skip_special_tokens: Tokenise without the tokenizer's special tokens.
            seed: For sampling (`do_sample=True`); torch's own generators are left as they were.
            segments: Parts of the input for `unit="segment"`: substrings in their order, or (start, end) pairs of
                characters; one list for one text, else a list per text.
        """
        return encode(
            self.wrapped,
            read_inputs(self.tokenizer, input_texts),
            generated_texts,
            segments,
            continuation=continuation,
            generation_args=generation_args,
            plan=functools.partial(self.plan_batches, batch_size=batch_size, sort=False),
            positions=(attr_pos_start, attr_pos_end),
            skip_special_tokens=skip_special_tokens,
            seed=seed,
        )

    def generate(self, input_texts: Inputs, **generation_args: Any) -> list[str]:
        """Generated texts (for decoder-only models with their prompts)."""
        return [e.target_text for e in self.encode(input_texts, generation_args=generation_args)]

    def plan_batches(
        self, examples: Sequence[Example], batch_size: int | None = None, *, sort: bool = True
    ) -> list[list[int]]:
        """Indices of the examples of each batch, similar lengths together; 4,096 padded tokens unless told."""
        return self.wrapped.batches(examples, batch_size, sort=sort)

    def _batches(self, examples: Sequence[Example], batch_size: int | None) -> list[list[int]]:
        """`plan_batches` with foils together: a batch has them for all of its examples or for none."""
        out = []
        for contrasted in (False, True):
            part = [i for i, e in enumerate(examples) if (e.contrast is not None) == contrasted]
            out += [[part[i] for i in b] for b in self.plan_batches([examples[i] for i in part], batch_size)]
        return out

    # -- attribution ------------------------------------------------------------------------------------------------

    @alone
    def attribute(
        self,
        input_texts: Inputs,
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
        segments: Segments | None = None,
        target_spans: TargetSpans | None = None,
        span_value: SpanValue = "sum",
        **method_options: Any,
    ) -> AttributionOutput:
        """Explain every token of generated (or forced) texts, or spans of them.

        Args:
            input_texts: One text or several; or one chat (a list of messages) or several (see `encode`).
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
            contrast_sources: Contrastive source texts, for contrastive step functions; for decoder-only models other
                prompts, after which the same continuation is read.
            contrast_targets: Contrastive targets: whole texts for decoder-only models, target texts otherwise.
            contrast_targets_alignments: Pairs (target position, contrast position) per text, positions counted in the
                whole decoder sequence; without them the two targets are aligned one to one from the right. "auto" (for
                all texts, or in place of one text's pairs) aligns equal and similar tokens (see `models.alignment`).
            contrast_force_inputs: A contrastive `attributed_fn` compares with the contrastive input's own prediction
                instead of the foil's probability after the original input; always so for functions that compare two
                inputs (`kl_divergence`, `pcxmi`, `in_context_pvi`).
            segments: Parts of the input for `unit="segment"` of perturbation methods (see `encode`).
            target_spans: Explain spans, each as one step (of "probability" the logarithm): "all", "sentence", "turn",
                "answer", ranges or a pattern (see `texts.target_spans.find_spans`), or one of these per text.
            span_value: A span's value is the "sum" of those of its tokens, or their "mean".
            **method_options: Options of the method (as in Inseq, of the step functions too); unknown ones are errors.

        Returns:
            One `Attribution` per text, in order. A text that leaves nothing to explain (it generated nothing, its
            forced text adds no token, it ends before `attr_pos_start`) has one without steps, and a warning names its
            index; where no text has anything to explain, that is an `InputError`.
        """
        name = method or self.method
        if name is None:
            raise InputError(
                f"no attribution method: pass method= to attribute or load_model ({', '.join(methods.names())})"
            )
        routed = route(
            name,
            attributed_fn,
            step_scores,
            (attributed_fn_args, step_scores_args),
            method_options,
            keywords=keywords_of(self.attribute)[2:],
            defaults=self.method_options if name == self.method else {},
        )
        job = make_job(
            name,
            encoder_decoder=self.is_encoder_decoder,
            attributed_fn=attributed_fn,
            step_scores=step_scores,
            attribute_target=attribute_target,
            include_eos_baseline=include_eos_baseline,
            granular=granular,
            seed=seed,
            force_contrast=contrast_force_inputs,
            span_value=None if target_spans is None else span_value,
            **routed,
        )
        contrasted = contrast_targets is not None or contrast_sources is not None
        check_contrast((attributed_fn, *names_of(step_scores)), contrasted)
        if contrast_targets_alignments is not None and contrast_targets is None:
            raise InputError("contrast_targets_alignments needs contrast_targets")
        inputs = read_inputs(self.tokenizer, input_texts)
        examples = encode(
            self.wrapped,
            inputs,
            generated_texts,
            segments,
            generation_args=generation_args,
            plan=functools.partial(self.plan_batches, batch_size=batch_size, sort=False),
            positions=(attr_pos_start, attr_pos_end),
            skip_special_tokens=skip_special_tokens,
            seed=seed,
            leave_out=True,
            spans=(target_spans, span_value),
        )
        if contrasted:
            foils, alignments = (contrast_sources, contrast_targets), contrast_targets_alignments
            examples = add_contrasts(self.wrapped, inputs, examples, *foils, alignments, skip_special_tokens)
            if not job.force_contrast and isinstance(attributed_fn, str) and is_difference(attributed_fn):
                check_foils([e for e in examples if e.n_steps], attributed_fn)
        found = self._attribute(examples, job, batch_size, show_progress, generated_texts is None)
        return AttributionOutput(explained(examples, found))

    @alone
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
        contrast_force_inputs: bool = False,
        **method_options: Any,
    ) -> list[Attribution]:
        """Explain encoded examples (see `attribute`).

        Some of them may have foils: contrastive step scores are then given for these only.
        """
        job = make_job(
            method,
            encoder_decoder=self.is_encoder_decoder,
            attributed_fn=attributed_fn,
            attributed_fn_args=attributed_fn_args or {},
            step_scores=step_scores,
            step_scores_args=step_scores_args or {},
            attribute_target=attribute_target,
            include_eos_baseline=include_eos_baseline,
            granular=granular,
            seed=seed,
            method_options=method_options,
            force_contrast=contrast_force_inputs,
            span_value=next((e.span_value for e in examples if e.spans is not None), None),
        )
        check_contrast((attributed_fn,), all(e.contrast is not None for e in examples))
        check_contrast(names_of(step_scores), any(e.contrast is not None for e in examples))
        found = self._attribute(examples, job, batch_size, show_progress, False)
        return explained(examples, found, all_of_them=True)

    def _attribute(
        self, examples: Sequence[Example], job: Job, batch_size: int | None, show: bool, generated: bool
    ) -> list[Attribution | NotFiniteError | None]:
        """What came of each example: nothing (None) of one without steps."""
        found: dict[int, Attribution | NotFiniteError] = {}
        steps = [i for i, e in enumerate(examples) if e.n_steps]
        check_room(self.wrapped, job.name, job.options, [examples[i] for i in steps])

        def explain(index: Sequence[int]) -> None:
            made = explain_batch(self.wrapped, [examples[i] for i in index], job, generated)
            found.update(zip(index, made, strict=True))

        with self.wrapped.frozen():
            for part in track(self._batches([examples[i] for i in steps], batch_size), job.name, show):
                smallest = f"a single example of '{job.name}' on {self.device}"
                Halving(smallest, nested=True).over([steps[k] for k in part], explain)
        return [found.get(i) for i in range(len(examples))]

    # -- what evaluation needs --------------------------------------------------------------------------------------

    def score_steps(
        self,
        examples: Sequence[Example],
        step_functions: Mapping[str, Mapping[str, Any]],
        batch_size: int | None = None,
        seed: int = 0,
    ) -> list[dict[str, Tensor]]:
        """Values of step functions, per example name -> `[step]` (of spans: combined), from one forward per batch.

        Contrastive functions are left out for examples without a foil.
        """
        check_contrast(list(step_functions), any(e.contrast is not None for e in examples))
        bound = bind_step_functions(list(step_functions), step_functions)
        values = self.step_values(examples, bound, batch_size, seed)
        return [of_steps(example, found, step_functions) for example, found in zip(examples, values, strict=True)]

    @alone
    @torch.no_grad()
    def step_values(
        self,
        examples: Sequence[Example],
        functions: Mapping[str, StepFunction],
        batch_size: int | None = None,
        seed: int = 0,
    ) -> list[dict[str, Tensor]]:
        """The same, token by token, for any functions; `NotFiniteError` where logits are not finite."""
        found: dict[int, dict[str, Tensor]] = {}

        def score(index: Sequence[int]) -> None:
            batch = [examples[i] for i in index]
            engine = Engine(self.wrapped, batch, TARGET_LOGIT, ("target",), seed)
            for i, error in zip(index, reasons(engine), strict=True):
                if error is not None:
                    raise named(i, len(examples), error)
            found_values = step_values(engine, functions)
            values = dict(zip(found_values, home(list(found_values.values())), strict=True))
            for row, i in enumerate(index):
                found[i] = {name: v[row, : examples[i].stop - examples[i].start] for name, v in values.items()}

        self._each_batch(examples, batch_size, score)
        return [found[i] for i in range(len(examples))]

    def _each_batch(
        self, examples: Sequence[Example], batch_size: int | None, work: Callable[[Sequence[int]], None]
    ) -> None:
        """Work on batches, given by their indices; one that does not fit into memory is halved."""
        with self.wrapped.frozen():
            for index in self._batches(examples, batch_size):
                Halving(f"a single example on {self.device}", nested=True).over(index, work)

    @alone
    @torch.no_grad()
    def teacher_forced(self, examples: Sequence[Example], batch_size: int | None = None) -> None:
        """One plain forward of the same batches: the unit in which costs are stated."""

        def run(index: Sequence[int]) -> None:
            self.wrapped.run(Rows.of(self.wrapped.collate([examples[i] for i in index])))

        self._each_batch(examples, batch_size, run)
        synchronize(self.device)

    @alone
    def rescore(
        self,
        examples: Sequence[Example],
        variants: Sequence[tuple[int, Variant]],
        *,
        attribute_target: bool = False,
        batch_size: int | None = None,
        counter: Counter | None = None,
    ) -> list[Tensor]:
        """What a metric gets as `rescore`, outside of an evaluation (see `engine.variants.score_variants`)."""
        with self.wrapped.frozen():
            return score_variants(
                self.wrapped,
                examples,
                variants,
                attribute_target=attribute_target,
                batch_size=batch_size,
                counter=counter,
            )

    def count_rows(
        self, examples: Sequence[Example], variants: Sequence[tuple[int, Variant]], *, attribute_target: bool = False
    ) -> int:
        """How many sequences `rescore` would send through the model for these changes."""
        return count_rows(self.wrapped, examples, variants, attribute_target=attribute_target)
