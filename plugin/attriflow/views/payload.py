"""What pages know of attributions: tokens, scores and step scores as JSON, within a budget of bytes.

A page that would grow too large gets fewer digits, then layers whose heads are averaged, then no layers, and in the end
fewer examples and steps. It says so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from attriflow.types import Attribution
from attriflow.views.common import (
    Wraps,
    as_float,
    breaks,
    explained,
    foil_text,
    foils,
    printable,
    shorten,
    shown_inputs,
    steps_are,
    token_text,
)
from attriflow.views.comparisons import Comparison
from attriflow.views.encoding import Kind, encode, size
from attriflow.views.slices import Slices, ranges, slice_dims

Bounds = Mapping[str, tuple[int, int]]
"""Axis -> the range `[start, stop)` of it that is shown."""

EXACT = 400_000  # bytes up to which scores are written with all their digits
_TEXT = 4000  # characters of an input or output text


@dataclass(frozen=True)
class Plan:
    """How scores are written: the reduced ones, and those of single layers and heads (`axes` of them are kept)."""

    matrix: Kind
    slices: Kind = "i1"
    axes: int = 0


_PLANS = (Plan("f4", "f4", 9), Plan("f2", "f2", 9), Plan("f2", "i1", 9), Plan("f2", "i1", 1), Plan("f2"), Plan("i1"))


def payload(
    comparisons: Sequence[Comparison], budget: int, *, slices: Slices | None = None, wrap_after: Wraps | None = None
) -> tuple[list[dict[str, Any]], list[str]]:
    """The comparisons as JSON, and notes on what was left out.

    Args:
        comparisons: What the page shows.
        budget: Bytes for all of it.
        slices: Ranges of the extra axes (see `Slices`).
        wrap_after: Where the lines of texts are broken (see `breaks`).
    """
    whole, comparisons = comparisons, [_selected(comparison, slices) for comparison in comparisons]
    plan = next((p for p in _PLANS if _total(comparisons, p) <= (EXACT if p.matrix == "f4" else budget)), _PLANS[-1])
    notes: list[str] = []
    out: list[dict[str, Any]] = []
    left = budget
    for comparison, original in zip(comparisons, whole, strict=True):
        cost = _cost(comparison, plan)
        if cost > left and out:
            break
        bounds = {label: ranges(a, slices) for label, a in original.attributions.items()}
        out.append(_example(comparison, bounds, plan, _fitting_steps(comparison, plan, left), wrap_after))
        left -= cost
    if len(out) < len(comparisons):
        notes.append(f"{len(out)} of {len(comparisons)} examples are shown; more would make the page too large.")
    extra = any(len(_sliders(a)) > plan.axes for c in comparisons for a in c.attributions.values())
    if extra:
        kept = "Layers are shown with their heads averaged" if plan.axes else "Layers and heads are shown averaged"
        notes.append(
            f"{kept}: all of them would make the page too large. Select some (slice_dims) to see them one by one."
        )
    if plan.matrix == "i1":
        notes.append("Scores are shown with two digits, since exact ones would make the page too large.")
    return out, notes


def _selected(comparison: Comparison, slices: Slices | None) -> Comparison:
    """The comparison with ranges of the extra axes."""
    chosen = {label: slice_dims(attribution, slices) for label, attribution in comparison.attributions.items()}
    return replace(comparison, attributions=chosen)


# -- how large it gets ------------------------------------------------------------------------------------------------


def _total(comparisons: Sequence[Comparison], plan: Plan) -> int:
    return sum(_cost(comparison, plan) for comparison in comparisons)


def _cost(comparison: Comparison, plan: Plan, steps: int | None = None) -> int:
    """Roughly the bytes that a comparison takes."""
    total, texts = 0, 0
    for a in comparison.attributions.values():
        rows = len(a.targets) if steps is None else min(steps, len(a.targets))
        shape = [a.scores.shape[a.axes.index(axis)] for axis in _sliders(a)[: plan.axes]]
        cells = rows * len(a.inputs)
        total += size(cells, plan.matrix) + (size(cells * math.prod(shape), plan.slices) if shape else 0) + 700
        texts = max(texts, sum(len(json.dumps(t.text)) + 2 for t in a.inputs) + 24 * rows)
    return total + texts + 2 * min(_TEXT, len(comparison.first.input_text))


def _fitting_steps(comparison: Comparison, plan: Plan, room: int) -> int | None:
    """How many steps of a long text are shown; None shows all."""
    steps = len(comparison.first.targets)
    if _cost(comparison, plan) <= room:
        return None
    while steps > 1 and _cost(comparison, plan, steps) > room:
        steps = max(1, steps * 9 // 10)
    return steps


def _sliders(attribution: Attribution) -> list[str]:
    """Extra axes that can be looked into; embedding dimensions say nothing one by one."""
    sizes = dict(zip(attribution.axes, attribution.scores.shape, strict=True))
    return [axis for axis in attribution.axes[2:] if axis != "embedding" and sizes[axis] > 1]


# -- what it holds ----------------------------------------------------------------------------------------------------


def _example(
    comparison: Comparison, bounds: Mapping[str, Bounds], plan: Plan, steps: int | None, wrap_after: Wraps | None
) -> dict[str, Any]:
    first = comparison.first
    targets = first.targets[:steps]
    lists: dict[Any, int] = {}
    tokens: list[dict[str, Any]] = []
    views = []
    for label, attribution in comparison.attributions.items():
        shown = shown_inputs(attribution)
        listed = _tokens(attribution, shown, wrap_after)
        key = json.dumps(listed)
        if key not in lists:
            lists[key] = len(tokens)
            tokens.append(listed)
        part = attribution if steps is None else _first_steps(attribution, steps)
        view = _view(label, part, shown, plan, bounds[label])
        view["tokens"] = lists[key]
        view["evidence"] = _evidence(attribution, comparison.rationale, shown, len(targets))
        view["metrics"] = [list(pair) for pair in comparison.metrics.get(label, ())]
        views.append(view)
    return {
        "name": comparison.name,
        "input": shorten(printable(first.input_text), _TEXT),
        "output": shorten(printable(_output(first)), _TEXT),
        "foil": shorten(foil_text(first), _TEXT),
        "foils": foils(first)[: len(targets)],
        "steps": [token_text(token.text) for token in targets],
        "stepsAre": steps_are(first).capitalize(),
        "hidden": len(first.targets) - len(targets),
        "scores": _step_scores(comparison, len(targets)),
        "tokens": tokens,
        "views": views,
        "missing": [[printable(label), printable(why)] for label, why in comparison.missing.items()],
    }


def _output(attribution: Attribution) -> str:
    """What was generated, without the prompt that decoder-only models repeat."""
    text, prompt = attribution.target_text, attribution.input_text
    return text[len(prompt) :].strip() or text if prompt and text.startswith(prompt) else text


def _first_steps(attribution: Attribution, steps: int) -> Attribution:
    return attribution.replace(
        scores=attribution.scores[:steps],
        targets=attribution.targets[:steps],
        norms=None,
        step_scores={name: values[:steps] for name, values in attribution.step_scores.items()},
        spans=None if attribution.spans is None else attribution.spans[:steps],
    )


def _tokens(attribution: Attribution, shown: Sequence[int], wrap_after: Wraps | None) -> dict[str, Any]:
    """Texts, runs of one segment as [name, first place], places of special tokens and of line ends."""
    tokens = [attribution.inputs[i] for i in shown]
    runs: list[list[Any]] = []
    for place, token in enumerate(tokens):
        if not runs or runs[-1][0] != token.segment:
            runs.append([token.segment, place])
    return {
        "texts": [token_text(token.text) for token in tokens],
        "segments": runs,
        "special": [place for place, token in enumerate(tokens) if token.special],
        "breaks": sorted(breaks([token.text for token in tokens], wrap_after)),
    }


def _view(label: str, attribution: Attribution, shown: Sequence[int], plan: Plan, bounds: Bounds) -> dict[str, Any]:
    matrix = attribution.token_scores()[:, shown]
    sliders = _sliders(attribution)[: plan.axes]
    how = attribution.provenance
    return {
        "label": label,
        "function": explained(how),
        "reduced": [_what(axis, bounds[axis]) for axis in attribution.axes[2:] if axis not in sliders],
        "matrix": encode(matrix, plan.matrix),
        "axes": [
            {"name": printable(axis), "start": bounds[axis][0], "size": bounds[axis][1] - bounds[axis][0]}
            for axis in sliders
        ],
        "slices": encode(_sliced(attribution, sliders)[..., shown], plan.slices) if sliders else None,
    }


def _what(axis: str, bounds: tuple[int, int]) -> str:
    """How an axis without a slider is shown."""
    start, stop = bounds
    name = printable(axis)
    if stop - start == 1:
        return f"{name} {start}"
    return "sum over the embedding" if axis == "embedding" else f"mean of {name}s {start}–{stop - 1}"


def _sliced(attribution: Attribution, sliders: Sequence[str]) -> Tensor:
    """Scores `[*sliders, step, input]`, every other axis reduced as `token_scores` does."""
    scores, axes = attribution.scores, list(attribution.axes)
    for axis in reversed(attribution.axes[2:]):
        if axis not in sliders:
            place = axes.index(axis)
            scores = scores.sum(place) if axis == "embedding" else scores.mean(place)
            axes.remove(axis)
    return scores.permute([axes.index(axis) for axis in (*sliders, "step", "input")])


def _evidence(
    attribution: Attribution, rationale: Tensor | None, shown: Sequence[int], steps: int
) -> list[list[int]] | None:
    """Per step the places of the tokens that are evidence according to the data; None where that is not known."""
    if rationale is None or tuple(rationale.shape) != tuple(attribution.scores.shape[:2]):
        return None
    return [row.nonzero().flatten().tolist() for row in rationale[:steps, shown].bool().cpu()]


def _step_scores(comparison: Comparison, steps: int) -> list[dict[str, Any]]:
    given = list(comparison.step_scores)
    if not given:
        found: Mapping[str, Tensor] = {}
        for attribution in comparison.attributions.values():
            found = {**attribution.step_scores, **found}
        given = [(name, _unit(name), values.double().tolist()) for name, values in found.items()]
    return [
        {"name": printable(name), "unit": printable(unit), "values": [as_float(value) for value in values[:steps]]}
        for name, unit, values in given
    ]


def _unit(name: str) -> str:
    """The unit of a registered step function."""
    from attriflow.registry import step_functions

    part = step_functions.known(name)
    unit = "" if part is None else str(part.meta.get("unit", ""))
    return "" if unit == name else unit
