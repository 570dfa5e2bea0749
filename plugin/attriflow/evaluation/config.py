"""The settings of an evaluation: validated as a whole before any model is loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from attriflow.errors import InputError, UnknownNameError, check_keywords, unknown
from attriflow.evaluation.families import judges
from attriflow.evaluation.selection import (
    ALL,
    DEFAULT,
    NO_FOILS,
    buildable,
    checked_options,
    chosen_names,
    usable_metrics,
)
from attriflow.kernels.annotations import check_value, hints_of
from attriflow.registry import methods, metrics, step_functions
from attriflow.statistics.ranking import FLOOR
from attriflow.texts.target_spans import as_json
from attriflow.types import SpanValue
from attriflow.workers import check_engine

USUAL = ("input", "messages")
"""Columns of inputs that need no name."""
Names = Any  # "all", a list or a comma-separated string before validation; a tuple of names after it
TRACES = 100
"""Traces of an evaluation where nobody says how many: a request each on a server, a page of MLflow's table."""
PLACES = ("engine", "workers", "ray_address")
"""Settings that say where an evaluation is done: it is the same one elsewhere."""
_MINIMA = {
    "batch_size": 1,
    "reexplain_examples": 1,
    "max_examples": 1,
    "report_examples": 0,
    "traces": 0,
    "multiverse_rows": 1,
    "seed": 0,
}


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What to run and how. `from_dict` makes a checked one.

    Attributes:
        inputs: Column of input texts or chats; None: "input", "messages", or the only column of texts.
        rationale: Column of evidence spans, see `attriflow.evaluation.rationale`; None: no plausibility metrics.
        contrast_target, contrast_source: Columns of foils (target texts, source texts or prompts), which turn on the
            contrastive step functions; None: "contrast_target" and "contrast_source" where there are such columns. Rows
            may leave them empty.
        contrast_targets_alignments: "auto" aligns a target with its foil by equal and similar tokens; None from the
            right.
        contrast_force_inputs: A contrastive `attributed_fn` compares with what follows the contrastive input.
        methods, step_functions, metrics: "all", a list of names, or a comma-separated string. For metrics also
            "default": ferret's six, and those of other packages that are registered with `default=True`.
        attributed_fn: Step function whose value is explained, or a callable.
        attributed_fn_args: Its options.
        method_options, step_function_options, metric_options: Name -> options.
        masked_lm: Folder or Hugging Face name of the masked language model that the perturbation and the baseline
            "masked_lm" draw from, see `attriflow.use_masked_lm`.
        generation_args: Arguments of `model.generate`, for data without targets.
        target_spans: Explain spans of the targets, each as one step: "all", "sentence", "turn", "answer", ranges or a
            pattern (see `attriflow.texts.target_spans.find_spans`), the same for all rows; None: tokens.
        span_value: A span's value is the "sum" of those of its tokens, or their "mean".
        attribute_target: Encoder-decoders: also give credit to the target prefix.
        batch_size: Examples per batch; "auto" lets the engine choose.
        device: "auto", or a torch device.
        device_map, max_memory: Lay the model over several devices, see `attriflow.load_model`.
        seed: Seeds everything that draws random numbers.
        throughput: Measure forward equivalents, tokens per second and peak memory, not only seconds.
        max_examples: Use the first so many rows only.
        reexplain_examples: Metrics that explain again (robustness, sanity) do so for that many examples, spread evenly
            over the data; None: for all.
        min_coverage: Share of a metric's examples that a method must have values for to be ranked.
        gates: Rank only methods that pass all gates that could be tested, see `attriflow.statistics.gates`.
        multiverse: Also try every defensible choice of reduction, baseline, objective and perturbation, see
            `attriflow.evaluation.choices`, and say how far the ranking depends on them.
        multiverse_rows: Most rows of it: a method with its choices, under one perturbation.
        report_examples: Examples shown in the report.
        traces: Most examples of which MLflow gets a trace, spread evenly over the data; True for all, False for none.
        engine, workers, ray_address: Where blocks of examples are done (see `attriflow.workers.run_units`), which
            changes no number: in this process ("local"), in "processes" of this machine, or on a "ray" cluster.
        fail_fast: Raise at the first failing method instead of reporting it and going on.
        left_out: Parts selected through "all" that cannot run here, and why (filled in by `from_dict`).
    """

    inputs: str | None = None
    rationale: str | None = None
    contrast_target: str | None = None
    contrast_source: str | None = None
    contrast_targets_alignments: Literal["auto"] | None = None
    contrast_force_inputs: bool = False
    methods: Names = ALL
    step_functions: Names = ALL
    metrics: Names = DEFAULT
    attributed_fn: str | Callable[..., Any] = "probability"
    attributed_fn_args: Mapping[str, Any] = field(default_factory=dict)
    method_options: Mapping[str, Any] = field(default_factory=dict)
    step_function_options: Mapping[str, Any] = field(default_factory=dict)
    metric_options: Mapping[str, Any] = field(default_factory=dict)
    masked_lm: str | None = None
    generation_args: Mapping[str, Any] = field(default_factory=dict)
    target_spans: Any = None
    span_value: SpanValue = "sum"
    attribute_target: bool = False
    batch_size: int | Literal["auto"] = "auto"
    device: str = "auto"
    device_map: str | Mapping[str, Any] | None = None
    max_memory: Mapping[int | str, int | str] | None = None
    seed: int = 0
    throughput: bool = True
    max_examples: int | None = None
    reexplain_examples: int | None = 16
    min_coverage: float = FLOOR
    gates: bool = True
    multiverse: bool = False
    multiverse_rows: int = 300
    report_examples: int = 5
    traces: int | bool = TRACES
    engine: str = "local"
    workers: int | None = None
    ray_address: str | None = None
    fail_fast: bool = False
    left_out: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def keys(cls) -> list[str]:
        """The settings a user may give."""
        return [f.name for f in dataclasses.fields(cls) if f.name != "left_out"]

    @classmethod
    def from_dict(
        cls,
        mapping: Mapping[str, Any] | None = None,
        *,
        columns: Sequence[str] | None = None,
        text_columns: Sequence[str] | None = None,
        targets: str | None = None,
    ) -> EvaluationConfig:
        """Validate a dictionary of settings.

        Args:
            mapping: Settings by name; missing ones have their defaults.
            columns: Columns of the data, without the targets; None skips the checks of column names.
            text_columns: Those of them that hold text.
            targets: Name of the target column, None when targets will be generated.

        Raises:
            AttriflowError: Something is wrong; the message names it and what is allowed.
        """
        given = dict(check_value("evaluator_config", mapping, Mapping | None) or {})
        check_keywords("evaluator_config", given, cls.keys())
        _check_types(given)
        if given.get("target_spans") is not None:
            given["target_spans"] = as_json(given["target_spans"])
        if columns is not None:
            given["inputs"] = _inputs_column(given, columns, text_columns or (), targets)
            _check_column("rationale", given.get("rationale"), columns)
            for key in ("contrast_target", "contrast_source"):
                _check_column(key, given.get(key), columns)
                if given.get(key) is None and key in columns:
                    given[key] = key
        _check_device(given)
        _check_places(given)
        _check_generation(given.get("generation_args") or {}, targets)
        return cls(**given)._resolved()

    def _resolved(self) -> EvaluationConfig:
        """The same with names resolved to tuples and options checked."""
        left_out: dict[str, str] = {}
        changes: dict[str, Any] = {}
        for key, options_key, registry in (
            ("methods", "method_options", methods),
            ("step_functions", "step_function_options", step_functions),
            ("metrics", "metric_options", metrics),
        ):
            names, explicit = chosen_names(key, getattr(self, key), registry)
            if key == "metrics":
                names, skipped = usable_metrics(
                    names, registry, explicit=explicit, rationale=self.rationale is not None
                )
                left_out.update(skipped)
            options = checked_options(options_key, getattr(self, options_key), names, registry)
            names, skipped = buildable(names, options, registry, explicit, self.contrasted)
            left_out.update(skipped)
            changes[key], changes[options_key] = tuple(names), options
        if self.multiverse and not judges(changes["metrics"]):
            raise InputError("'multiverse' needs a metric of faithfulness or plausibility: add one to 'metrics'")
        if not changes["methods"]:
            raise InputError(f"'methods' is empty. Allowed: {', '.join(methods.names())}")
        changes["attributed_fn_args"] = self._attributed_fn_options()
        return dataclasses.replace(self, **changes, left_out=left_out)

    def _attributed_fn_options(self) -> dict[str, Any]:
        if callable(self.attributed_fn):
            return dict(self.attributed_fn_args)
        try:
            part = step_functions.info(self.attributed_fn)
        except UnknownNameError as error:
            raise UnknownNameError(f"'attributed_fn': {error}") from None
        if part.meta.get("contrast") and not self.contrasted:
            raise InputError(f"'attributed_fn': '{part.name}' {NO_FOILS}")
        options = part.checked(self.attributed_fn_args)
        part.build(**options)
        return options

    @property
    def contrasted(self) -> bool:
        """Whether rows may have foils."""
        return self.contrast_target is not None or self.contrast_source is not None

    @property
    def needs_foils(self) -> bool:
        """Whether every row must have one: what is explained compares with it."""
        return isinstance(self.attributed_fn, str) and bool(
            step_functions.info(self.attributed_fn).meta.get("contrast")
        )

    @property
    def explicit_batch_size(self) -> int | None:
        """The batch size, None when the engine chooses."""
        return None if self.batch_size == "auto" else self.batch_size

    @property
    def explicit_device(self) -> str | None:
        """The device, None when it is chosen automatically."""
        return None if self.device == "auto" else self.device

    def as_dict(self) -> dict[str, Any]:
        """Plain values by setting, but for `PLACES`: for logs, reports and another run, wherever that is done."""
        out = {key: getattr(self, key) for key in self.keys() if key not in PLACES}
        if callable(self.attributed_fn):
            out["attributed_fn"] = getattr(self.attributed_fn, "__qualname__", repr(self.attributed_fn))
        return {k: list(v) if isinstance(v, tuple) else v for k, v in out.items()}


def _check_types(given: Mapping[str, Any]) -> None:
    hints = hints_of(EvaluationConfig)
    for key, value in given.items():
        check_value(f"'{key}'", value, hints[key])
        if key in _MINIMA and isinstance(value, int) and value < _MINIMA[key]:
            raise InputError(f"'{key}' must be at least {_MINIMA[key]}, not {value}")
    if not 0 < given.get("min_coverage", FLOOR) <= 1:
        raise InputError(f"'min_coverage' must lie above 0 and up to 1, not {given['min_coverage']}")
    if given.get("seed", 0) >= 2**32:
        raise InputError(f"'seed' must be less than 2**32, not {given['seed']}")


def _check_column(key: str, name: str | None, columns: Sequence[str]) -> None:
    if name is not None and name not in columns:
        raise UnknownNameError(unknown(f"column in '{key}'", name, columns))


def _inputs_column(
    given: Mapping[str, Any], columns: Sequence[str], text_columns: Sequence[str], targets: str | None
) -> str:
    """The column of inputs: as named, else a usual name, else the only text column left."""
    name = given.get("inputs")
    if name is not None:
        _check_column("inputs", name, columns)
        return str(name)
    for usual in USUAL:
        if usual in columns:
            return usual
    taken = ("rationale", "contrast_target", "contrast_source")
    free = [c for c in text_columns if c not in (*(given.get(k) for k in taken), *taken[1:], targets)]
    if len(free) == 1:
        return free[0]
    usual = " or ".join(f"'{name}'" for name in USUAL)
    raise InputError(
        f"name the column of input texts in 'inputs': there is no column {usual} and {len(free)} text columns "
        f"could be it. Columns: {', '.join(map(str, columns))}"
    )


def _check_device(given: Mapping[str, Any]) -> None:
    device = given.get("device", "auto")
    places = given.get("device_map"), given.get("max_memory")
    if device == "auto" and places == (None, None):
        return
    from attriflow.kernels import devices
    from attriflow.models.laying import check_map

    try:
        if device != "auto":
            devices.named(device)
    except InputError as error:
        raise InputError(f"'device': {error}") from None
    check_map(*places, device)


def _check_places(given: Mapping[str, Any]) -> None:
    engine = given.get("engine", "local")
    check_engine(engine, given.get("workers"), given.get("ray_address"))
    if engine != "local" and given.get("multiverse"):
        raise InputError(f"'multiverse' looks at all examples at once: it has no use for engine '{engine}'")


def _check_generation(arguments: Mapping[str, Any], targets: str | None) -> None:
    if not arguments:
        return
    if targets is not None:
        raise InputError("'generation_args' has no effect when targets are given; remove one of the two")
    import inspect

    from transformers import GenerationConfig, GenerationMixin

    allowed = set(GenerationConfig().to_dict()) | set(inspect.signature(GenerationMixin.generate).parameters)
    check_keywords("'generation_args'", arguments, sorted(allowed - {"self", "kwargs", "inputs"}))
