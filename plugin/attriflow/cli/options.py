"""The options of the commands, as dataclasses: names, short names and what they mean."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from attriflow.cli.command import assignments, json_object, read_config


def option(help: str, *names: str, panel: str, **settings: Any) -> Any:
    """An option whose first name is its field's name with dashes, unless names are given."""
    return typer.Option(
        *names, help=help, rich_help_panel=panel, show_default=settings.pop("show_default", True), **settings
    )


def known(kind: str) -> Callable[[str], list[str]]:
    """Completion of the names in a registry."""

    def complete(incomplete: str) -> list[str]:
        from attriflow import registry

        return [name for name in getattr(registry, kind).names() if name.startswith(incomplete)]

    return complete


_MODEL, _METHOD, _TEXTS, _SHOWN = "Model and generation", "Attribution", "Texts", "Aggregation and output"
_DATA = "Data set"


def json_option(help: str, *names: str, panel: str) -> Any:
    """An option that holds nested settings."""
    return option(
        f"{help}, as a JSON object.", *names, panel=panel, parser=json_object, metavar="JSON", show_default=False
    )


def _device_map(value: str) -> Any:
    """A name such as "auto", or a JSON object whose numbers count accelerators."""
    return json_object(value) if value.lstrip().startswith("{") else value


def device_map_option(panel: str) -> Any:
    """`--device-map`."""
    return option(
        "Lay the model over several devices: auto, balanced, ..., or a JSON object of modules and devices.",
        panel=panel,
        parser=_device_map,
        metavar="NAME|JSON",
        show_default=False,
    )


def _max_memory(value: str) -> Any:
    """A JSON object, in which numbers of accelerators are words."""
    return {int(k) if k.isdigit() else k: v for k, v in json_object(value).items()}


def max_memory_option(panel: str) -> Any:
    """`--max-memory`."""
    return option(
        'How much of each device the map may take: {"0": "20GiB", "cpu": "60GiB"}.',
        panel=panel,
        parser=_max_memory,
        metavar="JSON",
        show_default=False,
    )


def _spans(value: str) -> Any:
    """A name, or JSON: ranges, or an object that says what they are."""
    try:
        return json.loads(value) if value.lstrip()[:1] in ("[", "{") else value
    except json.JSONDecodeError as error:
        raise typer.BadParameter(f"{value!r} is not JSON ({error})") from error


def spans_option(panel: str) -> Any:
    """`--target-spans`."""
    return option(
        "Explain spans, each as one step: all, sentence, turn, answer (after </think> or ####), or as JSON ranges "
        '[[3, 9]] of positions, {"characters": [[0, 9]]} or {"pattern": "..."}.',
        panel=panel,
        parser=_spans,
        metavar="SPANS",
        show_default=False,
    )


def min_coverage_option(panel: str) -> Any:
    """`--min-coverage`."""
    return option("Share of examples with a value that a rank takes.", min=0.0, max=1.0, panel=panel)


def gates_option(panel: str) -> Any:
    """`--gates/--no-gates`."""
    return option("Rank only methods that pass all gates, or all methods.", "--gates/--no-gates", panel=panel)


def config_option(panel: str) -> Any:
    """`--config`."""
    return option(
        "YAML file of options by name; the command line wins.",
        metavar="FILE",
        panel=panel,
        is_eager=True,
        callback=read_config,
    )


def overwrite_option(panel: str) -> Any:
    """`--overwrite`."""
    return option("Replace files that exist.", "--overwrite", panel=panel)


def store_option(panel: str) -> Any:
    """`--tracking-uri`."""
    return option("MLflow store or server; MLflow's own setting by default.", panel=panel)


