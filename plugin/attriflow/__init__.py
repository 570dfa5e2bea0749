"""Why a generation model wrote what it wrote, and which explanation to believe.

Public names are resolved on first use, so that `import attriflow` loads neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from attriflow.errors import AttriflowError as AttriflowError
    from attriflow.model import AttributionModel as AttributionModel
    from attriflow.model import load_model as load_model
    from attriflow.output import AttributionOutput as AttributionOutput
    from attriflow.output import load as load
    from attriflow.tracking.log_model import log_model as log_model
    from attriflow.types import Attribution as Attribution
    from attriflow.types import Forward as Forward
    from attriflow.views.display import show_attributions as show_attributions
    from attriflow.views.display import show_granular_attributions as show_granular_attributions
    from attriflow.views.display import show_token_attributions as show_token_attributions

_HOMES = {
    "AttriflowError": "attriflow.errors",
    "Attribution": "attriflow.types",
    "AttributionModel": "attriflow.model",
    "AttributionOutput": "attriflow.output",
    "Forward": "attriflow.types",
    "load": "attriflow.output",
    "load_model": "attriflow.model",
    "log_model": "attriflow.tracking.log_model",
    "show_attributions": "attriflow.views.display",
    "show_granular_attributions": "attriflow.views.display",
    "show_token_attributions": "attriflow.views.display",
}

__all__ = [
    "Attribution",
    "AttributionModel",
    "AttributionOutput",
    "AttriflowError",
    "Forward",
    "__version__",
    "list_aggregators",
    "list_feature_attribution_methods",
    "list_metrics",
    "list_step_functions",
    "load",
    "load_model",
    "log_model",
    "register_step_function",
    "show_attributions",
    "show_granular_attributions",
    "show_token_attributions",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'attriflow' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


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


def list_metrics() -> list[str]:
    """Names of all registered metrics."""
    from attriflow.registry import metrics

    return metrics.names()


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
    """
    from attriflow.registry import step_functions

    if fn is None:
        return lambda function: register_step_function(function, identifier, overwrite, aggregate_map, **meta)
    known = {"stepwise": False, **meta, **({} if aggregate_map is None else {"aggregate_map": dict(aggregate_map)})}
    return step_functions.register(identifier or fn.__name__, overwrite=overwrite, **known)(fn)
