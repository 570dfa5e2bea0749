"""From the name of a data set to its rows."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attriflow.datasets import hub
from attriflow.datasets.annotated import format_of, read_rows
from attriflow.datasets.files import BY_NAME, FileRows, form_of
from attriflow.datasets.rows import ListRows, Rows
from attriflow.datasets.splits import Split
from attriflow.errors import InputError


def open_dataset(
    name: str,
    config: str | None = None,
    *,
    files: Sequence[str] | None = None,
    folder: str | None = None,
    split: str = "train",
    revision: str | None = None,
    token: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Rows:
    """Open a data set for reading.

    Args:
        name: A .csv, .tsv, .json, .jsonl or .parquet file (text files also as .gz); "csv", "json" or "parquet" with
            `files`; "demo/recall" or "demo/translate"; "scat:FILE", "eraser:FOLDER", "hatexplain:FILE" or
            "agreement:FILE" for local copies of data with rationales (see `attriflow.datasets.annotated`); or what
            `datasets.load_dataset` takes: a name on the Hugging Face hub, a folder.
        config: Configuration of a Hugging Face data set.
        files: Data files; patterns with * are allowed.
        folder: Folder of the data files.
        split: A split or a part of it: "train", "train[:20]", "test[10%:20%]". Files are the split "train".
        revision, token, options: For `datasets.load_dataset`.

    Raises:
        InputError: There is no such data set, or it cannot be read.
    """
    if name.startswith("demo/"):
        return ListRows(_demo(name), Split.of_file(split), name)
    if published := format_of(name):
        return _annotated(published, name, split)
    if form := form_of(name):
        return FileRows([_file(name)], form, Split.of_file(split))
    if name in BY_NAME and files and not options:
        paths = [path for pattern in files for path in _matching(pattern, folder)]
        return FileRows(paths, BY_NAME[name], Split.of_file(split))
    return hub.load(
        name, config, folder=folder, files=files, split=split, revision=revision, token=token, options=options
    )


def _matching(pattern: str, folder: str | None) -> list[Path]:
    full = str(Path(folder or "") / pattern)
    if not glob.has_magic(full):
        return [_file(full)]
    found = [Path(name) for name in sorted(glob.glob(full))]
    if not found:
        raise InputError(f"no file matches {full}")
    return found


def _file(name: str) -> Path:
    path = Path(name)
    if not path.is_file():
        raise InputError(f"no such file: {name}")
    return path


def _annotated(form: str, name: str, split: str) -> Rows:
    part = Split.parse(split)
    return ListRows(read_rows(form, name.partition(":")[2], part.name), part, name)


def _demo(name: str) -> list[dict[str, Any]]:
    from attriflow.demo import load_demo_dataset

    try:
        frame = load_demo_dataset(name)
    except ValueError as error:
        raise InputError(str(error)) from None
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]
