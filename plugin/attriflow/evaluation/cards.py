"""One card per method and run: what was run, how, what it cost, what it passed, and what it cannot show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attriflow.evaluation.results import MethodResult
from attriflow.evaluation.selection import part_of
from attriflow.registry import PartInfo, methods

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from attriflow.evaluation.runner import Evaluation

Card = dict[str, Any]


def method_cards(evaluation: Evaluation, leaderboard: pd.DataFrame, gates: pd.DataFrame) -> list[Card]:
    """The cards, in the order of the leaderboard, of values that JSON has.

    Keys: `method` (the row), `part` (the method), `family`, `definition`, `source`, `objective`, `options`,
    `baselines` (`id`, `text`, and `norm_percentile`: the share of the vocabulary with a shorter embedding, 0 to 100),
    `baseline_name`, `reduction`, `samples` (options that count something), `residual` (medians: `completeness_error`
    over examples, and what the method itself says), `cost` (as declared, passes per example, seconds), `status`,
    `reason`, `rank`, `gates`, `blind_spots`. What does not apply is None or empty.
    """
    tested: list[dict[Any, Any]] = gates.to_dict("records")
    rows: dict[str, dict[Any, Any]] = {row["method"]: row for row in leaderboard.to_dict("records")}
    results = {r.name: r for r in evaluation.results}
    shorter = _Percentiles(evaluation.model)
    objective = evaluation.config.as_dict()["attributed_fn"]
    arguments = _plain(evaluation.config.attributed_fn_args)
    return [
        _card(results[name], row, [g for g in tested if g["method"] == name], shorter)
        | {"objective": {"step_function": objective, "options": arguments}}
        for name, row in rows.items()
        if name in results
    ]


def _card(
    result: MethodResult, row: Mapping[str, Any], gates: Sequence[Mapping[str, Any]], shorter: _Percentiles
) -> Card:
    part, facts = methods.info(part_of(result.name)), result.facts
    options = {name: _plain(value) for name, value in {**part.options, **result.options}.items()}
    found = {
        "forward_passes": _number(facts.get("forward_passes")),
        "backward_passes": _number(facts.get("backward_passes")),
        "seconds": None if result.cost is None else result.cost.seconds,
    }
    completeness = next((g["value"] for g in gates if g["gate"] == "completeness"), None)
    return {
        "method": result.name,
        "part": part.name,
        "family": part.meta["family"],
        "definition": part.summary,
        "source": part.meta["paper"],
        "options": options,
        "baseline_name": options.get("baseline"),
        "baselines": [
            {"id": i, "text": text, "norm_percentile": shorter(i)} for i, text in facts.get("baselines", {}).items()
        ],
        "reduction": _reduction(part, options),
        "samples": {name: v for name, v in options.items() if name.startswith(("n_", "num_")) and v is not None}
        | ({"n_steps_used": facts["n_steps"]} if "n_steps" in facts else {}),
        "residual": {"completeness_error": _number(completeness), "own": _number(facts.get("residual"))},
        "promises_to_add_up": bool(part.meta["complete"]),
        "cost": {"declared": part.meta["cost"], **found},
        "status": row["status"],
        "reason": row["reason"],
        "same_as": result.same_as,
        "rank": _number(row["rank"]),
        "gates": [
            {
                "gate": g["gate"],
                "passed": g["passed"],
                "value": _number(g["value"]),
                "limit": _number(g["limit"]),
                "p_holm": _number(g["p_holm"]),
                "n": int(g["n"]),
                "why": g["why"],
            }
            for g in gates
        ],
        "blind_spots": part.meta["blind"],
    }


class _Percentiles:
    """How long the embedding of a token is among those of the vocabulary."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._norms: Tensor | None = None

    def __call__(self, token: int) -> float:
        """Share of the vocabulary with a shorter embedding, in percent."""
        if self._norms is None:
            wrapped = self.model.wrapped
            self._norms = wrapped.embedding_table(wrapped.sides[0]).detach().float().norm(dim=-1)
        return round(100 * float((self._norms < self._norms[token]).float().mean()), 1)


def _reduction(part: PartInfo, options: Mapping[str, Any]) -> str:
    """How many numbers per token become one."""
    if "reduction" in options:
        return f"{options['reduction']} over dimensions"
    axes = part.meta["axes"].replace("(embedding)", "").removeprefix("step, input").strip(", ")
    return f"mean over {axes.replace(', ', ' and ')}" if axes else "one number per token"


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _number(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
