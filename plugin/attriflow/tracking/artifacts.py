"""Artifacts of an evaluation, as MLflow's `EvaluationResult` holds them.

There are few of them, some being folders: `EvaluationResult.tables` tries to load every artifact as a table.
"""

from __future__ import annotations

import functools
import logging
import operator
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models.evaluation.base import EvaluationArtifact

from attriflow.datasets import limits


class TableArtifact(EvaluationArtifact):
    """A data frame, in the layout of `mlflow.log_table`."""

    def _save(self, output_artifact_path: str) -> None:
        write_table(self.content, output_artifact_path)

    def _load_content_from_file(self, local_artifact_path: str) -> pd.DataFrame:
        return read_table(local_artifact_path)


class FileArtifact(EvaluationArtifact):
    """What is no table: MLflow's attempt to load it as one is no cause for a warning."""

    def __init__(self, uri: str, content: Any = None) -> None:
        super().__init__(uri, content)
        logging.getLogger("mlflow.tracking.client").addFilter(_worth_saying)


def _worth_saying(record: logging.LogRecord) -> bool:
    """False for what is logged while `EvaluationResult.tables` tries a `FileArtifact`."""
    del record
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_code.co_name != "tables":
        frame = frame.f_back
    return not isinstance(frame.f_locals.get("table_path"), FileArtifact)


class HtmlArtifact(FileArtifact):
    """A self-contained page; its content is the HTML text."""

    def _save(self, output_artifact_path: str) -> None:
        Path(output_artifact_path).write_text(self.content, encoding="utf-8")

    def _load_content_from_file(self, local_artifact_path: str) -> str:
        return Path(local_artifact_path).read_text(encoding="utf-8")


class AttributionsArtifact(FileArtifact):
    """A folder of attributions; the content is method -> `AttributionOutput`."""

    def _save(self, output_artifact_path: str) -> None:
        from attriflow.io import save

        for name, attributions in self.content.items():
            save(attributions, Path(output_artifact_path) / f"{name}.safetensors", overwrite=True)

    def _load_content_from_file(self, local_artifact_path: str) -> dict[str, Any]:
        from attriflow.output import load

        folder = Path(local_artifact_path)
        stems = parts_of(path.stem for path in folder.glob("*.safetensors"))
        return {
            name: functools.reduce(operator.add, (load(folder / f"{stem}.safetensors") for stem in parts))
            for name, parts in stems.items()
        }


class PlotsArtifact(FileArtifact):
    """A folder of plots; the content is name -> PNG bytes."""

    def _save(self, output_artifact_path: str) -> None:
        folder = Path(output_artifact_path)
        folder.mkdir(parents=True, exist_ok=True)
        for name, png in self.content.items():
            (folder / f"{name}.png").write_bytes(png)

    def _load_content_from_file(self, local_artifact_path: str) -> dict[str, bytes]:
        return {path.stem: path.read_bytes() for path in sorted(Path(local_artifact_path).glob("*.png"))}


def part_name(name: str, number: int) -> str:
    """The name of a file with a method's attributions of a block; names of methods have no "~" here."""
    return f"{name}~{number}" if number else name


def parts_of(stems: Iterable[str]) -> dict[str, list[str]]:
    """Method -> names of its files in the order of their blocks."""
    found: dict[str, list[str]] = {}
    for stem in sorted(stems, key=lambda s: (s.partition("~")[0], int(s.partition("~")[2] or 0))):
        found.setdefault(stem.partition("~")[0], []).append(stem)
    return found


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table the way `mlflow.log_table` does."""
    if str(path).endswith(".parquet"):
        table.to_parquet(path, index=False)
    else:
        table.to_json(path, orient="split", index=False, double_precision=15)


def read_table(path: str | Path) -> pd.DataFrame:
    """Read what `write_table` wrote."""
    if str(path).endswith(".parquet"):
        with limits.whole_parquet(Path(path)) as file:
            return file.read().to_pandas()
    limits.check_whole(Path(path), limits.JSON_TIMES)
    # token texts such as "007" or "2024" stay texts
    return pd.read_json(path, orient="split", dtype=False)
