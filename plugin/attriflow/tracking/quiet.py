"""Less noise from MLflow and transformers, for a while."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator

PROGRESS_BAR = "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"


@contextlib.contextmanager
def no_artifact_bars() -> Iterator[None]:
    """No progress bars for copies of artifacts."""
    before = os.environ.get(PROGRESS_BAR)
    os.environ[PROGRESS_BAR] = "false"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(PROGRESS_BAR, None)
        else:
            os.environ[PROGRESS_BAR] = before


@contextlib.contextmanager
def quiet(*, loggers: tuple[str, ...] = ("mlflow", "alembic")) -> Iterator[None]:
    """Only warnings that matter: no bars, no progress messages, no advice to developers of other packages."""
    import mlflow  # noqa: F401  (sets the levels of its loggers when it is imported)

    known = [logging.getLogger(name) for name in loggers]
    levels = [logger.level for logger in known]
    with no_artifact_bars(), _no_weight_bars(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in known:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for logger, level in zip(known, levels, strict=True):
                logger.setLevel(level)


@contextlib.contextmanager
def _no_weight_bars() -> Iterator[None]:
    from transformers.utils import logging as transformers_logging

    before = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if before:
            transformers_logging.enable_progress_bar()
