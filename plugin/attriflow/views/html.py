"""Attributions as one self-contained HTML page: coloured text, heat maps, step scores, methods side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from attriflow.errors import check_choice
from attriflow.io import check_outputs, write_content
from attriflow.types import Attribution
from attriflow.views import slices
from attriflow.views.colors import Scale, check_limits
from attriflow.views.common import Wraps, explained, printable
from attriflow.views.comparisons import compare
from attriflow.views.page import framed, render
from attriflow.views.payload import payload
from attriflow.views.slices import Slices, as_list

Mode = Literal["text", "heatmap", "steps"]
MODES = ("text", "heatmap", "steps")
MAX_BYTES = 6_000_000
"""Bytes for the scores of a page, unless told."""
_NOTEBOOK_BYTES = 2_000_000  # every cell's output is kept in the notebook


def to_html(
    attributions: Attribution | Iterable[Attribution],
    path: str | Path | None = None,
    *,
    title: str | None = None,
    mode: Mode = "text",
    min_val: float | None = None,
    max_val: float | None = None,
    slice_dims: Slices | None = None,
    step_score: str | None = None,
    wrap_after: Wraps | None = None,
    max_bytes: int = MAX_BYTES,
    overwrite: bool = False,
) -> str:
    """Make a page that needs nothing but itself.

    Attributions of the same text (several methods, or one with several settings) stand side by side; other texts can be
    chosen. Point at a generated token, or move to it with the keyboard, and its evidence lights up. Attributions with
    layers and heads get sliders.

    Args:
        attributions: One attribution or several.
        path: Where to write the page (UTF-8).
        title: Title; method, function and model by default.
        mode: What is shown first: "text", "heatmap" or "steps" (step scores).
        min_val, max_val: Scores of the strongest colours, for all attributions; by default the largest of each token
            (text) or of each attribution (heat map).
        slice_dims: Ranges of the extra axes, such as `{"layer": (0, 4)}`.
        step_score: The step score that is written below the generated tokens.
        wrap_after: Break the lines of texts after so many tokens, or after these tokens.
        max_bytes: About the size that scores may take. Beyond it they get fewer digits, then layers and heads are
            averaged, then examples and steps left out; the page says so.
        overwrite: Replace an existing file; otherwise that is an error.

    Returns:
        The page.
    """
    items = as_list(attributions)
    check_choice("mode", mode, MODES)
    check_limits(min_val, max_val)
    selected = [slices.slice_dims(item, slice_dims) for item in items]
    known = list(dict.fromkeys(name for item in items for name in item.step_scores))
    if step_score is not None:
        check_choice("step score", step_score, known)
    check_outputs([path], overwrite)
    examples, notes = payload(compare(items), max_bytes, slices=slice_dims, wrap_after=wrap_after)
    page = render(
        "attributions.html.j2",
        title=title or _title(items),
        facts=_facts(items) if title is None else [],
        notes=notes,
        modes=MODES,
        examples=examples,
        options={"mode": mode, "score": step_score, "scale": _scale(selected, min_val, max_val)},
    )
    if path is not None:
        write_content(page, path, overwrite=overwrite)
    return page


def to_iframe(attributions: Attribution | Iterable[Attribution], *, height: int | None = None, **options: Any) -> str:
    """The page in a frame, as notebooks and other pages show it.

    Args:
        attributions: One attribution or several.
        height: Pixels; from the length of the texts by default.
        **options: See `to_html`.
    """
    items = as_list(attributions)
    page = to_html(items, **{"max_bytes": _NOTEBOOK_BYTES, **options})
    return framed(page, height or _height(items), "Attributions")


def _title(items: Sequence[Attribution]) -> str:
    methods = list(dict.fromkeys(printable(item.provenance.method) for item in items))
    shown = ", ".join(methods[:3]) + (f" and {len(methods) - 3} more" if len(methods) > 3 else "")
    return f"Attributions by {shown}"


def _facts(items: Sequence[Attribution]) -> list[str]:
    """Attributed function, aggregators and model, where all attributions share them."""
    found = []
    for label, values in (
        ("explains", {explained(item.provenance) for item in items}),
        ("aggregated by", {", ".join(map(printable, _aggregations(item))) for item in items}),
        ("model", {printable(str(item.provenance.model)) for item in items}),
    ):
        if len(values) == 1 and values != {""}:
            found.append(f"{label} {values.pop()}")
    return found


def _aggregations(item: Attribution) -> tuple[str, ...]:
    """Those that a reader must know of: pages reduce scores to one per token in any case."""
    return tuple(name for name in item.provenance.aggregations if name != "scores")


def _scale(items: Sequence[Attribution], min_val: float | None, max_val: float | None) -> dict[str, float] | None:
    """The scale of all attributions, where one was asked for."""
    if min_val is None and max_val is None:
        return None
    scale = Scale.of(torch.cat([item.token_scores().flatten().double().cpu() for item in items]), min_val, max_val)
    return {"low": scale.low, "high": scale.high}


def _height(items: Sequence[Attribution]) -> int:
    """Enough pixels for short texts, not a whole screen for long ones."""
    tokens = max(len(item.inputs) + len(item.targets) for item in items)
    cards = 1 + (len(items) > 2)
    return min(760, 430 + 3 * tokens + 120 * cards)
