"""CSV, JSON lines (also as .gz) and Parquet files, read row by row."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attriflow.datasets import limits
from attriflow.datasets.rows import Row, Rows
from attriflow.datasets.splits import Split
from attriflow.errors import AttriflowError, InputError

ROWS = 256
"""Rows of a Parquet file that are in memory at a time."""


@dataclass(frozen=True)
class Form:
    """How files of one format are read.

    Attributes:
        rows: Rows of a file from one on.
        count: Their number.
        columns: Columns of a file.
    """

    rows: Callable[[Path, int], Iterator[Row]]
    count: Callable[[Path], int]
    columns: Callable[[Path], tuple[str, ...]]


class FileRows(Rows):
    """Rows of one file or of several with the same columns."""

    def __init__(self, paths: Sequence[Path], form: Form, split: Split) -> None:
        """Files of one format; each is read once to count its rows."""
        self.paths, self.form = tuple(paths), form
        self.counts = [_reading(path, form.count, path) for path in self.paths]
        super().__init__(sum(self.counts), split)
        self.columns = _reading(self.paths[0], form.columns, self.paths[0])

    def _from(self, index: int) -> Iterator[Row]:
        for path, count in zip(self.paths, self.counts, strict=True):
            if index < count:
                rows = self.form.rows(path, index)
                while (row := _reading(path, next, rows, None)) is not None:
                    yield row
            index = max(0, index - count)

    def identity(self) -> dict[str, Any]:
        """Hashes of the files' contents: a file that was moved is the same, one that was edited is not."""
        return {"files": [[path.name, _hash(path)] for path in self.paths]}


def _reading(path: Path, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start} of a block)") from error
    except AttriflowError:
        raise
    except Exception as error:  # of csv, zlib, json and pyarrow
        reason = str(error).strip().splitlines()
        raise InputError(f"cannot read {path}: {reason[0] if reason else error!r}") from error


def _hash(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def form_of(name: str) -> Form | None:
    """The format that the end of a file's name tells."""
    return BY_SUFFIX.get(Path(name.lower().removesuffix(".gz")).suffix)


# -- CSV: every cell is text -------------------------------------------------------------------------------------------


def _csv(path: Path) -> Iterator[list[str]]:
    csv.field_size_limit(min(limits.most() // limits.ROWS, 2**31 - 1))
    with limits.text(path, newline="") as f:
        yield from csv.reader(limits.lines(f, path), delimiter="\t" if ".tsv" in path.suffixes else ",")


def _csv_rows(path: Path, start: int) -> Iterator[Row]:
    lines = (cells for cells in _csv(path) if cells)
    header = next(lines, [])
    for cells in itertools.islice(lines, start, None):
        if len(cells) == len(header):
            yield dict(zip(header, cells, strict=True))
        else:
            yield InputError(f"{len(cells)} cells for {len(header)} columns")


def _csv_count(path: Path) -> int:
    return max(0, sum(1 for cells in _csv(path) if cells) - 1)


def _csv_columns(path: Path) -> tuple[str, ...]:
    return tuple(next((cells for cells in _csv(path) if cells), ()))


# -- JSON lines; a JSON file that holds a list is read as a whole ----------------------------------------------------


def _json(path: Path) -> Iterator[str | Any]:
    with limits.text(path) as f:
        rows = (line for line in limits.lines(f, path) if line.strip())
        first = next(rows, "")
        if first.lstrip().startswith("["):
            most = limits.most() // limits.JSON_TIMES
            whole = first + f.read(most)
            if len(whole) > most:
                raise limits.too_large(path, f"is one list of over {most:,} characters, which is read as a whole")
            yield from json.loads(whole)
        elif first:
            yield first
            yield from rows


def _json_rows(path: Path, start: int) -> Iterator[Row]:
    for given in itertools.islice(_json(path), start, None):
        try:
            row = json.loads(given) if isinstance(given, str) else given
        except json.JSONDecodeError as error:
            yield InputError(f"not JSON: {error}")
            continue
        yield row if isinstance(row, dict) else InputError(f"a row must be an object, not {type(row).__name__}")


def _json_columns(path: Path) -> tuple[str, ...]:
    return tuple(next((row for row in _json_rows(path, 0) if isinstance(row, dict)), ()))


# -- Parquet -----------------------------------------------------------------------------------------------------------


def _parquet_rows(path: Path, start: int) -> Iterator[Row]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        groups, first = list(range(file.num_row_groups)), 0
        while groups and first + file.metadata.row_group(groups[0]).num_rows <= start:
            first += file.metadata.row_group(groups.pop(0)).num_rows
        rows = (row for batch in limits.batches(file, path, ROWS, groups) for row in batch.to_pylist())
        yield from itertools.islice(rows, start - first, None)


def _parquet_count(path: Path) -> int:
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_rows)


def _parquet_columns(path: Path) -> tuple[str, ...]:
    import pyarrow.parquet as pq

    return tuple(pq.read_schema(path).names)


CSV = Form(_csv_rows, _csv_count, _csv_columns)
JSON = Form(_json_rows, lambda path: sum(1 for _ in _json(path)), _json_columns)
PARQUET = Form(_parquet_rows, _parquet_count, _parquet_columns)
BY_NAME = {"csv": CSV, "json": JSON, "parquet": PARQUET}
BY_SUFFIX = {".csv": CSV, ".tsv": CSV, ".json": JSON, ".jsonl": JSON, ".ndjson": JSON, ".parquet": PARQUET}
