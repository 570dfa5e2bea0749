"""The examples of an evaluation as pages show them: every method's attribution and metrics, or why there are none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from attriflow.types import Attribution
from attriflow.views.common import as_float, as_text, number
from attriflow.views.comparisons import Comparison

if TYPE_CHECKING:
    import pandas as pd


def evaluated(
    rows: Sequence[Mapping[str, Any]],
    attributions: Mapping[str, Sequence[Attribution]],
    rationales: Sequence[Tensor | None] | None,
    scores: pd.DataFrame,
    step_scores: pd.DataFrame,
    max_examples: int,
) -> tuple[list[Comparison], int]:
    """The first examples, and how many there are.

    Args:
        rows: Rows of the leaderboard, in the order of the methods; methods that are not in it follow.
        attributions: Per method one attribution per example; methods that failed may be missing or short.
        rationales: Per example the evidence, bool `[step, input]`.
        scores: Tidy metric values.
        step_scores: Tidy step scores.
        max_examples: Most examples to show.
    """
    methods = [as_text(row.get("method")) for row in rows]
    methods += [name for name in attributions if name not in methods]
    reasons = {as_text(row.get("method")): as_text(row.get("reason")) for row in rows}
    total = max((len(items) for items in attributions.values()), default=0)
    shown = []
    for index in range(min(total, max(0, max_examples))):
        found = {m: attributions[m][index] for m in methods if m in attributions and index < len(attributions[m])}
        missing = {m: reasons.get(m) or "no attribution of this example" for m in methods if m not in found}
        shown.append(
            Comparison(
                name=f"Example {index}",
                attributions=found,
                rationale=rationales[index] if rationales is not None and index < len(rationales) else None,
                metrics=_means(scores, index),
                missing=missing,
                step_scores=_step_scores(step_scores, index, len(next(iter(found.values())).targets)),
            )
        )
    return shown, total


def _step_scores(table: pd.DataFrame, index: int, steps: int) -> list[tuple[str, str, list[float]]]:
    """Name, unit and one value per step of every step score of an example."""
    found: dict[str, tuple[str, str, list[float]]] = {}
    if len(table) and "example" in table:
        for row in table[table["example"] == index].to_dict("records"):
            name, unit, step = as_text(row["step_function"]), as_text(row.get("unit")), as_float(row["step"])
            values = found.setdefault(name, (name, "" if unit == name else unit, [float("nan")] * steps))[2]
            value = as_float(row["value"])
            if step is not None and 0 <= step < steps and value is not None:
                values[int(step)] = value
    return list(found.values())


def _means(scores: pd.DataFrame, index: int) -> dict[str, list[tuple[str, str]]]:
    """Method -> (metric, mean over the steps of this example)."""
    found: dict[str, dict[str, list[float]]] = {}
    if len(scores) and "example" in scores:
        for row in scores[scores["example"] == index].to_dict("records"):
            value = as_float(row["value"])
            if value is not None:
                found.setdefault(as_text(row["method"]), {}).setdefault(as_text(row["metric"]), []).append(value)
    return {
        method: [(name, number(sum(values) / len(values))) for name, values in metrics.items()]
        for method, metrics in found.items()
    }
