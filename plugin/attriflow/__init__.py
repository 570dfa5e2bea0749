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

_HOMES = {
    "AttriflowError": "attriflow.errors",
    "Attribution": "attriflow.types",
    "AttributionModel": "attriflow.model",
    "AttributionOutput": "attriflow.output",
    "Forward": "attriflow.types",
    "load": "attriflow.output",
    "load_model": "attriflow.model",
    "log_model": "attriflow.tracking.log_model",
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


def register_step_function(fn: Any, identifier: str, overwrite: bool = False, **meta: Any) -> None:
    """Register a function `(Forward, *, option=...) -> [batch, step]` under a name."""
    from attriflow.registry import step_functions

    step_functions.register(identifier, overwrite=overwrite, stepwise=meta.pop("stepwise", False), **meta)(fn)