@dataclass(kw_only=True)
class ModelOptions:
    """The model, the method and what becomes of its scores: what every command that attributes takes."""

    model_name_or_path: Annotated[
        str,
        option(
            "Local folder, Hugging Face name, MLflow model URI, or demo/recall or demo/translate.",
            "--model-name-or-path",
            "-m",
            panel=_MODEL,
        ),
    ]
    device: Annotated[str, option("auto, cpu, cuda, cuda:1, mps, ...", "--device", "--dev", panel=_MODEL)] = "auto"
    device_map: Annotated[Any, device_map_option(_MODEL)] = None
    max_memory: Annotated[Any, max_memory_option(_MODEL)] = None
    dtype: Annotated[str | None, option("float32, bfloat16, ...; the checkpoint's own by default.", panel=_MODEL)] = (
        None
    )
    model_kwargs: Annotated[
        dict[str, Any] | None, json_option("Arguments of the model's from_pretrained", panel=_MODEL)
    ] = None
    tokenizer_kwargs: Annotated[
        dict[str, Any] | None, json_option("Arguments of the tokenizer's from_pretrained", panel=_MODEL)
    ] = None
    generation_kwargs: Annotated[dict[str, Any] | None, json_option("Arguments of generate", panel=_MODEL)] = None
    seed: Annotated[int, option("Seed of everything random.", min=0, panel=_METHOD)] = 0
    attribution_method: Annotated[
        str,
        option(
            "Method (see attriflow methods).",
            "--attribution-method",
            "-a",
            panel=_METHOD,
            autocompletion=known("methods"),
        ),
    ] = "saliency"
    attributed_fn: Annotated[
        str,
        option(
            "Step function that is explained (see attriflow step-functions).",
            "--attributed-fn",
            "-fn",
            panel=_METHOD,
            autocompletion=known("step_functions"),
        ),
    ] = "probability"
    attribution_kwargs: Annotated[
        dict[str, Any] | None,
        json_option("Options of the method, of the step functions and of attribute()", panel=_METHOD),
    ] = None
    method_option: Annotated[
        list[str] | None,
        option("One of these options at a time: n_steps=50.", metavar="NAME=VALUE", panel=_METHOD, show_default=False),
    ] = None
    attribution_aggregators: Annotated[
        list[str] | None,
        option(
            "Aggregators or aggregation functions, applied in this order to what is shown and saved.",
            panel=_SHOWN,
            autocompletion=known("aggregators"),
            show_default=False,
        ),
    ] = None
    attribution_selectors: Annotated[
        list[int] | None,
        option("For each aggregator the index (of a layer, a head) that is kept.", panel=_SHOWN, show_default=False),
    ] = None
    normalize_attributions: Annotated[
        bool, option("Divide each step by the sum of its absolute scores.", "--normalize-attributions", panel=_SHOWN)
    ] = False
    rescale_attributions: Annotated[
        bool, option("Divide by the largest absolute score.", "--rescale-attributions", panel=_SHOWN)
    ] = False
    config: Annotated[str | None, config_option(panel=_SHOWN)] = None

    def given_to_method(self) -> dict[str, Any]:
        """Keywords for `attribute`, from both ways of giving them."""
        return {**(self.attribution_kwargs or {}), **assignments(self.method_option or ())}


