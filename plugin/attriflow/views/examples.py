"""What the HTML page shows of single examples: coloured tokens per method, and the numbers behind them.

A page stays small because scores travel as one byte each, relative to the largest score of their step, and because
examples that would not fit are left out or cut, which the page then says.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attriflow.types import Attribution
from attriflow.views.common import as_float, as_text, number, printable, shorten, shown_inputs, token_text

if TYPE_CHECKING:
    import pandas as pd

LEVELS = 20  # steps of colour on either side of 0
_BUDGET = 210_000  # bytes for all examples
_HIDDEN = -128  # stands for "not visible to the step" among the scores, which lie in -127..127
_TEXT = 4000  # characters of an input or output text


def build_examples(
    rows: Sequence[Mapping[str, Any]],
    attributions: Mapping[str, Sequence[Attribution]],
    rationales: Sequence[Tensor | None] | None,
    scores: pd.DataFrame,
    step_scores: pd.DataFrame,
    max_examples: int,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], str]:
    """Examples for the template, their numbers for the page's script, and a note on what was left out.

    Args:
        rows: Rows of the leaderboard, in the order of the cards; methods that are not in it follow.
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
    wanted = min(total, max(0, max_examples))
    examples: list[dict[str, Any]] = []
    data: list[dict[str, Any]] = []
    left = _BUDGET
    for index in range(wanted):
        found = {m: attributions[m][index] for m in methods if m in attributions and index < len(attributions[m])}
        if not found:
            continue
        if _size(found, None, None) > left and examples:
            break
        steps, inputs = _fit(found, left)
        left -= _size(found, steps, inputs)
        rationale = rationales[index] if rationales is not None and index < len(rationales) else None
        view, numbers = _example(index, found, rationale, step_scores, steps, inputs)
        values = _means(scores, index)
        for card in view["cards"]:
            card["values"] = values.get(card["method"], [])
        view["cards"] += [
            {"method": m, "missing": reasons.get(m) or "no attribution of this example"}
            for m in methods
            if m not in found
        ]
        examples.append(view)
        data.append(numbers)
    note = f"{len(examples)} of {total} examples are shown." if len(examples) < total else ""
    if len(examples) < wanted:
        note += " Further ones were left out to keep the page small."
    return examples, data, note


def _size(found: Mapping[str, Attribution], steps: int | None, inputs: int | None) -> int:
    """Roughly the bytes that an example takes in the page."""
    size = 0
    for attribution in found.values():
        rows = min(len(attribution.targets), steps or math.inf)
        columns = min(len(attribution.inputs), inputs or math.inf)
        tokens = sum(len(token.text) for token in attribution.inputs[: int(columns)])
        size += int(columns * (24 + 1.36 * rows) + tokens + 24 * rows + 700)
    return size + 230 * max(len(a.targets) for a in found.values()) * (steps is None or steps > 0)


