"""Rows to evaluate: from files, demo data, data with rationales, or Hugging Face data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attriflow.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from attriflow.datasets import Row, Rows
    from attriflow.evaluation.config import EvaluationConfig


def read_data(source: str, split: str = "train", config: str | None = None) -> pd.DataFrame:
    """Rows of a file, by its ending, of a demo data set, of data with rationales, or of a Hugging Face data set.

    Args:
        source: Its name or path.
        split: A split or a part of it, such as "train[:20]"; files are the split "train".
        config: Configuration of a Hugging Face data set.
    """
    import pandas as pd

    from attriflow.datasets import open_dataset
    from attriflow.datasets.annotated import format_of
    from attriflow.datasets.files import form_of
    from attriflow.evaluation.data import UNREAD, check_some

    path = Path(source)
    if path.is_file() and not format_of(source) and form_of(source) is None:
        raise InputError(f"cannot read {path.name}: expected a file that ends in .csv, .tsv, .json, .jsonl or .parquet")
    rows = open_dataset(source, config, split=split)
    found = list(rows.read())
    unread = {i: str(row) for i, row in enumerate(found) if isinstance(row, Exception)}
    check_some(unread, len(found) - len(unread))
    # cells are given as they were read: "007" and "None" are texts, and a row that could not be read has none
    frame = pd.DataFrame([{} if i in unread else row for i, row in enumerate(found)], columns=_columns(rows, found))
    frame.attrs[UNREAD] = unread
    return frame


def _columns(rows: Rows, found: Sequence[Row]) -> list[str]:
    """Columns of a data set, those that only later rows have included."""
    others = (name for row in found if isinstance(row, Mapping) for name in row)
    return [str(name) for name in dict.fromkeys((*rows.columns, *others))]


def checked(
    frame: pd.DataFrame, config: Mapping[str, Any], targets: str | None
) -> tuple[pd.DataFrame, EvaluationConfig]:
    """The columns besides the targets, and the settings, which are checked against them."""
    from attriflow.evaluation.config import EvaluationConfig
    from attriflow.evaluation.data import text_columns

    if targets is not None and targets not in frame.columns:
        raise InputError(f"no column '{targets}' for the targets. Columns: {', '.join(map(str, frame.columns))}")
    features = frame.drop(columns=[targets] if targets else [])
    columns = [str(c) for c in features.columns]
    return features, EvaluationConfig.from_dict(
        config, columns=columns, text_columns=text_columns(features), targets=targets
    )
