"""Saving and loading by suffix."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from attriflow.errors import AttriflowError, InputError
from attriflow.io import jsonfiles, lines, parquet, tensors
from attriflow.io.records import Record, from_record, to_record
from attriflow.io.writing import write_with
from attriflow.types import Attribution

FORMATS: dict[str, ModuleType] = {".safetensors": tensors, ".json": jsonfiles, ".jsonl": lines, ".parquet": parquet}
"""Suffix -> module with `write(records, path, run)`, `read(path) -> records` and `run_of(path)`."""

DEFAULT = ".safetensors"


def suffix_of(path: str | Path, *others: str) -> str:
    """The suffix that chooses the format; `InputError` for one that is neither in `FORMATS` nor in `others`."""
    suffix, allowed = Path(path).suffix.lower() or DEFAULT, (*FORMATS, *others)
    if suffix not in allowed:
        raise InputError(f"cannot tell the format of {path}: expected a name that ends in {', '.join(allowed)}")
    return suffix


def save(attributions: Iterable[Attribution], path: str | Path, *, overwrite: bool = False) -> Path:
    """Write attributions into one file.

    Args:
        attributions: What to save.
        path: File to write: .safetensors (also without suffix), .json, .jsonl or .parquet.
        overwrite: Replace an existing file; otherwise that is an error.
    """
    return write(map(to_record, attributions), path, overwrite=overwrite)


def write(records: Iterable[Record], path: str | Path, run: str | None = None, *, overwrite: bool = False) -> Path:
    """Write records in the format of the path's suffix; `run` marks the data set run that made them."""
    form = FORMATS[suffix_of(path)]
    return write_with(lambda temporary: form.write(records, temporary, run), path, overwrite=overwrite)


def load(path: str | Path) -> list[Attribution]:
    """Read what `save` wrote; `InputError` for a missing, foreign or corrupt file."""
    return list(iterate(path))


def iterate(path: str | Path) -> Iterator[Attribution]:
    """Attributions of a file one after the other; .jsonl and .parquet files need memory for few of them at a time."""
    for record in read(Path(path)):
        if "error" not in record:
            yield _checked(path, from_record, record)


def read(path: Path) -> Iterator[Record]:
    """Records of a file, those of failed rows too."""
    suffix = ".json" if path.name.lower().endswith(".json.gz") else suffix_of(path)
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    records = FORMATS[suffix].read(path)
    while (record := _checked(path, next, records, None)) is not None:
        yield record


def run_of(path: Path) -> str | None:
    """Mark of the data set run that wrote a file; None for other files."""
    return _checked(path, FORMATS[suffix_of(path)].run_of, path)


def _checked(path: str | Path, function: Any, *arguments: Any) -> Any:
    """Call a reader; whatever a broken file makes it raise becomes one message."""
    try:
        return function(*arguments)
    except Exception as error:  # readers of four formats have a hundred kinds
        if isinstance(error, AttriflowError) and str(path) in str(error):
            raise
        reason = str(error).strip().splitlines()
        raise InputError(f"{path} is not a readable attriflow file: {reason[0] if reason else error!r}") from error