def _fit(found: Mapping[str, Attribution], room: int) -> tuple[int | None, int | None]:
    """How many steps and inputs of a long example are shown; None shows all."""
    if _size(found, None, None) <= room:
        return None, None
    steps, inputs = (max(len(a.targets) for a in found.values()), max(len(a.inputs) for a in found.values()))
    while _size(found, steps, inputs) + 230 * steps > room and (steps > 1 or inputs > 16):
        # Steps first: an explanation says less when its inputs are cut.
        if steps > 12 or inputs <= 16:
            steps = max(1, steps * 3 // 4)
        else:
            inputs = max(16, inputs * 3 // 4)
    return steps, inputs


def _cut(indices: Sequence[int], limit: int | None) -> list[int]:
    """Beginning and end of the inputs; the question is often at one and the newest tokens at the other."""
    if limit is None or len(indices) <= limit:
        return list(indices)
    return [*indices[: limit // 2], *indices[len(indices) - (limit - limit // 2) :]]


def _example(
    index: int,
    found: Mapping[str, Attribution],
    rationale: Tensor | None,
    step_scores: pd.DataFrame,
    steps: int | None,
    inputs: int | None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    first = next(iter(found.values()))
    targets = first.targets[:steps]
    scored = _step_scores(step_scores, index, first, len(targets))
    cards, numbers = [], []
    for method, attribution in found.items():
        card, values = _card(method, attribution, rationale, steps, inputs)
        cards.append(card)
        numbers.append(values)
    view = {
        "index": index,
        "input": shorten(first.input_text, _TEXT),
        "output": shorten(first.target_text, _TEXT),
        "steps": [token_text(token.text) for token in targets],
        "hidden_steps": len(first.targets) - len(targets),
        "step_scores": scored,
        "evidence": rationale is not None and any(card["evidence"] for card in cards),
        "cards": cards,
    }
    return view, {"cards": numbers}


def _card(
    method: str, attribution: Attribution, rationale: Tensor | None, steps: int | None, inputs: int | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tokens of one attribution, coloured for the first step, and the scores of all shown steps."""
    available = shown_inputs(attribution)
    shown = _cut(available, inputs)
    whole = attribution.token_scores()[:steps].double().cpu()
    scores = whole[:, shown]
    finite = torch.where(torch.isfinite(whole), whole.abs(), 0)
    limits = finite.amax(1) if finite.shape[1] else finite.new_zeros(len(finite))
    relative = (scores / limits.clamp_min(torch.finfo(torch.float64).tiny)[:, None]).clamp(-1, 1)
    bytes_ = torch.where(relative.isnan(), _HIDDEN, (relative * 127).round()).to(torch.int8)
    fits = rationale is not None and tuple(rationale.shape) == tuple(attribution.scores.shape[:2])
    evidence = rationale[:steps, shown].bool().cpu() if fits and rationale is not None else None
    marked = [row.nonzero().flatten().tolist() for row in evidence] if evidence is not None else []
    first: list[int] = bytes_[0].tolist() if len(bytes_) else []
    card = {
        "method": method,
        "function": attribution.provenance.attributed_fn,
        "groups": _groups(attribution, shown, first, marked[0] if marked else []),
        "hidden_inputs": len(available) - len(shown),
        "reduced": ", ".join(attribution.axes[2:]),
        "evidence": any(marked),
        "top": _top(attribution, shown, first, float(limits[0])) if first else [],
    }
    values = {
        "inputs": len(shown),
        "limits": [float(f"{limit:.4g}") for limit in limits.tolist()],
        "scores": base64.b64encode(bytes_.contiguous().numpy().tobytes()).decode(),
        "evidence": marked,
    }
    return card, values


def _groups(
    attribution: Attribution, shown: Sequence[int], first: Sequence[int], marked: Sequence[int]
) -> list[dict[str, Any]]:
    """Runs of tokens of one segment."""
    groups: list[dict[str, Any]] = []
    for place, index in enumerate(shown):
        token = attribution.inputs[index]
        if not groups or groups[-1]["segment"] != token.segment:
            groups.append({"segment": token.segment, "tokens": []})
        gap = place > 0 and index != shown[place - 1] + 1
        css = level(first[place] if place < len(first) else 0) + (" r" if place in marked else "")
        groups[-1]["tokens"].append({"text": token_text(token.text), "css": css, "gap": gap})
    return groups


def level(value: int) -> str:
    """CSS class of a score in -127..127: sign and strength; `x` when it is not visible to the step."""
    if value == _HIDDEN:
        return "x"
    strength = round(abs(value) / 127 * LEVELS)
    return f"{'n' if value < 0 else 'p'}{strength}"


def _top(attribution: Attribution, shown: Sequence[int], first: Sequence[int], limit: float) -> list[tuple[str, str]]:
    """The strongest inputs of the first step, with their scores."""
    places = [place for place, value in enumerate(first) if value not in (0, _HIDDEN)]
    places.sort(key=lambda place: -abs(first[place]))
    return [(token_text(attribution.inputs[shown[p]].text), _digits(limit, first[p])) for p in places[:3]]


def _digits(limit: float, value: int) -> str:
    """A score with no more digits than one byte carries, as the page's script writes it."""
    score = limit * value / 127
    if not score:
        return "0"
    if 1e-3 <= limit < 1e5:
        shown = f"{score:.{max(0, 1 - math.floor(math.log10(limit)))}f}"
    else:
        mantissa, exponent = f"{score:.1e}".split("e")
        shown = f"{mantissa}e{int(exponent):+d}"
    return (shown if float(shown) else shown.replace("-", "")).replace("-", "−")


def _step_scores(table: pd.DataFrame, index: int, first: Attribution, steps: int) -> list[dict[str, Any]]:
    """Name, unit and one text per step of every step score; from the table, else from the attribution."""
    found: dict[str, dict[str, Any]] = {}
    if len(table) and "example" in table:
        for row in table[table["example"] == index].to_dict("records"):
            name = as_text(row["step_function"])
            blank = {"name": name, "unit": as_text(row.get("unit")), "values": [None] * steps}
            step = as_float(row["step"])
            if step is not None and 0 <= step < steps:
                found.setdefault(name, blank)["values"][int(step)] = as_float(row["value"])
    if not found:
        for name, values in first.step_scores.items():
            found[name] = {"name": name, "unit": "", "values": values[:steps].double().tolist()}
    for score in found.values():
        score["unit"] = "" if score["unit"] == score["name"] else printable(score["unit"])
        score["texts"] = [number(value) for value in score.pop("values")]
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
