"""Evaluations as they lie in a tracking store: which there are, and what each of them logged."""

from __future__ import annotations

import functools
import operator
import os
import shutil
import sqlite3
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from attriflow.errors import InputError, check_choice
from attriflow.tracking.artifacts import parts_of, read_table
from attriflow.tracking.evaluations import EVALUATED, store_errors
from attriflow.tracking.foreign import board_rows
from attriflow.tracking.places import folders, within
from attriflow.tracking.quiet import no_artifact_bars

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import Run

    from attriflow.output import AttributionOutput

_LEADERBOARD, _REPORT, _PLOTS, _ATTRIBUTIONS = "leaderboard.json", "report.html", "plots", "attributions"
_MOST = 200
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


class EvaluationStore:
    """The evaluations in an MLflow store.

    Args:
        uri: Tracking URI or folder; MLflow's own when None.

    Raises:
        InputError: There is no such store.
    """

    def __init__(self, uri: str | None = None) -> None:
        """Look whether the store is there; nothing is created."""
        import mlflow

        self.uri = (uri or "").strip() or str(mlflow.get_tracking_uri())
        _check_file(self.uri)
        with self._asking():
            self.client = MlflowClient(self.uri)
            self.client.search_experiments(max_results=1)

    def experiments(self) -> dict[str, str]:
        """Name -> id, the latest change first."""
        with self._asking():
            found = self.client.search_experiments(max_results=_MOST, order_by=["last_update_time DESC"])
        return {e.name: e.experiment_id for e in found}

    def runs(self, experiment_id: str) -> dict[str, str]:
        """Name and time -> id of the evaluations of an experiment, the latest first."""
        with self._asking():
            found = self.client.search_runs(
                [experiment_id], filter_string=EVALUATED, max_results=_MOST, order_by=["attributes.start_time DESC"]
            )
        named = dict[str, str]()
        for run in found:
            label = f"{run.info.run_name} · {_time(run.info.start_time)}"
            label = label if label not in named else f"{label} · {run.info.run_id[:8]}"
            for folder in reversed(folders(run.data.tags)):
                name = folder.rpartition("/")[2]
                named[f"{label} · {name}" if name else label] = f"{run.info.run_id}/{name}" if name else run.info.run_id
        return named

    def run(self, run_id: str) -> StoredEvaluation:
        """One evaluation; the run of a single method stands for the evaluation that it belongs to.

        "RUN_ID/NAME" is one of several in a run; without a name it is the first.

        Raises:
            InputError: There is no such run, or it has no evaluation by attriflow.
        """
        with self._asking():
            run_id, _, name = run_id.strip().partition("/")
            found = self.client.get_run(run_id)
            if "attriflow.method" in found.data.tags and MLFLOW_PARENT_RUN_ID in found.data.tags:
                found = self.client.get_run(found.data.tags[MLFLOW_PARENT_RUN_ID])
            known = folders(found.data.tags) or [""]
            folder = next((f for f in known if name and f.rpartition("/")[2] == name), "" if name else known[0])
            names = {i.path.rpartition("/")[2] for i in self.client.list_artifacts(found.info.run_id, folder or None)}
        if _LEADERBOARD not in names:
            raise InputError(f"run {run_id} in {self.uri} has no leaderboard: it is no (finished) attriflow evaluation")
        return StoredEvaluation(self.client, found, names, folder)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """A server that does not answer is an error in seconds, not minutes, and every error is one message."""
        before = {name: os.environ.get(name) for name in _PATIENCE}
        os.environ.update({name: value for name, value in _PATIENCE.items() if before[name] is None})
        try:
            with store_errors(self.uri):
                yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)


