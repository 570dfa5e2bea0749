"""Aggregation functions by name or as callables, applied to one axis and to what is visible."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from attriflow.errors import InputError, UnknownNameError, unknown
from attriflow.registry import aggregation_functions

Function = str | Callable[..., Any]
"""Name of a registered aggregation function, or a callable `(values [..., n], dim=-1) -> [...]` (`dim` optional)."""

Span = tuple[int, int]
"""Positions `[start, end)`."""


def check_function(function: object) -> None:
    """Raise `UnknownNameError` for what is neither callable nor the name of an aggregation function."""
    if not callable(function) and function not in aggregation_functions:
        raise UnknownNameError(unknown("aggregation function", function, aggregation_functions.names()))


def reduce(function: Function, values: Tensor, **options: Any) -> Tensor:
    """Reduce the last axis of `[..., n]` values.

    Args:
        function: See `Function`.
        values: Scores.
        **options: Options of a registered function.

    Raises:
        InputError: A callable that does not return one number in place of the last axis.
    """
    call = aggregation_functions.build(function, **options) if isinstance(function, str) else function
    out = call(values, dim=-1) if _takes_dim(call) else call(values)
    if not isinstance(out, Tensor):
        out = getattr(out, "values", out)  # torch.max, torch.median and their like return positions as well
    if not isinstance(out, Tensor) or out.shape != values.shape[:-1]:
        found = f"shape {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
        name = function if isinstance(function, str) else getattr(function, "__name__", type(function).__name__)
        raise InputError(
            f"aggregation function '{name}' must reduce the last axis of {tuple(values.shape)}, but returned {found}"
        )
    return out


def _takes_dim(call: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(call).parameters
    except (TypeError, ValueError):
        return True  # torch's own functions do not say, and take it
    return "dim" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def reduce_visible(function: Function, values: Tensor) -> Tensor:
    """Reduce the last axis over what is not NaN; NaN only where everything is."""
    visible = ~values.isnan()
    if bool(visible.all()):
        return reduce(function, values)
    flat, seen = (t.reshape(-1, t.shape[-1]) for t in (values, visible))
    out = flat.new_full(flat.shape[:1], torch.nan)
    whole, some = seen.all(-1), seen.any(-1)
    if bool(whole.any()):
        out[whole] = reduce(function, flat[whole])
    rest = (some & ~whole).nonzero().flatten()  # few, and of few patterns: causality hides later tokens first
    patterns, kind = seen[rest].unique(dim=0, return_inverse=True)
    for i, pattern in enumerate(patterns):
        rows = rest[kind == i]
        out[rows] = reduce(function, flat[rows][:, pattern])
    return out.view(values.shape[:-1])


def reduce_spans(function: Function, values: Tensor, spans: Sequence[Span], axis: int) -> Tensor:
    """Put one entry in the place of each span of an axis; the spans cover the axis in order."""
    if all(end - start == 1 for start, end in spans):
        return values
    moved = values.movedim(axis, -1)
    parts = [
        moved[..., start] if end - start == 1 else reduce_visible(function, moved[..., start:end])
        for start, end in spans
    ]
    return torch.stack(parts, -1).movedim(-1, axis)
