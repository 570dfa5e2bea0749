"""CSV, JSON lines (also as .gz) and Parquet files, read row by row."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

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
    except Exception as error:  # of csv, zlib, json and pyarrow
        if isinstance(error, AttriflowError) and str(path) in str(error):
            raise
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


def _text(path: Path, **options: Any) -> TextIO:
    return limits.text(path, errors="surrogateescape", **options)


# -- CSV: every cell is text -------------------------------------------------------------------------------------------


def _csv(path: Path) -> Iterator[list[str]]:
    csv.field_size_limit(min(limits.most() // limits.ROWS, 2**31 - 1))
    with _text(path, newline="") as f:
        yield from csv.reader(limits.lines(f, path), delimiter="\t" if ".tsv" in path.suffixes else ",")


def _wrong_bytes(text: str) -> InputError | None:
    """The error of a row with bytes that are not UTF-8, which `surrogateescape` kept; other rows are not lost by it."""
    found = next((c for c in text if "\udc80" <= c <= "\udcff"), None)
    return None if found is None else InputError(f"not UTF-8 text: byte 0x{ord(found) - 0xDC00:02x}")


def _csv_rows(path: Path, start: int) -> Iterator[Row]:
    lines = (cells for cells in _csv(path) if cells)
    header = next(lines, [])
    for cells in itertools.islice(lines, start, None):
        if wrong := _wrong_bytes("".join(cells)):
            yield wrong
        elif len(cells) == len(header):
            yield dict(zip(header, cells, strict=True))
        else:
            yield InputError(f"{len(cells)} cells for {len(header)} columns")


def _csv_count(path: Path) -> int:
    return max(0, sum(1 for cells in _csv(path) if cells) - 1)


def _csv_columns(path: Path) -> tuple[str, ...]:
    found = tuple(next((cells for cells in _csv(path) if cells), ()))
    if error := _wrong_bytes("".join(found)):
        raise error
    return found


# -- JSON lines; a JSON file that holds a list is read as a whole ----------------------------------------------------


def _json(path: Path) -> Iterator[str | Any]:
    with _text(path) as f:
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
        if isinstance(given, str) and (wrong := _wrong_bytes(given)):
            yield wrong
            continue
        try:
            row = json.loads(given) if isinstance(given, str) else given
        except (ValueError, RecursionError) as error:
            yield InputError(f"not JSON: {error}")
            continue
        yield (
            _half_characters(row) or row
            if isinstance(row, dict)
            else InputError(f"a row must be an object, not {type(row).__name__}")
        )


def _half_characters(row: dict[str, Any]) -> InputError | None:
    r"""The error of a row with half of a character ("\ud83d" alone), which JSON can write and nobody can tokenise."""
    try:
        json.dumps(row, ensure_ascii=False).encode("utf-8")
    except (UnicodeEncodeError, RecursionError) as error:
        return InputError(f"not valid Unicode: {error}")
    return None


def _json_columns(path: Path) -> tuple[str, ...]:
    wrong = None
    for row in _json_rows(path, 0):
        if isinstance(row, dict):
            return tuple(row)
        wrong = wrong or row
    if isinstance(wrong, Exception):
        raise InputError(f"cannot read {path}: no row is an object; row 0: {wrong}")
    return ()


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