@dataclass(kw_only=True)
class AttributeOptions(ModelOptions):
    """What `attribute` and `attribute-dataset` share."""

    attribute_target: Annotated[
        bool,
        option(
            "Encoder-decoders: explain by the target prefix too, not by the source only.",
            "--attribute-target",
            "--do-prefix-attribution",
            panel=_METHOD,
        ),
    ] = False
    generate_from_target_prefix: Annotated[
        bool,
        option(
            "Encoder-decoders: the generated texts are beginnings, which the model continues.",
            "--generate-from-target-prefix",
            panel=_MODEL,
        ),
    ] = False
    step_scores: Annotated[
        list[str] | None,
        option(
            "Step functions whose values are recorded for every step.",
            panel=_METHOD,
            autocompletion=known("step_functions"),
            show_default=False,
        ),
    ] = None
    include_eos_baseline: Annotated[
        bool, option("Replace EOS tokens in baselines too.", "--include-eos-baseline", "--eos", panel=_METHOD)
    ] = False
    contrast_force_inputs: Annotated[
        bool,
        option(
            "Compare with the contrastive input's own prediction instead of the foil's after the original input.",
            "--contrast-force-inputs",
            panel=_METHOD,
        ),
    ] = False
    batch_size: Annotated[
        int | None,
        option("Texts per batch; by length when not given.", "--batch-size", "-bs", min=1, panel=_MODEL),
    ] = None
    start_pos: Annotated[int | None, option("First position to explain.", "--start-pos", "-s", panel=_METHOD)] = None
    target_spans: Annotated[Any, spans_option(_METHOD)] = None
    span_value: Annotated[str, option("A span's value: sum or mean of those of its tokens.", panel=_METHOD)] = "sum"
    end_pos: Annotated[int | None, option("Position before which to stop.", "--end-pos", "-e", panel=_METHOD)] = None
    output: Annotated[
        Path | None,
        option(
            "File to write: .json, .jsonl, .parquet, .safetensors or .html.",
            "--output",
            "--save-path",
            "-o",
            metavar="FILE",
            panel=_SHOWN,
        ),
    ] = None
    viz_path: Annotated[Path | None, option("HTML page to write.", metavar="FILE", panel=_SHOWN)] = None
    overwrite: Annotated[bool, overwrite_option(_SHOWN)] = False
    aggregate_output: Annotated[
        bool, option("Apply the default aggregator to what is saved.", "--aggregate-output", panel=_SHOWN)
    ] = False
    hide_attributions: Annotated[
        bool, option("Print no attributions.", "--hide-attributions", "--hide", panel=_SHOWN)
    ] = False
    output_step_attributions: Annotated[
        bool,
        option("Accepted for Inseq's scripts: every output has them.", "--output-step-attributions", panel=_SHOWN),
    ] = False
    verbose: Annotated[bool, option("Log what happens.", "--verbose", "-v", panel=_SHOWN)] = False
    very_verbose: Annotated[bool, option("Log everything.", "--very-verbose", "-vv", panel=_SHOWN)] = False


@dataclass(kw_only=True)
class TextOptions(AttributeOptions):
    """Options of `attribute`."""

    input_texts: Annotated[list[str], option("One text or several.", "--input-texts", "-i", panel=_TEXTS)]
    generated_texts: Annotated[
        list[str] | None,
        option(
            "Targets, one per text; generated when not given.",
            "--generated-texts",
            "-g",
            panel=_TEXTS,
            show_default=False,
        ),
    ] = None
    contrast_targets: Annotated[
        list[str] | None,
        option("Contrastive targets, one per text, for contrastive step functions.", panel=_TEXTS, show_default=False),
    ] = None
    contrast_sources: Annotated[
        list[str] | None, option("Contrastive sources, one per text.", panel=_TEXTS, show_default=False)
    ] = None
    reasoning: Annotated[
        Any,
        option(
            "Explain the answer and pass the credit of the reasoning before it on: think (up to </think>), sentence "
            "(all but the last one), or [18, 40], decoder positions.",
            panel=_METHOD,
            parser=_spans,
            metavar="PART",
            show_default=False,
        ),
    ] = None
    hops: Annotated[int, option("How often the credit of the reasoning is passed on.", min=0, panel=_METHOD)] = 1


_WORKERS = "Workers"


@dataclass(kw_only=True)
class WorkersOptions:
    """Where the work is done."""

    engine: Annotated[
        str,
        option(
            "local (this process), processes (of this machine) or ray (a cluster; extra ray): same result, byte for "
            "byte with the same number of threads (OMP_NUM_THREADS=1).",
            panel=_WORKERS,
        ),
    ] = "local"
    workers: Annotated[
        int | None,
        option("How many; by default one per GPU, or per core where there is none.", min=1, panel=_WORKERS),
    ] = None
    ray_address: Annotated[
        str | None,
        option("Of a running cluster, HOST:PORT; without it, one is started here.", panel=_WORKERS),
    ] = None


