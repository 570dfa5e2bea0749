"""Step functions under Inseq's names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attriflow.doors import facade

if TYPE_CHECKING:
    from attriflow.inseq.attr.step_functions import STEP_SCORES_MAP as STEP_SCORES_MAP
    from attriflow.inseq.attr.step_functions import StepFunctionArgs as StepFunctionArgs
    from attriflow.inseq.attr.step_functions import list_feature_attribution_methods as list_feature_attribution_methods
    from attriflow.inseq.attr.step_functions import list_step_functions as list_step_functions
    from attriflow.inseq.attr.step_functions import register_step_function as register_step_function

_HOMES = {
    "attriflow.inseq.attr.step_functions": (
        "STEP_SCORES_MAP", "StepFunctionArgs", "list_feature_attribution_methods", "list_step_functions",
        "register_step_function",
    ),
}  # fmt: skip
__all__ = [name for names in _HOMES.values() for name in names]
__getattr__ = facade(__name__, _HOMES, ("step_functions",))
