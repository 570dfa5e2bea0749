"""Inseq's names over attriflow: `import attriflow.inseq as inseq` in place of `import inseq`.

Names, arguments and the layout of results are Inseq's (0.7); everything is computed by attriflow. Where numbers differ
and why: the page "Moving from Inseq". Names are resolved on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attriflow.doors import facade
from attriflow.versions import __version__ as __version__

if TYPE_CHECKING:
    from attriflow.inseq.attr.step_functions import explain as explain
    from attriflow.inseq.attr.step_functions import list_aggregation_functions as list_aggregation_functions
    from attriflow.inseq.attr.step_functions import list_aggregators as list_aggregators
    from attriflow.inseq.attr.step_functions import list_feature_attribution_methods as list_feature_attribution_methods
    from attriflow.inseq.attr.step_functions import list_step_functions as list_step_functions
    from attriflow.inseq.attr.step_functions import register_step_function as register_step_function
    from attriflow.inseq.data.attribution import FeatureAttributionOutput as FeatureAttributionOutput
    from attriflow.inseq.data.attribution import merge_attributions as merge_attributions
    from attriflow.inseq.data.viz import show_attributions as show_attributions
    from attriflow.inseq.data.viz import show_granular_attributions as show_granular_attributions
    from attriflow.inseq.data.viz import show_token_attributions as show_token_attributions
    from attriflow.inseq.models import AttributionModel as AttributionModel
    from attriflow.inseq.models import list_supported_frameworks as list_supported_frameworks
    from attriflow.inseq.models import load_model as load_model
    from attriflow.inseq.models import register_model_config as register_model_config

_HOMES = {
    "attriflow.inseq.attr.step_functions": (
        "explain", "list_aggregation_functions", "list_aggregators", "list_feature_attribution_methods",
        "list_step_functions", "register_step_function",
    ),
    "attriflow.inseq.data.attribution": ("FeatureAttributionOutput", "merge_attributions"),
    "attriflow.inseq.data.viz": ("show_attributions", "show_granular_attributions", "show_token_attributions"),
    "attriflow.inseq.models": ("AttributionModel", "list_supported_frameworks", "load_model", "register_model_config"),
}  # fmt: skip
_ROOMS = ("attr", "commands", "data", "models", "utils")
__all__ = [name for names in _HOMES.values() for name in names]
__getattr__ = facade(__name__, _HOMES, _ROOMS)


def __dir__() -> list[str]:
    return sorted([*__all__, *_ROOMS])
