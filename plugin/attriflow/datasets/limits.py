"""How much a file may unpack to: few bytes on a disk can stand for more than there is memory.

Nothing is read beyond `most()` bytes: of a compressed file in all, of a row group of a Parquet file, of a file that is
read as a whole. Files that are read row by row may be of any size; a row may not.
"""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from attriflow.errors import InputError

VARIABLE = "ATTRIFLOW_MAX_BYTES"
"""Environment variable that sets the limit."""
MOST = 1 << 30
"""The limit without it: 1 GiB."""
JSON_TIMES = 4
"""Python objects take several times the bytes of their JSON."""
ROWS = 16
"""Rows of the largest kind that fit below the limit."""

_HEAD = 512
_BINARY = {
    b"PK\x03\x04": "a zip archive",
    b"PK\x05\x06": "a zip archive",
    b"\x1f\x8b": "a gzip archive, whose name must end in .gz",
    b"\xfd7zXZ\x00": "an xz archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a rar archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"%PDF-": "a PDF",
}
_PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<body", b"<!--")


def most() -> int:
    """Bytes that a file may unpack to."""
    given = os.environ.get(VARIABLE, "").strip()
    if not given:
        return MOST
    if not given.isdecimal() or int(given) < 1:
        raise InputError(f"{VARIABLE} must be a number of bytes, not {given!r}")
    return int(given)


def too_large(path: Path, what: str) -> InputError:
    """The error for a file that would take more."""
    return InputError(f"{path} {what}: the limit is {most():,} bytes in memory, which {VARIABLE} sets")


def check_whole(path: Path, times: int = 1) -> None:
    """Raise `InputError` for a file that is read as a whole and takes more, `times` its size."""
    if (size := path.stat().st_size) * times > most():
        raise too_large(path, f"has {size:,} bytes to be read at once")


def whole_json(path: Path) -> str:
    """The text of a JSON file, which may be compressed."""
    check_whole(path, JSON_TIMES)
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    if not packed:
        return path.read_text(encoding="utf-8")
    with _Unpacked(path, most() // JSON_TIMES) as unpacked:
        return io.BufferedReader(unpacked).read().decode("utf-8")


def text(path: Path, **options: Any) -> TextIO:
    """A text file opened for reading, also as .gz; one that is none (an archive, a web page) is an error."""
    file: io.BufferedReader = io.BufferedReader(_Unpacked(path)) if path.suffix == ".gz" else path.open("rb")
    try:
        kind = _no_text(file.peek(_HEAD)[:_HEAD])
        if kind is not None:
            raise InputError(f"cannot read {path}: it is {kind}, not text with a row per line")
        return io.TextIOWrapper(file, encoding="utf-8-sig", **options)
    except BaseException:
        file.close()
        raise


def lines(file: TextIO, path: Path) -> Iterator[str]:
    """Lines of a file, none of them too long."""
    longest = most() // ROWS
    while line := file.readline(longest + 1):
        if len(line) > longest:
            raise too_large(path, f"has a row of over {longest:,} characters")
        yield line


def batches(file: Any, path: Path, rows: int, groups: Sequence[int] | None = None) -> Iterator[Any]:
    """Batches of a `pyarrow.parquet.ParquetFile`, of at most `rows` rows, and fewer where rows may be large.

    The sizes that the file states count one dictionary entry once, however many rows are equal to it: a batch holds as
    many rows as fit when each of them is as large as its row group.
    """
    wanted = list(range(file.num_row_groups)) if groups is None else list(groups)
    sizes = [_size(file.metadata.row_group(group)) for group in wanted]
    if not sizes:
        return
    if max(sizes) > most():
        raise too_large(path, f"has a row group of {max(sizes):,} bytes")
    at_once = max(1, min(rows, most() // max(1, *sizes)))
    yield from file.iter_batches(batch_size=at_once, row_groups=wanted)


def whole_parquet(path: Path) -> Any:
    """A Parquet file to be read as a whole, as a `pyarrow.parquet.ParquetFile`."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    size = sum(_size(file.metadata.row_group(group)) for group in range(file.num_row_groups))
    if size > most():
        file.close()
        raise too_large(path, f"unpacks to {size:,} bytes")
    return file


def _size(group: Any) -> int:
    """Bytes of a row group, unpacked; runs of equal numbers are stored in next to none."""
    columns = (group.column(i) for i in range(group.num_columns))
    return sum(max(int(c.total_uncompressed_size), 8 * int(c.num_values)) for c in columns)


def _no_text(head: bytes) -> str | None:
    """What the first bytes say a file is, if that is no text with rows."""
    for start, kind in _BINARY.items():
        if head.startswith(start):
            return kind
    if head[257:262] == b"ustar":
        return "a tar archive"
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_PAGES):
        return "a web page (HTML or XML)"
    return "a binary file" if b"\0" in head else None


class _Unpacked(io.RawIOBase):
    """A compressed file whose bytes are counted."""

    def __init__(self, path: Path, limit: int | None = None) -> None:
        self.file, self.path, self.count = gzip.GzipFile(path), path, 0
        self.most = most() if limit is None else limit

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read the next bytes."""
        data = self.file.read1(len(buffer))
        self.count += len(data)
        if self.count > self.most:
            raise too_large(self.path, f"unpacks to more than {self.most:,} bytes")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close the file, too."""
        self.file.close()
        super().close()
