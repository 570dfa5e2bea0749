"""Inseq's views, by attriflow's."""

from __future__ import annotations

from typing import Any

from attriflow.output import AttributionOutput

_VIEW = (
    "min_val", "max_val", "max_show_size", "show_dim", "slice_dims", "display", "return_html", "replace_char",
    "wrap_after", "step_score_highlight",
)  # fmt: skip


def show_attributions(attributions: Any, aggregator: Any = None, do_aggregation: bool = False, **options: Any) -> Any:
    """Show aggregated attributions."""
    return _shown("show", attributions, aggregator, do_aggregation, options)


def show_granular_attributions(attributions: Any, **options: Any) -> Any:
    """Show layers, heads or dimensions one by one."""
    return _shown("show_granular", attributions, None, False, options)


def show_token_attributions(
    attributions: Any, aggregator: Any = None, do_aggregation: bool = False, **options: Any
) -> Any:
    """Show texts coloured for each generated token."""
    return _shown("show_tokens", attributions, aggregator, do_aggregation, options)


def _shown(view: str, given: Any, aggregator: Any, do_aggregation: bool, options: dict[str, Any]) -> Any:
    """A view of attriflow; `return_figure` returns the page as something that notebooks show."""
    figure = options.pop("return_figure", False)
    shown = {k: v for k, v in options.items() if k in _VIEW and v is not None}
    rest = {k: v for k, v in options.items() if k not in _VIEW}
    sequences = [given] if hasattr(given, "to_attribution") else list(given)
    if do_aggregation:
        sequences = [s.aggregate(aggregator, **rest) for s in sequences]
    out = AttributionOutput(s.to_attribution() for s in sequences)
    if figure:
        return [AttributionOutput([a]) for a in out]
    return getattr(out, view)(**shown)
