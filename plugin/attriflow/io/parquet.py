"""Parquet: one row per attribution, written and read in row groups.

Columns are the entries of a record; scores of any number of axes are flat beside their shape, what has no fixed form
(provenance) is JSON.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attriflow.datasets import limits
from attriflow.errors import InputError
from attriflow.io.records import Record, array, facts_of, tensors_of, with_tensors
from attriflow.types import Token

FORMAT = 2
ROWS = 1024
"""Rows of a row group, the number that is in memory at a time."""


def write(records: Iterable[Record], path: Path, run: str | None) -> None:
    """Row groups of `ROWS` records."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema({"attriflow": str(FORMAT), **({"attriflow.run": run} if run else {})})
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        rows = map(_row, records)
        while chunk := list(itertools.islice(rows, ROWS)):
            writer.write_table(pa.Table.from_pylist(chunk, schema=schema))


def read(path: Path) -> Iterator[Record]:
    """Records, a row group at a time."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        metadata = file.schema_arrow.metadata or {}
        if b"attriflow" not in metadata:
            raise InputError(f"{path} is a Parquet file, but not one that attriflow wrote")
        if metadata[b"attriflow"] != str(FORMAT).encode():
            found = metadata[b"attriflow"].decode()
            raise InputError(f"{path} has format {found}; this version reads format {FORMAT}")
        for batch in limits.batches(file, path, ROWS):
            yield from map(_record, batch.to_pylist())


def run_of(path: Path) -> str | None:
    """Mark in the metadata."""
    import pyarrow.parquet as pq

    run = (pq.read_schema(path).metadata or {}).get(b"attriflow.run")
    return run.decode() if run else None


def _schema(metadata: dict[str, str]) -> Any:
    import pyarrow as pa

    texts, whole = pa.list_(pa.string()), pa.list_(pa.int64())
    kinds = {"int": whole, "int | None": whole, "bool": pa.list_(pa.bool_())}
    tokens = pa.struct([(f.name, kinds.get(str(f.type), texts)) for f in dataclasses.fields(Token)])
    tensor = pa.struct([("values", pa.list_(pa.float64())), ("shape", whole), ("dtype", pa.string())])
    columns = {
        "row": pa.int64(),
        "error": pa.string(),
        "input_text": pa.string(),
        "target_text": pa.string(),
        "inputs": tokens,
        "targets": tokens,
        "axes": texts,
        "scores": tensor,
        "norms": tensor,
        "step_scores": pa.map_(pa.string(), tensor),
        "sequence_scores": pa.map_(pa.string(), tensor),
        "rest": pa.string(),
    }
    return pa.schema(list(columns.items()), metadata=metadata)


_PLAIN = ("row", "error", "input_text", "target_text", "inputs", "targets", "axes")
_DROPPED = ("run", "dtypes")


def _row(record: Record) -> dict[str, Any]:
    """A record as a row of the table."""
    dtypes = record.get("dtypes", {})
    packed = {name: _packed(value, dtypes.get(name)) for name, value in tensors_of(record)}
    row = with_tensors({name: record.get(name) for name in _PLAIN}, packed)
    for name in ("step_scores", "sequence_scores"):
        row[name] = list(row[name].items())
    rest = {key: value for key, value in facts_of(record).items() if key not in (*_PLAIN, *_DROPPED)}
    return {**row, "rest": json.dumps(rest, ensure_ascii=False)}


def _record(row: dict[str, Any]) -> Record:
    """The record of a row of the table."""
    marks = {} if row["row"] is None else {"row": row["row"]}
    if row["error"] is not None:
        return {**marks, "error": row["error"], **json.loads(row["rest"])}
    for name in ("step_scores", "sequence_scores"):
        row[name] = dict(row[name])
    facts = {**{name: row[name] for name in _PLAIN if name not in ("row", "error")}, **json.loads(row["rest"])}
    return with_tensors({**marks, **facts}, {name: _tensor(value) for name, value in tensors_of(row)})


def _packed(value: Any, dtype: str | None) -> dict[str, Any]:
    numbers = array(value)
    name = dtype or str(value.dtype).removeprefix("torch.")
    return {"values": numbers.astype(np.float64).ravel(), "shape": list(numbers.shape), "dtype": name}


def _tensor(packed: dict[str, Any]) -> torch.Tensor:
    numbers = np.array(packed["values"], dtype=np.float64).reshape(packed["shape"])
    return torch.from_numpy(numbers).to(getattr(torch, packed["dtype"]))
