"""Costs from files of pytest-benchmark (and of `attriflow benchmark`): forward-pass equivalents or counts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attriflow.datasets.limits import whole_json
from attriflow.errors import InputError

UNITS = ("forward_pass_equivalents", "forward_equivalents", "count")
"""Names of the unit in `extra_info`; with `_rounds` behind them, a list with one number per round."""
MACHINE = ("device", "device_name", "dtype", "threads", "torch", "transformers")


@dataclass(frozen=True, kw_only=True)
class Benchmarks:
    """A file.

    Attributes:
        costs: Benchmark -> forward-pass equivalents of each round, or of all as one number; or what was counted.
        machine: What is known about where it ran.
        unit: Of the costs, in words.
        unmeasured: Benchmarks without that unit.
    """

    path: str
    costs: Mapping[str, tuple[float, ...]]
    machine: Mapping[str, str]
    unit: str = "forward-pass equivalents"
    unmeasured: tuple[str, ...] = ()


def read_benchmarks(path: str | Path) -> Benchmarks:
    """Read a file.

    Raises:
        InputError: It is not there, or not such a file, or no benchmark in it has the unit.
    """
    try:
        content = json.loads(whole_json(Path(path)))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    entries = content.get("benchmarks") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(e, dict) and "name" in e for e in entries):
        raise InputError(f"{path} is no file of pytest-benchmark: it has no list 'benchmarks'")
    names = [str(e["name"]) for e in entries]
    costs, unmeasured = dict[str, tuple[float, ...]](), list[str]()
    for entry, name in zip(entries, names, strict=True):
        key = name if names.count(name) == 1 else str(entry.get("fullname") or name)
        found = _rounds(_mapping(entry.get("extra_info")))
        if found:
            costs[key] = found
        else:
            unmeasured.append(key)
    if not costs:
        raise InputError(f"no benchmark in {path} has '{UNITS[0]}' or '{UNITS[1]}' (or '{UNITS[2]}') in its extra_info")
    info = _mapping(content.get("machine_info"))
    first = next((_mapping(e.get("extra_info")) for e in entries), {})
    machine = {k: str(v) for k in MACHINE if (v := info.get(k, first.get(k))) is not None}
    counted = all("count" in _mapping(e.get("extra_info")) for e in entries)
    unit = {"unit": "counted"} if counted else {}
    return Benchmarks(path=str(path), costs=costs, machine=machine, unmeasured=tuple(unmeasured), **unit)


def _mapping(value: Any) -> Mapping[str, Any]:
    """What a file has there, if it is what belongs there."""
    return value if isinstance(value, Mapping) else {}


def _rounds(extra: Mapping[str, Any]) -> tuple[float, ...]:
    for unit in UNITS:
        for values in (extra.get(f"{unit}_rounds"), [extra.get(unit)]):
            if isinstance(values, list) and values and all(_cost(v) for v in values):
                return tuple(float(v) for v in values)
    return ()


def _cost(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
