"""Hugging Face data sets, by name or from a folder. They lie on disk; a few rows at a time are in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attriflow.datasets.rows import Row, Rows
from attriflow.datasets.splits import Split
from attriflow.errors import InputError, MissingExtraError

ROWS = 256


class HubRows(Rows):
    """Rows of a `datasets.Dataset`."""

    def __init__(self, dataset: Any) -> None:
        """A data set that is the wanted part of a split already."""
        super().__init__(len(dataset), Split())
        self.dataset, self.columns = dataset, tuple(dataset.column_names)

    def _from(self, index: int) -> Iterator[Row]:
        for first in range(index, len(self.dataset), ROWS):
            columns = self.dataset[first : first + ROWS]
            for values in zip(*columns.values(), strict=True):
                yield dict(zip(columns, values, strict=True))

    def identity(self) -> dict[str, Any]:
        """The fingerprint that `datasets` gives to contents."""
        return {"fingerprint": self.dataset._fingerprint, "rows": len(self.dataset)}


def load(
    name: str,
    config: str | None = None,
    *,
    folder: str | None = None,
    files: Sequence[str] | None = None,
    split: str = "train",
    revision: str | None = None,
    token: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> HubRows:
    """Load a split with `datasets.load_dataset`, or a folder that `save_to_disk` wrote."""
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError(f"the data set {name!r}", "datasets", "datasets") from error
    try:
        if (Path(name) / "state.json").is_file() or (Path(name) / "dataset_dict.json").is_file():
            return HubRows(_from_disk(datasets.load_from_disk(name), split))
        dataset = datasets.load_dataset(
            name,
            config,
            data_dir=folder,
            data_files=list(files) if files else None,
            split=split,
            revision=revision,
            token=token,
            **(options or {}),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        reason = str(error).strip().splitlines()
        raise InputError(f"cannot load the data set {name!r}: {reason[0] if reason else error!r}") from error
    if not hasattr(dataset, "__len__"):
        raise InputError(
            "a streaming data set cannot be resumed; leave streaming out: rows are read from disk as needed"
        )
    return HubRows(dataset)


def _from_disk(found: Any, split: str) -> Any:
    wanted = Split.parse(split)
    if hasattr(found, "keys"):
        if wanted.name not in found:
            raise InputError(f"there is no split {wanted.name!r}; there are {', '.join(found)}")
        found = found[wanted.name]
    return found.select(range(*wanted.bounds(len(found))))
