"""A model under Inseq's names: `load_model(...).attribute(...)` and its ways with texts, ids and tokens."""

from __future__ import annotations

import dataclasses
import inspect
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from attriflow import model as native
from attriflow.engine.job import names_of
from attriflow.errors import InputError, check_choice
from attriflow.inseq.attr.step_functions import ALIASES, translated
from attriflow.inseq.data.attribution import FeatureAttributionOutput, FeatureAttributionSequenceOutput
from attriflow.inseq.data.steps import steps_from
from attriflow.inseq.face import ModelFace
from attriflow.kernels.annotations import keywords_of
from attriflow.models.contrast import add_contrasts
from attriflow.models.generation import beginning_with
from attriflow.registry import methods, step_functions
from attriflow.types import Attribution, Example, Token

__all__ = [
    "AttributionModel", "DecoderOnlyAttributionModel", "EncoderDecoderAttributionModel", "HuggingfaceDecoderOnlyModel",
    "HuggingfaceEncoderDecoderModel", "HuggingfaceModel", "list_supported_frameworks", "load_model",
    "register_model_config",
]  # fmt: skip
FRAMEWORKS = ("hf_transformers",)
OPTIONS = {"method": "quadrature"}
"""Names in `attribution_args` that are others here."""
_CONTRAST = ("contrast_sources", "contrast_targets", "contrast_targets_alignments", "contrast_force_inputs")


def load_model(
    model: Any,
    attribution_method: str | None = None,
    framework: str = "hf_transformers",
    *,
    tokenizer: Any = None,
    device: Any = None,
    model_kwargs: Mapping[str, Any] | None = None,
    tokenizer_kwargs: Mapping[str, Any] | None = None,
    **method_options: Any,
) -> AttributionModel:
    """Load a model as `attriflow.load_model` does; options that the method does not take are ignored with a warning.

    Args:
        model: A name, a folder, a model object or an MLflow URI.
        attribution_method: The default method; None is possible.
        framework: "hf_transformers".
        tokenizer: The same: a tokenizer or its name.
        device: The same.
        model_kwargs, tokenizer_kwargs: The same; `attn_implementation` may be any, attention is read all the same.
        **method_options: Default options of the method.
    """
    check_choice("framework", framework, FRAMEWORKS)
    kept = _kept(attribution_method, method_options, f"method {attribution_method!r}")
    loaded = native.load_model(
        model,
        attribution_method,
        tokenizer,
        device,
        model_kwargs=dict(model_kwargs or {}) or None,
        tokenizer_kwargs=dict(tokenizer_kwargs or {}) or None,
        **kept,
    )
    return (EncoderDecoderAttributionModel if loaded.is_encoder_decoder else DecoderOnlyAttributionModel)(loaded)


def _kept(method: str | None, options: Mapping[str, Any], label: str) -> dict[str, Any]:
    known = {OPTIONS.get(k, k): v for k, v in options.items()}
    taken = methods.info(method).options if method else {}
    if unused := [k for k in known if k not in taken]:
        warnings.warn(f"{label} does not take {', '.join(unused)}: ignored", stacklevel=4)
    return {k: v for k, v in known.items() if k in taken}


def list_supported_frameworks() -> list[str]:
    """Where models may come from."""
    return list(FRAMEWORKS)


def register_model_config(*_args: Any, **_given: Any) -> None:
    """Not needed: attention is read through transformers' own interface."""


