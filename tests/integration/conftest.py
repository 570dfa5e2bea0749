"""Fixtures of the tests that use MLflow: tiny models, and a fresh store per test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import pytest
from mlflow_support import hide_mlflow_state, register_evaluator, save_causal, save_seq2seq


@pytest.fixture(scope="session")
def causal_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a tiny random causal model and its tokenizer."""
    return save_causal(tmp_path_factory.mktemp("causal"))


@pytest.fixture(scope="session")
def seq2seq_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a tiny random encoder-decoder and its tokenizer."""
    return save_seq2seq(tmp_path_factory.mktemp("seq2seq"))


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs: creating one takes seconds, copying it does not."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    folder = tmp_path_factory.mktemp("store")
    SqlAlchemyStore(f"sqlite:///{folder / 'mlflow.db'}", (folder / "artifacts").as_uri())
    return folder / "mlflow.db"


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> Iterator[str]:
    """A fresh sqlite store as the tracking URI, with an experiment whose artifacts lie in the test's folder."""
    import mlflow

    register_evaluator()
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else ""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    mlflow.set_tracking_uri(uri)
    hide_mlflow_state()
    mlflow.create_experiment("test", artifact_location=(tmp_path / "mlartifacts").as_uri())
    mlflow.set_experiment("test")
    yield uri
    hide_mlflow_state()
    mlflow.set_tracking_uri(before)
