"""Why a generation model wrote what it wrote, and which explanation to believe.

Public names are resolved on first use, so that `import attriflow` loads neither torch nor transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attriflow.doors import facade
from attriflow.versions import __version__ as __version__

if TYPE_CHECKING:
    from attriflow.engine.masked import use_masked_lm as use_masked_lm
    from attriflow.engine.proxy import use_proxy as use_proxy
    from attriflow.errors import AttriflowError as AttriflowError
    from attriflow.model import AttributionModel as AttributionModel
    from attriflow.model import load_model as load_model
    from attriflow.output import AttributionOutput as AttributionOutput
    from attriflow.output import load as load
    from attriflow.output import merge_attributions as merge_attributions
    from attriflow.reasoning.attribute import attribute_reasoning as attribute_reasoning
    from attriflow.tracking.log_model import log_model as log_model
    from attriflow.types import Attribution as Attribution
    from attriflow.types import Forward as Forward
    from attriflow.views.display import show_attributions as show_attributions
    from attriflow.views.display import show_granular_attributions as show_granular_attributions
    from attriflow.views.display import show_token_attributions as show_token_attributions

_HOMES = {
    "attriflow.engine.masked": ("use_masked_lm",),
    "attriflow.engine.proxy": ("use_proxy",),
    "attriflow.errors": ("AttriflowError",),
    "attriflow.types": ("Attribution", "Forward"),
    "attriflow.model": ("AttributionModel", "load_model"),
    "attriflow.output": ("AttributionOutput", "load", "merge_attributions"),
    "attriflow.reasoning.attribute": ("attribute_reasoning",),
    "attriflow.tracking.log_model": ("log_model",),
    "attriflow.views.display": ("show_attributions", "show_granular_attributions", "show_token_attributions"),
}

__all__ = [
    "Attribution",
    "AttributionModel",
    "AttributionOutput",
    "AttriflowError",
    "Forward",
    "__version__",
    "attribute_reasoning",
    "list_aggregation_functions",
    "list_aggregators",
    "list_feature_attribution_methods",
    "list_metrics",
    "list_step_functions",
    "load",
    "load_model",
    "log_model",
    "merge_attributions",
    "register_aggregation_function",
    "register_aggregator",
    "register_method",
    "register_metric",
    "register_step_function",
    "show_attributions",
    "show_granular_attributions",
    "show_token_attributions",
    "use_masked_lm",
    "use_proxy",
]


__getattr__ = facade(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)


def list_feature_attribution_methods() -> list[str]:
    """Names of all registered attribution methods."""
    from attriflow.registry import methods

    return methods.names()


def list_step_functions() -> list[str]:
    """Names of all registered step functions."""
    from attriflow.registry import step_functions

    return step_functions.names()


def list_aggregators() -> list[str]:
    """Names of all registered aggregators."""
    from attriflow.registry import aggregators

    return aggregators.names()


def list_aggregation_functions() -> list[str]:
    """Names of all registered aggregation functions."""
    from attriflow.registry import aggregation_functions

    return aggregation_functions.names()


def list_metrics() -> list[str]:
    """Names of all registered metrics."""
    from attriflow.registry import metrics

    return metrics.names()


def register_method(fn: Any = None, identifier: str | None = None, overwrite: bool = False, **meta: Any) -> Any:
    """Register an attribution method `Engine -> Scores` under a name.

    It can then explain, be evaluated and measured like a built-in one: `attribute(..., method=...)`, the evaluator, the
    command line. Called without `fn` it is a decorator: `@register_method(identifier="my_method")`.

    Args:
        fn: A frozen dataclass with `__call__(engine)`, whose fields are its options, or a function of an engine whose
            keyword-only parameters they are. See `attriflow.engine` for `Engine` and `Scores`.
        identifier: Its name; the function's own when None.
        overwrite: Replace a method of that name.
        **meta: What is known of it, all of it optional: `family` ("gradient", "path", "perturbation", "internals",
            "control" or a word of your own), `cost` in passes ("1 forward + T products"), `axes` ("step, input"),
            `deterministic=True` where it draws no random numbers, `signed`, `complete=True` where scores sum up to the
            difference from the baseline, `interface=True` where the model must show its attention, `explains=False`
            where it is to be left out when all methods run, `runs_model=False`, `paper`; `floor`, the function
            `(problem, **options)` that counts its fewest multiply-adds (`attriflow.measuring.floors.Problem`) where
            `cost` does not tell; `demo` and `trial`, options for the demo and for tests and benchmarks.

    Returns:
        The function or class, or, when called without one, a decorator.

    Raises:
        AttriflowError: The name is taken, `meta` has a key that is not listed here, or it takes more than an engine.
    """
    from attriflow.registry import methods

    return _register(methods, fn, identifier, overwrite, meta)


def register_metric(fn: Any = None, identifier: str | None = None, overwrite: bool = False, **meta: Any) -> Any:
    """Register a metric `(attribution, rescore) -> number, or a number (or None) per step` under a name.

    Called without `fn` it is a decorator: `@register_metric(higher_is_better=True)`.

    Args:
        fn: A function whose keyword-only parameters are its options, or a frozen dataclass with `__call__`, whose
            fields they are. It is called with the attribution and `rescore` (see `attriflow.types.Rescore`), and with
            the evidence of the row, bool `[step, input]`, or the function that explains again (see
            `attriflow.types.Reexplain`) where it has parameters `rationale` or `reexplain`.
        identifier: Its name; the function's own when None.
        overwrite: Replace a metric of that name.
        **meta: What is known of it. `higher_is_better=True` or `False` must be said: it decides who wins. Optional:
            `family` ("faithfulness", "plausibility", "robustness", "sanity" or a word of your own), `range`, the pair
            (lowest, highest) with None where there is no end, `needs` (of "rescore", "rationale" and "reexplain"; read
            off the signature when it is not said), `cost`, `source`, `default=True` where evaluations that name no
            metrics shall run it, `shared=True` where its `plan` is the same for every explanation, `from_data`, a
            dictionary option -> "rationale_size" for options that follow the data, `requires` and `extra`, packages
            that it imports and the extra that brings them.

    Returns:
        The function or class, or, when called without one, a decorator.

    Raises:
        AttriflowError: The name is taken, `higher_is_better` is missing, `meta` has a key that is not listed here, or
            the metric has a parameter that nobody fills in.
    """
    from attriflow.registry import metrics

    return _register(metrics, fn, identifier, overwrite, meta)


def register_step_function(
    fn: Any = None,
    identifier: str | None = None,
    overwrite: bool = False,
    aggregate_map: Any = None,
    **meta: Any,
) -> Any:
    """Register a function `(Forward, *, option=...) -> [batch, step]` under a name.

    It can then be explained (`attributed_fn`), recorded (`step_scores`) and evaluated like a built-in one. Called
    without `fn` it is a decorator: `@register_step_function(identifier="my_score", unit="nats")`.

    Args:
        fn: The function; its keyword-only parameters are its options.
        identifier: Its name; the function's own when None.
        overwrite: Replace a function of that name.
        aggregate_map: How values of merged tokens combine: aggregator name ("spans", "subwords", ...) -> function of
            `[..., token]` values, or the name of one; others use `span`.
        **meta: What is known of it: `unit`, `span` ("mean", "sum", "prod", ...), `higher` (what a high value means),
            `stepwise=True` where a step's value depends on that step's logits only (gradients are then cheaper),
            `contrast="tokens"` or `"inputs"` where it needs a foil, `passes=True` where it runs the model again,
            `differentiable=False`, `paper`.

    Returns:
        The function, or the decorator.

    Raises:
        AttriflowError: The name is taken, or `aggregate_map` names something that does not exist.
    """
    from attriflow.registry import aggregation_functions, aggregators, step_functions

    for aggregator, function in dict(aggregate_map or {}).items():
        aggregators.info(aggregator)
        if not callable(function):
            aggregation_functions.info(function)
    if fn is None:
        return lambda function: register_step_function(function, identifier, overwrite, aggregate_map, **meta)
    known = {"stepwise": False, **meta, **({} if aggregate_map is None else {"aggregate_map": dict(aggregate_map)})}
    return step_functions.register(identifier or fn.__name__, overwrite=overwrite, **known)(fn)


def register_aggregator(fn: Any = None, identifier: str | None = None, overwrite: bool = False, **meta: Any) -> Any:
    """Register an aggregator `Attribution -> Attribution` under a name, for `aggregate`.

    Args:
        fn: A function whose keyword-only parameters are its options, or a frozen dataclass with `__call__`, whose
            fields they are. It must not change the attribution it is given (`attribution.replace(...)` makes a copy).
        identifier: Its name; the function's own when None.
        overwrite: Replace an aggregator of that name.
        **meta: Whatever else is known of it.

    Returns:
        The function, or, when called without one, a decorator.
    """
    from attriflow.registry import aggregators

    return _register(aggregators, fn, identifier, overwrite, meta)


def register_aggregation_function(
    fn: Any = None, identifier: str | None = None, overwrite: bool = False, **meta: Any
) -> Any:
    """Register a function `(values [..., n], dim) -> [...]` under a name, for the axes of scores and for spans.

    Args:
        fn: The function; it may leave out `dim` and reduce the last axis. It never gets a NaN from a span: what a step
            does not see is left out beforehand.
        identifier: Its name; the function's own when None.
        overwrite: Replace a function of that name.
        **meta: Whatever else is known of it.

    Returns:
        The function, or, when called without one, a decorator.
    """
    from attriflow.registry import aggregation_functions

    return _register(aggregation_functions, fn, identifier, overwrite, meta)


def _register(registry: Any, fn: Any, identifier: str | None, overwrite: bool, meta: dict[str, Any]) -> Any:
    if fn is None:
        return lambda part: _register(registry, part, identifier, overwrite, meta)
    return registry.register(identifier or fn.__name__, overwrite=overwrite, **meta)(fn)
