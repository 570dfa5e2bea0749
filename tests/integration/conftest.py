"""Fixtures of the tests that use MLflow: tiny models, and a fresh store per test."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import pytest
from mlflow_support import (
    LoggedEvaluation,
    hide_mlflow_state,
    log_evaluation,
    register_evaluator,
    save_causal,
    save_seq2seq,
)


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
    gc.freeze()  # what the imports left; each evaluation would go through it anew
    yield uri
    gc.unfreeze()
    hide_mlflow_state()
    mlflow.set_tracking_uri(before)


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of evaluations that look at no plot: drawing them takes longer than all the rest."""
    monkeypatch.setattr("attriflow.tracking.pages.plots", lambda found: {})


@pytest.fixture(scope="session")
def logged_evaluation(
    empty_store: Path, causal_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> LoggedEvaluation:
    """A small evaluation that is over, in a store of its own that tests only read."""
    return log_evaluation(empty_store, causal_folder, tmp_path_factory.mktemp("logged"))


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium (see `browser_support.in_browser`)."""
    from browser_support import CHROMIUM
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Without a sandbox of its own: tests run as root in containers, and the pages are ours.
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
                  "--disable-sync", "--no-first-run"],
        )  # fmt: skip
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser):
    """`visit(path)` opens a page; in the end it may have complained about nothing and asked the network for nothing."""
    opened, complaints, requests = [], [], []

    def go(path: Path, width: int = 1280, scheme: str = "light", height: int = 900):
        page = browser.new_page(
            viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
        )
        opened.append(page)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append("dialog"), dialog.dismiss()))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        return page

    yield go
    assert complaints == []
    assert [url for url in requests if not url.startswith(("data:", "file:", "about:"))] == []
    for page in opened:
        page.close()
