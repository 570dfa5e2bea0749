"""What stands in somebody's run, checked before anything relies on it: a store is open to many hands and versions."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from attriflow.errors import InputError, reason_of
from attriflow.statistics.standings import COSTS

SCORES = {"example": pa.int64, "method": pa.string, "metric": pa.string, "value": pa.float64}
_DIRECTIONS = ("higher", "lower")
_TEXTS = ("method", "family", "status", "reason", "directions", "gates_failed", "same_as")


def board_rows(content: bytes | str) -> list[dict[str, Any]]:
    """The rows of a `leaderboard.json`: one mapping per method, with its name, status, rank and costs.

    Raises:
        InputError: It is no such table.
    """
    try:
        board = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"leaderboard.json is not JSON: {reason_of(error)}") from error
    columns, data = (board.get("columns"), board.get("data")) if isinstance(board, dict) else (None, None)
    if not isinstance(columns, list) or not isinstance(data, list) or not all(isinstance(c, str) for c in columns):
        raise InputError("leaderboard.json is no table with columns and data")
    if len(set(columns)) < len(columns) or not all(isinstance(r, list) and len(r) == len(columns) for r in data):
        raise InputError("the rows of leaderboard.json do not fit its columns")
    missing = [name for name in ("method", "status", "rank", *COSTS) if name not in columns]
    if missing or columns.index("rank") > columns.index(COSTS[0]):
        raise InputError(f"leaderboard.json has no columns {', '.join(missing) or 'in the order of a leaderboard'}")
    rows = [dict(zip(columns, row, strict=True)) for row in data]
    for row in rows:
        for name in _TEXTS:
            if not isinstance(row.get(name), (str, type(None))) or (name in ("method", "status") and not row[name]):
                raise InputError(f"leaderboard.json has {row[name]!r:.100} for '{name}'")
        for name in ("rank", *COSTS):
            if not _number(row[name]):
                raise InputError(f"leaderboard.json has {row[name]!r:.100} for '{name}' of {row['method']!r:.100}")
    if not rows or len({row["method"] for row in rows}) < len(rows):
        raise InputError("leaderboard.json has no methods" if not rows else "leaderboard.json names a method twice")
    directions_of(rows)
    return rows


def directions_of(rows: list[dict[str, Any]]) -> dict[str, bool]:
    """Metric -> whether higher is better, as the run noted it."""
    text = str(rows[0].get("directions") or "") if rows else ""
    pairs = [part.rpartition(": ") for part in text.split(", ") if part]
    wrong = [word for name, _, word in pairs if not name or word not in _DIRECTIONS]
    if wrong:
        raise InputError(f"leaderboard.json has {text!r:.100} for 'directions'")
    return {name: word == "higher" for name, _, word in pairs}


def score_table(table: pa.Table) -> pa.Table:
    """The columns `SCORES` of a `scores.parquet`, in their types.

    Raises:
        InputError: They are missing, or hold something else.
    """
    missing = [name for name in SCORES if name not in table.column_names]
    if missing:
        raise InputError(f"scores.parquet has no columns {', '.join(missing)}")
    try:
        found = table.select(list(SCORES)).cast(pa.schema([(name, kind()) for name, kind in SCORES.items()]))
    except (pa.ArrowException, ValueError) as error:
        raise InputError(f"scores.parquet has other values than a table of scores: {reason_of(error)}") from error
    import pyarrow.compute as pc

    least = pc.min(found["example"]).as_py()
    if found["example"].null_count or found["method"].null_count or found["metric"].null_count or (least or 0) < 0:
        raise InputError("scores.parquet has rows without an example, a method or a metric")
    return found


def method_options(methods: str, options: str) -> dict[str, str]:
    """Method -> the options that were given for it, as JSON; from the params of a run.

    Raises:
        InputError: They are something else.
    """
    names, given = _json(methods, None), _json(options, {})
    if not isinstance(names, list) or not names or not all(isinstance(n, str) and n for n in names):
        raise InputError(f"its param attriflow.methods is no list of names: {methods!r:.100}")
    if not isinstance(given, Mapping) or not all(isinstance(o, (Mapping, type(None))) for o in given.values()):
        raise InputError(f"its param attriflow.method_options is no mapping of methods to options: {options!r:.100}")
    return {name: json.dumps(given.get(name) or {}, sort_keys=True) for name in names}


def cost_rounds(text: str) -> dict[str, list[float]]:
    """Method -> forward-pass equivalents of each timed round; without what is no list of numbers."""
    found = _json(text, {})
    items = found.items() if isinstance(found, Mapping) else ()
    return {name: rounds for name, rounds in items if isinstance(rounds, list) and all(map(_positive, rounds))}


def options_of_metrics(text: str) -> dict[str, Any]:
    """Metric -> options that were given; none where the text was cut off, or is something else."""
    found = _json(text or "{}", {})
    return {k: v for k, v in found.items() if isinstance(v, Mapping)} if isinstance(found, Mapping) else {}


def _json(text: str, default: Any) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return default


def _number(value: Any) -> bool:
    """Whether it is a number or none at all; NaN is how JSON's writers say that."""
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value is None or (real and abs(value) < 1e300) or (isinstance(value, float) and math.isnan(value))


def _positive(value: Any) -> bool:
    return value is not None and _number(value) and value >= 0
