"""Safetensors with a JSON header: the whole file is held in memory."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from attriflow.datasets import limits
from attriflow.errors import InputError
from attriflow.io.records import Record, facts_of, from_record, marks_of, tensors_of, to_record, with_tensors

FORMAT = 2
MAX_HEADER = 90_000_000  # safetensors refuses headers beyond 100 MB; names and places of tensors need the rest


def write(records: Iterable[Record], path: Path, run: str | None) -> None:
    """Tensors `"{i}/{name}"`; everything else in the header."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    header: list[Record] = []
    for i, record in enumerate(records):
        if "dtypes" in record:  # it was JSON: back to tensors
            record = {**marks_of(record), **to_record(from_record(record))}
        tensors.update({f"{i}/{name}": tensor for name, tensor in tensors_of(record)})
        header.append(facts_of(record))
    text = json.dumps({"format": FORMAT, "run": run, "attributions": header})
    if len(text) + 120 * len(tensors) > MAX_HEADER:
        raise InputError(f"{len(header)} attributions are too many for a .safetensors file; use .jsonl or .parquet")
    try:
        save_file(tensors, path, metadata={"attriflow": text})
    except SafetensorError as error:  # of the file system
        raise OSError(str(error)) from error


def read(path: Path) -> Iterator[Record]:
    """Records with tensors."""
    with _opened(path) as f:
        header = _header(f, path)
        if header["format"] != FORMAT:
            raise InputError(f"{path} has format {header['format']}; this version reads format {FORMAT}")
        names: dict[str, list[str]] = {}
        for name in f.keys():  # noqa: SIM118  (not a dict)
            index, _, rest = name.partition("/")
            names.setdefault(index, []).append(rest)
        for i, facts in enumerate(header["attributions"]):
            own = sorted(names.get(str(i), ()))
            yield facts if "error" in facts else with_tensors(facts, {n: f.get_tensor(f"{i}/{n}") for n in own})


def run_of(path: Path) -> str | None:
    """Mark in the header."""
    with _opened(path) as f:
        return _header(f, path).get("run")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    limits.check_whole(path)
    try:
        with safe_open(path, framework="pt") as f:  # type: ignore[no-untyped-call]
            yield f
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _header(f: Any, path: Path) -> dict[str, Any]:
    metadata = f.metadata() or {}
    if "attriflow" not in metadata:
        raise InputError(f"{path} is a safetensors file, but not one that attriflow wrote")
    return json.loads(metadata["attriflow"])