class StoredEvaluation:
    """What one evaluation logged; files are fetched when they are asked for, once."""

    def __init__(self, client: MlflowClient, run: Run, names: set[str], place: str = "") -> None:
        """Use `EvaluationStore.run`; `place` is the evaluation's folder in the run."""
        self.client, self._run, self._names, self._place = client, run, names, place
        self._folder = tempfile.mkdtemp(prefix="attriflow-run-")
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._fetched = dict[str, Path]()

    @property
    def run_id(self) -> str:
        """Id of the run."""
        return str(self._run.info.run_id)

    @property
    def experiment_id(self) -> str:
        """Id of the run's experiment."""
        return str(self._run.info.experiment_id)

    @property
    def name(self) -> str:
        """Name of the run."""
        return str(self._run.info.run_name)

    @property
    def params(self) -> Mapping[str, str]:
        """Settings of the evaluation, without their prefix."""
        given: Mapping[str, str] = within(self._run.data.params, self._place)
        return {k.removeprefix("attriflow."): v for k, v in given.items() if k.startswith("attriflow.")}

    @cached_property
    def leaderboard(self) -> pd.DataFrame:
        """One row per method."""
        path = self._fetch(_LEADERBOARD)
        try:
            board_rows(path.read_bytes())
            return read_table(path)
        except (ValueError, TypeError, OSError) as error:
            raise InputError(f"run {self.run_id}: {error}") from error

    @cached_property
    def report(self) -> str | None:
        """The page, where there is one."""
        return self._fetch(_REPORT).read_text(encoding="utf-8") if _REPORT in self._names else None

    @cached_property
    def plots(self) -> dict[str, Path]:
        """Name -> picture."""
        folder = self._fetch(_PLOTS) if _PLOTS in self._names else None
        return {} if folder is None else {path.stem: path for path in sorted(folder.glob("*.png"))}

    @property
    def methods(self) -> list[str]:
        """Methods whose attributions were logged."""
        return list(self._parts)

    @cached_property
    def _parts(self) -> dict[str, list[str]]:
        """Method -> names of the files that have its attributions."""
        if _ATTRIBUTIONS not in self._names:
            return {}
        folder = "/".join(filter(None, (self._place, _ATTRIBUTIONS)))
        paths = [Path(item.path) for item in self.client.list_artifacts(self.run_id, folder)]
        return parts_of(path.stem for path in paths if path.suffix == ".safetensors")

    def attributions(self, method: str) -> AttributionOutput:
        """One attribution per example."""
        from attriflow.output import load

        check_choice("method", method, self.methods)
        parts = (load(self._fetch(f"{_ATTRIBUTIONS}/{stem}.safetensors")) for stem in self._parts[method])
        return functools.reduce(operator.add, parts)

    def _fetch(self, path: str) -> Path:
        if path not in self._fetched:
            # Stores differ in where below the folder a single file comes to lie; names of files repeat.
            folder = tempfile.mkdtemp(dir=self._folder)
            try:
                with no_artifact_bars():
                    whole = "/".join(filter(None, (self._place, path)))
                    self._fetched[path] = Path(self.client.download_artifacts(self.run_id, whole, folder))
            except (MlflowException, OSError) as error:
                raise InputError(f"cannot fetch {path} of run {self.run_id}: {error}") from error
        return self._fetched[path]


def _check_file(uri: str) -> None:
    """Raise `InputError` for a database or folder that is not there: MLflow would make an empty one."""
    parts = urlparse(uri)
    path: Path | None = None
    database = parts.scheme.startswith("sqlite")
    if database:
        path = Path(unquote(uri.split(":///", 1)[-1].split("?")[0]))
    elif parts.scheme in ("", "file") or len(parts.scheme) == 1:  # a drive of Windows
        path = Path(unquote(parts.path) if parts.scheme == "file" else uri)
    if path is not None and not path.exists():
        raise InputError(f"no MLflow store at {uri}: {path} does not exist")
    if database and path is not None and not _is_store(path):
        raise InputError(f"{path} is not an MLflow database")


def _is_store(path: Path) -> bool:
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone()
    except sqlite3.Error:
        return False
    return found is not None


def _time(milliseconds: Any) -> str:
    return datetime.fromtimestamp(int(milliseconds) / 1000).strftime("%Y-%m-%d %H:%M")