class AttributionModel(ModelFace):
    """A generation model under Inseq's names; `native` is attriflow's."""

    load = staticmethod(load_model)

    # -- attribution -----------------------------------------------------------------------------------------------

    def attribute(
        self,
        input_texts: Any,
        generated_texts: Any = None,
        method: str | None = None,
        override_default_attribution: bool = False,
        attr_pos_start: int | None = None,
        attr_pos_end: int | None = None,
        show_progress: bool = True,
        pretty_progress: bool = True,
        output_step_attributions: bool = False,
        attribute_target: bool = False,
        step_scores: Sequence[str] = (),
        include_eos_baseline: bool = False,
        attributed_fn: str | Callable[..., Any] | None = None,
        device: Any = None,
        batch_size: int | None = None,
        generate_from_target_prefix: bool = False,
        skip_special_tokens: bool = False,
        clean_special_chars: bool = False,
        generation_args: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> FeatureAttributionOutput:
        """Explain texts, with Inseq's arguments; options that nothing takes are ignored with a warning.

        Args:
            input_texts, generated_texts: The same; several forced texts of a decoder-only model are one batch.
            method: The same; unknown names say the nearest.
            override_default_attribution: The same: `method` becomes the model's default.
            attr_pos_start, attr_pos_end: The same; the end is exclusive for encoder-decoders, too, `target` ends there,
                and the start never lies in the prompt of a decoder-only model.
            show_progress: The same; a bar is shown in terminals on anything over two seconds.
            pretty_progress: No effect: there is one kind of progress bar.
            output_step_attributions: The same: `step_attributions` are the columns of the scores.
            attribute_target: The same; ignored with a warning for decoder-only models.
            step_scores: The same.
            include_eos_baseline: The same.
            attributed_fn: The same: a name, or a function of `StepFunctionArgs`; None is `default_attributed_fn_id`.
            device: The same: the model moves there for this call.
            batch_size: The same; by length when None.
            generate_from_target_prefix: The same; ignored with a warning for decoder-only models.
            skip_special_tokens: The same.
            clean_special_chars: Readable tokens in place of raw ones ("Ġhat", "▁hat").
            generation_args: The same; ignored with a warning beside `generated_texts`.
            **options: Of the method, of the attributed function and of step scores, by name or in `attribution_args`
                (captum's `method` is `quadrature`), `attributed_fn_args` and `step_scores_args`; `contrast_sources`,
                `contrast_targets`, `contrast_targets_alignments`, `contrast_force_inputs`.
        """
        name = method or self.native.method
        if name is None:
            raise InputError("no attribution method: pass method= or load_model(attribution_method=)")
        if override_default_attribution and method:
            self.native.method, self.native.method_options = method, {}
        texts = [input_texts] if isinstance(input_texts, str) else list(input_texts)
        targets = None if generated_texts is None else given_list(generated_texts)
        constrained = targets is not None
        if attribute_target and not self.is_encoder_decoder:
            warnings.warn("decoder-only models have one side: attribute_target is ignored", stacklevel=2)
        if generate_from_target_prefix and not self.is_encoder_decoder:
            warnings.warn("decoder-only models have no target prefix: ignored", stacklevel=2)
        generation = dict(generation_args or {})
        begin = time.perf_counter()
        with self._on(device):
            if targets is not None and generate_from_target_prefix and self.is_encoder_decoder:
                targets = [self._continued(t, prefix, generation) for t, prefix in zip(texts, targets, strict=True)]
                generation = {}
            elif targets is not None and generation:
                warnings.warn("the texts are given: generation_args are ignored", stacklevel=2)
                generation = {}
            fn: Any = self.default_attributed_fn_id if attributed_fn is None else attributed_fn
            fn = translated(fn) if callable(fn) else ALIASES.get(fn, fn)
            scores = [ALIASES.get(s, s) for s in names_of(step_scores)]
            given = self._options(name, fn, scores, options, attribute_target)
            out = self.native.attribute(
                texts,
                targets,
                method=name,
                attributed_fn=fn,
                step_scores=scores,
                attribute_target=attribute_target and self.is_encoder_decoder,
                attr_pos_start=attr_pos_start,
                attr_pos_end=attr_pos_end,
                generation_args=generation or None,
                batch_size=batch_size,
                granular=True,
                include_eos_baseline=include_eos_baseline,
                show_progress=show_progress,
                skip_special_tokens=skip_special_tokens,
                **given,
            )
        examples = [self._example(a, skip_special_tokens) for a in out]
        foils = self._foils(out, examples, given, skip_special_tokens)
        sequences = [
            FeatureAttributionSequenceOutput.of(a, self._entries(a, e, clean_special_chars), e.target, f)
            for a, e, f in zip(out, examples, foils, strict=True)
        ]
        asked = {ALIASES[s]: s for s in names_of(step_scores) if s in ALIASES}
        for sequence in sequences:
            sequence.step_scores = {asked.get(k, k): v for k, v in sequence.step_scores.items()}
        label = fn if isinstance(fn, str) else getattr(fn, "__name__", "custom")
        info = {
            **self.info,
            "attr_pos_start": min((s.attr_pos_start for s in sequences), default=0),
            "attr_pos_end": max((s.attr_pos_end or 0 for s in sequences), default=0),
            "attribute_target": attribute_target and self.is_encoder_decoder,
            "attributed_fn": label if label.endswith("_fn") else f"{label}_fn",
            "attributed_fn_args": dict(out[0].provenance.attributed_fn_args),
            "attribution_args": {k: v for k, v in given.items() if k in methods.info(name).options},
            "attribution_method": name,
            "constrained_decoding": constrained,
            "exec_time": time.perf_counter() - begin,
            "generate_from_target_prefix": generate_from_target_prefix,
            "generated_texts": [a.target_text for a in out],
            "generation_args": dict(generation_args or {}),
            "include_eos_baseline": include_eos_baseline,
            "input_texts": [a.input_text for a in out],
            "output_step_attributions": output_step_attributions,
            "step_scores": list(names_of(step_scores)),
            "step_scores_args": dict(out[0].provenance.step_scores_args),
        }
        return FeatureAttributionOutput(sequences, steps_from(sequences) if output_step_attributions else None, info)

    def _options(
        self, method: str, fn: Any, scores: Sequence[str], options: Mapping[str, Any], attribute_target: bool
    ) -> dict[str, Any]:
        """Options as attriflow's `attribute` takes them."""
        given = {k: v for k, v in options.items() if not k.endswith("_args")}
        given |= {OPTIONS.get(k, k): v for k, v in (options.get("attribution_args") or {}).items()}
        taken = {*methods.info(method).options, *keywords_of(self.native.attribute)}
        for name in (fn, *scores):
            if isinstance(name, str):
                taken |= set(step_functions.info(name).options)
        own = {}
        if callable(fn):  # a function that is not registered has its options bound by name
            own = {k: v for k, v in given.items() if k in _parameters(fn)}
        if unused := [k for k in given if k not in taken and k not in own]:
            message = f"neither method '{method}' nor the step functions take {', '.join(unused)}: ignored"
            warnings.warn(message, stacklevel=3)
        nested = {k: options[k] for k in ("attributed_fn_args", "step_scores_args") if options.get(k)}
        if own:
            nested["attributed_fn_args"] = {**own, **nested.get("attributed_fn_args", {})}
        for name in ("attributed_fn_args", "step_scores_args"):
            moved = {k: v for k, v in dict(nested.get(name) or {}).items() if k in _CONTRAST}
            if moved:
                given = {**moved, **given}
                nested[name] = {k: v for k, v in nested[name].items() if k not in moved}
        taken -= {"self", "input_texts", "generated_texts", "method", "attributed_fn", "step_scores"}
        kept = {k: v for k, v in given.items() if k in taken and not (k in _CONTRAST and v is None)}
        if methods.info(method).name in _SELF_SCORED and self.is_encoder_decoder:
            kept.setdefault("output_encoder_self_scores", True)
            kept.setdefault("output_decoder_self_scores", not attribute_target)
        return {**kept, **nested}

    @contextmanager
    def _on(self, device: Any) -> Iterator[None]:
        """The model on another device for a while."""
        home = self.native.device
        moved = device is not None and torch.device(device).type != home.type
        if moved:
            self.model.to(device)
        try:
            yield
        finally:
            if moved:
                self.model.to(home)

    def _continued(self, text: str, prefix: str, generation: Mapping[str, Any]) -> str:
        given = {**generation, **beginning_with(self.native.wrapped, prefix)}
        return self.native.encode(text, generation_args=given)[0].target_text

    def _example(self, a: Attribution, skip_special_tokens: bool) -> Example:
        """The texts of an attribution encoded once more, for the tokens that it does not hold."""
        try:
            return self.native.encode(a.input_text, a.target_text, skip_special_tokens=skip_special_tokens)[0]
        except InputError:  # nothing was generated
            return Example(target=(), start=0, stop=0)

    def _foils(
        self, out: Sequence[Attribution], examples: Sequence[Example], given: Mapping[str, Any], skip: bool
    ) -> list[list[str] | None]:
        """Raw tokens that each explained one was compared with."""
        targets = given.get("contrast_targets")
        if targets is None:
            return [None] * len(out)
        sources, pairs = given.get("contrast_sources"), given.get("contrast_targets_alignments")
        moved = [
            dataclasses.replace(e, start=a.start, stop=a.start + len(a.targets))
            for e, a in zip(examples, out, strict=True)
        ]
        made = add_contrasts(self.native.wrapped, [a.input_text for a in out], moved, sources, targets, pairs, skip)
        return [None if e.contrast is None else self.convert_ids_to_tokens(list(e.contrast.ids), False) for e in made]

    def _entries(self, a: Attribution, example: Example, clean: bool) -> dict[Token, str]:
        """Token -> its entry in the vocabulary, or what that stands for."""
        tokens = [t for t in {*a.inputs, *a.targets, *example.target} if t.id >= 0]
        raw = self.tokenizer.convert_ids_to_tokens([t.id for t in tokens])
        return dict(zip(tokens, self.clean_tokens(raw) if clean else raw, strict=True))


class DecoderOnlyAttributionModel(AttributionModel):
    """A model that continues texts."""


class EncoderDecoderAttributionModel(AttributionModel):
    """A model with a separate source."""


HuggingfaceModel = AttributionModel
HuggingfaceDecoderOnlyModel, HuggingfaceEncoderDecoderModel = (
    DecoderOnlyAttributionModel,
    EncoderDecoderAttributionModel,
)

_SELF_SCORED = ("attention", "value_zeroing")


def given_list(texts: Any) -> list[str]:
    """One text or several as a list."""
    return [texts] if isinstance(texts, str) else list(texts)


def _parameters(fn: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(fn).parameters)[1:]
