"""Rows to evaluate: from files, demo data, data with rationales, or Hugging Face data sets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attriflow.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

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
    from attriflow.datasets.splits import Split

    path = Path(source)
    if format_of(source) or not (path.suffix in _READERS or path.is_file()):
        return pd.DataFrame(list(open_dataset(source, config, split=split).read()))
    part = Split.of_file(split)
    if not path.is_file():
        raise InputError(f"no such file: {source}")
    if path.suffix not in _READERS:
        raise InputError(f"cannot read {path.name}: expected a file that ends in {', '.join(_READERS)}")
    try:
        frame: pd.DataFrame = getattr(pd, _READERS[path.suffix])(
            path, **({"lines": True} if path.suffix == ".jsonl" else {})
        )
    except ValueError as error:
        raise InputError(f"cannot read {source}: {error}") from None
    return frame.iloc[slice(*part.bounds(len(frame)))].reset_index(drop=True)


_READERS = {".csv": "read_csv", ".json": "read_json", ".jsonl": "read_json", ".parquet": "read_parquet"}


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
