"""One attribution as a record: a dictionary of plain values and tensors, the same for every file format.

A record has one entry per field of `Attribution`: tokens as columns (`{"text": [...], "id": [...], ...}`), scores as
tensors, or as nested lists beside their `dtypes` once they have been through JSON. NaN is null there. A record of a
data set also has its `row`, and one of a row that failed has nothing else but the `error`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attriflow.errors import InputError
from attriflow.kernels.annotations import check_value, hints_of
from attriflow.types import Attribution, Provenance, Token

Record = dict[str, Any]

_FIELDS = tuple(sorted((f.name for f in dataclasses.fields(Attribution)), key=lambda n: not n.endswith("_text")))
_TOKEN_FIELDS = tuple(f.name for f in dataclasses.fields(Token))
_TOKENS = ("inputs", "targets")
_TENSORS = ("scores", "norms")
_TENSOR_MAPS = ("step_scores", "sequence_scores")


def to_record(attribution: Attribution) -> Record:
    """The record of an attribution; tensors are moved to the CPU."""
    record: Record = {}
    for name in _FIELDS:
        value = getattr(attribution, name)
        if name in _TOKENS:
            record[name] = {field: [getattr(t, field) for t in value] for field in _TOKEN_FIELDS}
        elif name in _TENSORS:
            record[name] = None if value is None else value.detach().cpu().contiguous()
        elif name in _TENSOR_MAPS:
            record[name] = {key: tensor.detach().cpu().contiguous() for key, tensor in value.items()}
        elif isinstance(value, Provenance):
            record[name] = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        else:
            record[name] = plain(value)
    return record


def from_record(record: Mapping[str, Any]) -> Attribution:
    """The attribution of a record; `KeyError`, `TypeError` or `ValueError` for anything else."""
    given: dict[str, Any] = {}
    hints = _hints()
    dtypes = record.get("dtypes", {})
    for name in _FIELDS:
        if name not in record:
            continue  # the field has its default, or the constructor names it
        value = record[name]
        if name in _TOKENS:
            columns = [_column(f"{name}.{field}", value[field], hints[Token][field]) for field in _TOKEN_FIELDS]
            rows = zip(*columns, strict=True)
            given[name] = tuple(Token(**dict(zip(_TOKEN_FIELDS, row, strict=True))) for row in rows)
        elif name in _TENSORS:
            given[name] = None if value is None else _tensor(value, dtypes.get(name))
        elif name in _TENSOR_MAPS:
            given[name] = {key: _tensor(v, dtypes.get(f"{name}/{key}")) for key, v in value.items()}
        elif name == "provenance":
            own = {key: check_value(f"{name}.{key}", v, hints[Provenance].get(key, Any)) for key, v in value.items()}
            given[name] = Provenance(**own)
        else:
            given[name] = check_value(name, _frozen(value), hints[Attribution][name])
    return Attribution(**given)


def _column(label: str, values: Any, hint: Any) -> list[Any]:
    """A column of tokens' fields; few of them are checked one by one."""
    if not isinstance(values, list):
        raise InputError(f"{label} must be a list, not {type(values).__name__}")
    return [v if type(v) is hint else check_value(label, v, hint) for v in values]


@functools.cache
def _hints() -> dict[type, dict[str, Any]]:
    """Types of the fields, by which a file of somebody else is checked."""
    return {kind: hints_of(kind) for kind in (Attribution, Provenance, Token)}


def _frozen(value: Any) -> Any:
    """Lists, which JSON makes of tuples, as tuples."""
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value


def tensors_of(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Names ("scores", "step_scores/entropy") and values of the tensors (or lists) that a record has."""
    for name in _TENSORS:
        if record.get(name) is not None:
            yield name, record[name]
    for name in _TENSOR_MAPS:
        for key, value in record.get(name, {}).items():
            yield f"{name}/{key}", value


def with_tensors(facts: Mapping[str, Any], tensors: Mapping[str, Any]) -> Record:
    """A record from what it says apart from tensors, and its tensors by name."""
    record: Record = {**facts, **dict.fromkeys(_TENSORS), **{name: {} for name in _TENSOR_MAPS}}
    for path, value in tensors.items():
        name, _, key = path.partition("/")
        if key:
            record[name][key] = value
        else:
            record[name] = value
    return record


def facts_of(record: Mapping[str, Any]) -> Record:
    """A record without its tensors."""
    return {key: value for key, value in record.items() if key not in (*_TENSORS, *_TENSOR_MAPS)}


def marks_of(record: Mapping[str, Any]) -> Record:
    """What a record has beside the fields of an attribution: its row, its run."""
    return {key: value for key, value in record.items() if key not in (*_FIELDS, "dtypes")}


def dumps(record: Mapping[str, Any]) -> str:
    """A record as one line of strict JSON."""
    if "error" not in record and "dtypes" not in record:
        dtypes = {name: str(t.dtype).removeprefix("torch.") for name, t in tensors_of(record)}
        record = {**with_tensors(facts_of(record), {n: _numbers(t) for n, t in tensors_of(record)}), "dtypes": dtypes}
    return json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def array(value: Any) -> np.ndarray[Any, Any]:
    """A tensor, or nested lists with null for NaN, as a numpy array."""
    if isinstance(value, Tensor):
        return value.numpy() if value.dtype in (torch.float64, torch.float32) else value.float().numpy()
    return np.array(value, dtype=np.float64)


def plain(value: Any) -> Any:
    """JSON form of an option value; what JSON cannot hold is kept as its repr."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)


def _tensor(value: Any, dtype: str | None) -> Tensor:
    if isinstance(value, Tensor):
        return value
    kind = getattr(torch, dtype or "float32")
    if not isinstance(kind, torch.dtype):
        raise ValueError(f"unknown dtype {dtype!r}")
    return torch.from_numpy(array(value)).to(kind)


def _numbers(tensor: Tensor) -> Any:
    """Nested lists: the shortest decimals that give the same single-precision numbers; null is NaN."""
    values = array(tensor)
    digits = 17 if values.dtype == np.float64 else 9
    flat: list[Any] = [_number(x, digits) for x in values.ravel().tolist()]
    for size in reversed(values.shape[1:]):
        flat = [flat[i : i + size] for i in range(0, len(flat), size)] if size else [[]] * values.shape[0]
    return flat


def _number(x: float, digits: int) -> float | str | None:
    if x != x:
        return None
    if math.isinf(x):
        return "Infinity" if x > 0 else "-Infinity"
    return x if digits == 17 else float(f"{x:.9g}")
