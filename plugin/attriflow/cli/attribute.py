"""`attribute`, and what it shares with `attribute-dataset`."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from attriflow.cli.console import console, say
from attriflow.cli.options import AttributeOptions, ModelOptions, TextOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from attriflow.doors import Shown
    from attriflow.model import AttributionModel
    from attriflow.output import AttributionOutput


def attribute(options: TextOptions) -> None:
    """Explain what a model generates for texts.

    Targets are generated, or given with --generated-texts.
    """
    prepare(options, contrasted=bool(options.contrast_targets or options.contrast_sources))
    from attriflow.io import check_outputs

    check_outputs((options.output, options.viz_path), options.overwrite)
    texts: dict[str, list[str] | None] = {
        "input_texts": options.input_texts,
        "generated_texts": options.generated_texts,
        "contrast_targets": options.contrast_targets,
        "contrast_sources": options.contrast_sources,
    }
    model = load(options)
    given = {name: lines for name, lines in texts.items() if lines}
    out = explainer(model, options)(**given) if options.reasoning is None else _reasoned(model, options, given)
    if not options.hide_attributions:
        out.show(console=console(), view="console")
    if options.output is not None:
        say(f"wrote {out.save(options.output, overwrite=options.overwrite)}")
    write_page(out, options.viz_path, options.overwrite)


def _reasoned(model: AttributionModel, options: TextOptions, texts: dict[str, Any]) -> AttributionOutput:
    """The answers of texts that reason before them."""
    from attriflow.errors import InputError
    from attriflow.reasoning.attribute import attribute_reasoning

    keywords = attribute_keywords(options)
    taken = {
        "--contrast-targets": options.contrast_targets,
        "--contrast-sources": options.contrast_sources,
        "--target-spans": options.target_spans,
        "--start-pos": keywords.pop("attr_pos_start"),
        "--end-pos": keywords.pop("attr_pos_end"),
        "--generate-from-target-prefix": options.generate_from_target_prefix,
    }
    if wrong := [name for name, value in taken.items() if value]:
        raise InputError(f"--reasoning finds what is explained itself, so {wrong[0]} has no place beside it")
    generation = None if "generated_texts" in texts else generation_arguments(model, options)
    out = attribute_reasoning(
        model, **texts, reasoning=options.reasoning, hops=options.hops, generation_args=generation, **keywords
    )
    return aggregated(out, options)


def write_page(out: Shown, path: Path | None, overwrite: bool) -> None:
    """Write a page where one is wanted, and say so."""
    if path is not None:
        out.to_html(path, overwrite=overwrite)
        say(f"wrote {path}")


def prepare(options: AttributeOptions, contrasted: bool) -> None:
    """Logging as asked for, and every mistake that can be found before a model is loaded.

    Args:
        options: Of the command.
        contrasted: Whether there are texts to compare with.
    """
    import logging
    from inspect import signature

    from attriflow.registry import methods, step_functions

    level = logging.DEBUG if options.very_verbose else logging.INFO if options.verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    method, given = methods.info(options.attribution_method), options.given_to_method()  # a wrong name fails at once

    from attriflow.aggregation._pipeline import build
    from attriflow.engine.job import check_contrast
    from attriflow.errors import check_keywords
    from attriflow.io import suffix_of
    from attriflow.model import AttributionModel

    names = (options.attributed_fn, *(options.step_scores or ()))
    functions = [step_functions.info(name) for name in names]
    keywords = [p.name for p in signature(AttributionModel.attribute).parameters.values() if p.kind is p.KEYWORD_ONLY]
    allowed = {*method.options, *(name for function in functions for name in function.options), *keywords}
    check_keywords(f"attribute with method '{method.name}'", given, sorted(allowed))
    for part in (method, *functions):
        part.build(**{name: value for name, value in given.items() if name in part.options})
    check_contrast(names, contrasted or any(name.startswith("contrast_") for name in given))
    build(**aggregation(options))
    if options.output is not None:
        suffix_of(options.output, ".html")


def load(options: ModelOptions) -> AttributionModel:
    """The model, without the progress bars of loading it."""
    from transformers.utils import logging as transformers_logging

    from attriflow.model import load_model

    transformers_logging.disable_progress_bar()
    return load_model(
        options.model_name_or_path,
        device=options.device,
        dtype=options.dtype,
        model_kwargs=options.model_kwargs,
        tokenizer_kwargs=options.tokenizer_kwargs,
        device_map=options.device_map,
        max_memory=options.max_memory,
    )


def explainer(
    model: AttributionModel, options: AttributeOptions, *, show_progress: bool = True
) -> Callable[..., AttributionOutput]:
    """`model.attribute` with everything bound but the texts, and the aggregation that was asked for."""
    from attriflow.cli.target_prefix import attribute_from_prefix

    keywords = {**attribute_keywords(options), "show_progress": show_progress}

    def explain(**texts: Any) -> AttributionOutput:
        prefixed = options.generate_from_target_prefix and "generated_texts" in texts
        generates = prefixed or "generated_texts" not in texts
        generation = generation_arguments(model, options) if generates else options.generation_kwargs
        function = functools.partial(attribute_from_prefix, model) if prefixed else model.attribute
        return aggregated(function(**{"generation_args": generation, **keywords, **texts}), options)

    return explain


def attribute_keywords(options: AttributeOptions) -> dict[str, Any]:
    """Keywords of `AttributionModel.attribute`, without texts and generation."""
    keywords = {
        "method": options.attribution_method,
        "attributed_fn": options.attributed_fn,
        "step_scores": options.step_scores or (),
        "attribute_target": options.attribute_target,
        "attr_pos_start": options.start_pos,
        "attr_pos_end": options.end_pos,
        "batch_size": options.batch_size,
        "include_eos_baseline": options.include_eos_baseline,
        "seed": options.seed,
    }
    if options.target_spans is not None:
        keywords |= {"target_spans": options.target_spans, "span_value": options.span_value}
    if options.contrast_force_inputs:
        keywords["contrast_force_inputs"] = True
    if options.attribution_aggregators:  # they say what becomes of the embedding axis
        keywords["granular"] = True
    return {**keywords, **options.given_to_method()}


def generation_arguments(model: AttributionModel, options: ModelOptions) -> dict[str, Any]:
    """Arguments of `generate`; multilingual models begin with the tokenizer's target language."""
    given = dict(options.generation_kwargs or {})
    language = (options.tokenizer_kwargs or {}).get("tgt_lang")
    if language is not None and "forced_bos_token_id" not in given:
        from attriflow.texts.languages import language_id

        given["forced_bos_token_id"] = language_id(model.tokenizer, language)
    return given


def aggregation(options: AttributeOptions) -> dict[str, Any]:
    """The aggregators that were asked for, as arguments of the pipeline; no steps where there are none."""
    names: list[Any] = list(options.attribution_aggregators or ())
    if not names and (options.aggregate_output or options.normalize_attributions or options.rescale_attributions):
        names = ["scores"]
    return steps_of(options, names)


def steps_of(options: ModelOptions, names: Sequence[str]) -> dict[str, Any]:
    """Aggregators with the indices that were selected, and whether scores are normalised or rescaled."""
    from attriflow.aggregation._pipeline import unnormalized

    chosen = options.attribution_selectors or ()
    steps = [(name, {"select_idx": chosen[i]}) if i < len(chosen) else name for i, name in enumerate(names)]
    wanted = {"normalize": options.normalize_attributions, "rescale": options.rescale_attributions}
    asked = {key: True for key, given in wanted.items() if given}
    return {"aggregator": unnormalized(steps, asked), "options": asked}


def aggregated(attributions: AttributionOutput, options: AttributeOptions) -> AttributionOutput:
    """Attributions after the aggregators that were asked for."""
    asked = aggregation(options)
    return attributions.aggregate(asked["aggregator"], **asked["options"]) if asked["aggregator"] else attributions