@dataclass(kw_only=True)
class DatasetOptions(AttributeOptions, WorkersOptions):
    """Options of `attribute-dataset`."""

    dataset_name: Annotated[
        str,
        option(
            "csv, json or parquet (with --dataset-files), such a file itself, a data set's name or folder, or demo/...",
            "--dataset-name",
            "--dataset",
            "-d",
            panel=_DATA,
        ),
    ]
    input_text_field: Annotated[
        str | None,
        option("Column of input texts.", "--input-text-field", "--input", "-in", panel=_DATA),
    ] = None
    generated_text_field: Annotated[
        str | None,
        option(
            "Column of targets; generated when not given.", "--generated-text-field", "--generated", "-gen", panel=_DATA
        ),
    ] = None
    contrast_targets_field: Annotated[str | None, option("Column of contrastive targets.", panel=_DATA)] = None
    contrast_sources_field: Annotated[str | None, option("Column of contrastive sources.", panel=_DATA)] = None
    dataset_config: Annotated[str | None, option("Configuration of the data set.", panel=_DATA)] = None
    dataset_dir: Annotated[str | None, option("Folder of the data files.", "--dataset-dir", "--dir", panel=_DATA)] = (
        None
    )
    dataset_files: Annotated[
        list[str] | None, option("Data files.", "--dataset-files", "--files", panel=_DATA, show_default=False)
    ] = None
    dataset_split: Annotated[
        str, option("Split, or a part of it such as train[:20].", "--dataset-split", "--split", panel=_DATA)
    ] = "train"
    dataset_revision: Annotated[
        str | None, option("Revision of the data set.", "--dataset-revision", "--revision", panel=_DATA)
    ] = None
    dataset_auth_token: Annotated[
        str | None, option("Token for the Hugging Face hub.", "--dataset-auth-token", "--auth", panel=_DATA)
    ] = None
    dataset_kwargs: Annotated[dict[str, Any] | None, json_option("Arguments of load_dataset", panel=_DATA)] = None
    resume: Annotated[bool, option("Go on with a run that was interrupted.", "--resume", panel=_DATA)] = False
    strict: Annotated[bool, option("Stop at the first row that fails.", "--strict", panel=_DATA)] = False


_ROWS, _PARTS, _RUN = "Data", "Parts", "Run"


@dataclass(kw_only=True)
class RowsOptions:
    """What `evaluate` and `benchmark` share: rows, methods, and where to log."""

    inputs: Annotated[str | None, option("Column of input texts.", panel=_ROWS)] = None
    targets: Annotated[str | None, option("Column of targets; without it they are generated.", panel=_ROWS)] = None
    dataset_split: Annotated[
        str, option("Split, or a part of it such as train[:20].", "--dataset-split", "--split", panel=_ROWS)
    ] = "train"
    dataset_config: Annotated[str | None, option("Configuration of a Hugging Face data set.", panel=_ROWS)] = None
    methods: Annotated[
        list[str] | None,
        option("Names separated by commas; all when not given.", panel=_PARTS, autocompletion=known("methods")),
    ] = None
    method_options: Annotated[dict[str, Any] | None, json_option("Method -> options", panel=_PARTS)] = None
    target_spans: Annotated[Any, spans_option(_PARTS)] = None
    span_value: Annotated[str, option("A span's value: sum or mean of those of its tokens.", panel=_PARTS)] = "sum"
    generation_args: Annotated[
        dict[str, Any] | None,
        json_option("Arguments of generate", "--generation-args", "--generation-kwargs", panel=_RUN),
    ] = None
    batch_size: Annotated[
        int | None, option("Examples per batch; by length when not given.", "--batch-size", "-bs", min=1, panel=_RUN)
    ] = None
    device: Annotated[str, option("auto, cpu, cuda, cuda:1, mps, ...", "--device", "--dev", panel=_RUN)] = "auto"
    device_map: Annotated[Any, device_map_option(_RUN)] = None
    max_memory: Annotated[Any, max_memory_option(_RUN)] = None
    seed: Annotated[int, option("Seed of everything random.", min=0, panel=_RUN)] = 0
    tracking_uri: Annotated[str | None, store_option(panel=_RUN)] = None
    experiment: Annotated[str | None, option("MLflow experiment.", panel=_RUN)] = None
    config: Annotated[str | None, config_option(panel=_RUN)] = None

    def settings(self) -> dict[str, Any]:
        """The settings of `EvaluationConfig` that were given."""
        from attriflow.evaluation.config import EvaluationConfig

        keys = EvaluationConfig.keys()
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.name in keys}
        named = [key for key, value in given.items() if isinstance(value, list) and value and key != "target_spans"]
        names = {key: ",".join(given[key]) for key in named}
        return {key: names.get(key, value) for key, value in given.items() if value not in (None, [], ())}
