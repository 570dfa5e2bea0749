"""Small parts of the tracking layer that need no store."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pandas as pd
import pytest

from attriflow.tracking.artifacts import read_table, write_table
from attriflow.tracking.quiet import PROGRESS_BAR, no_artifact_bars, quiet
from attriflow.tracking.run_logger import key_of, text_of


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("saliency/aopc_compr", "saliency/aopc_compr"),
        ("my+method", "my_method"),
        ("größe", "größe"),
        ("x" * 300, "x" * 250),
    ],
)
def test_names_that_mlflow_accepts(name: str, key: str) -> None:
    from mlflow.utils.validation import _validate_metric_name

    assert key_of(name) == key
    _validate_metric_name(key_of(name))


def test_settings_as_text() -> None:
    assert text_of("auto") == "auto"
    assert text_of(None) == "null"
    assert text_of({"a": [1, 0.5], "b": "è"}) == '{"a": [1, 0.5], "b": "è"}'
    assert text_of({"f": len}).startswith('{"f": "<built-in')


@pytest.mark.parametrize("ending", ["json", "parquet"])
def test_tables_keep_texts_and_gaps(ending: str, tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "example": [0, 1, 2],
            "token": ["007", "2024-01-01", "à\n\u2028"],
            "value": [1 / 3, float("nan"), 1e-12],
            "skipped": [None, "empty rationale", None],
        }
    )
    path = tmp_path / f"table.{ending}"
    write_table(table, path)
    back = read_table(path)
    assert back["token"].tolist() == table["token"].tolist()
    assert back["value"].tolist()[0] == pytest.approx(1 / 3, abs=1e-14)
    assert back["value"].isna().tolist() == [False, True, False]
    assert back["value"].tolist()[2] == pytest.approx(1e-12)
    assert back["skipped"].isna().tolist() == [True, False, True]


def test_quiet_leaves_everything_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROGRESS_BAR, "true")
    import mlflow

    logger = logging.getLogger("mlflow")
    level = logger.level
    with pytest.raises(ZeroDivisionError), quiet():
        assert logger.level == logging.WARNING and os.environ[PROGRESS_BAR] == "false"
        _ = 1 / 0
    assert logger.level == level and os.environ[PROGRESS_BAR] == "true"
    monkeypatch.delenv(PROGRESS_BAR)
    with no_artifact_bars():
        pass
    assert PROGRESS_BAR not in os.environ
    assert mlflow.__version__
