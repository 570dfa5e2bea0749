"""Writes to one MLflow run through the client: no active run, no active model, no surprises from other threads."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow.models.evaluation.base import EvaluationArtifact
from mlflow.tracking import MlflowClient

from attriflow.errors import InputError
from attriflow.kernels.stopping import terminable
from attriflow.tracking.artifacts import TableArtifact, write_table
from attriflow.tracking.keeping import Keeper
from attriflow.tracking.patience import AT_FIRST, away, patience, patiently, quick

if TYPE_CHECKING:
    import pandas as pd

LONGEST_PARAM, LONGEST_TAG = 6000, 5000


@dataclass(frozen=True)
class LoggedRun:
    """A run, and the store that has it."""

    run_id: str
    tracking_uri: str


@contextmanager
def new_run(tracking_uri: str | None, experiment: str | None, resume: str | None = None) -> Iterator[LoggedRun]:
    """Start a run, for MLflow's own functions, too; without a store or an experiment, in those that MLflow uses.

    `resume` is the id of a run to go on with instead.
    """
    with terminable():
        if tracking_uri is not None:
            mlflow.set_tracking_uri(tracking_uri)
        uri = mlflow.get_tracking_uri()
        check_store(uri, experiment)
        if resume is not None:
            from attriflow.tracking.resuming import leave_as_it_was, run_to_resume

            experiment = None
            before = run_to_resume(resume, uri).info
        if experiment is not None:
            mlflow.set_experiment(experiment)
        run = mlflow.start_run(run_id=resume)
        try:
            yield LoggedRun(run.info.run_id, uri)
            patiently(lambda: MlflowClient().set_terminated(run.info.run_id), uri, patience())
        except BaseException as raised:
            with quick():
                try:
                    mlflow.end_run("FAILED")
                    if resume is not None and isinstance(raised.__cause__ or raised, InputError):  # it was refused
                        leave_as_it_was(MlflowClient(), before)
                except Exception as error:
                    if not away(error):
                        raise
            raise
        with quick():
            mlflow.end_run()


def check_store(tracking_uri: str | None, experiment: str | None) -> None:
    """Look whether a store answers and has (or may get) an experiment, before there is anything to log.

    Raises:
        AwayError: It does not answer.
        InputError: The experiment was deleted.
    """
    client = MlflowClient(tracking_uri)
    seconds = min(patience(), AT_FIRST)

    def look() -> Any:
        return client.search_experiments(max_results=1) and client.get_experiment_by_name(experiment or "Default")

    found = patiently(look, client.tracking_uri, seconds)
    if experiment is not None and found and found.lifecycle_stage != "active":
        raise InputError(
            f"the experiment {experiment!r} in {client.tracking_uri} was deleted; restore it or name another"
        )


class RunLogger:
    """Metrics, params, tags and artifacts of one run; `folder` opens all their names but those of metrics."""

    def __init__(
        self, run_id: str, client: MlflowClient | None = None, folder: str = "", keeper: Keeper | None = None
    ) -> None:
        self.run_id, self.folder = run_id, folder
        self.keeper = keeper or Keeper(run_id, client)

    def child(self, name: str, tags: Mapping[str, str]) -> RunLogger:
        """Start a nested run, or take up again the one that has these tags."""
        key = uuid.uuid4().hex
        self.keeper.send(do="child", run=key, name=name, tags=dict(tags))
        return RunLogger(key, keeper=self.keeper)

    def finish(self, status: str = "FINISHED") -> None:
        """End the run."""
        self.keeper.send(do="finish", run=self.run_id, status=status)

    def metrics(self, values: Mapping[str, float], model_id: str | None = None) -> None:
        """Log metrics, one point each, to the run, and to a logged model."""
        named = {key_of(k): float(v) for k, v in values.items()}
        link = {} if model_id is None else {"model_id": model_id}
        self.keeper.send(do="metrics", run=self.run_id, values=named, time=int(time.time() * 1000), **link)

    def evaluates(self, model_id: str) -> None:
        """Make it known that the run is about a logged model."""
        self.keeper.send(do="model", run=self.run_id, model_id=model_id)

    def traces(self, traces: Sequence[Mapping[str, Any]], model_id: str | None = None) -> None:
        """Log traces (see `attriflow.tracking.traces`) of the run, and of a logged model."""
        link = {} if model_id is None else {"model_id": model_id}
        self.keeper.send(do="traces", run=self.run_id, traces=list(traces), **link)

    def params(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Log params and return those that the run already has with another value, which MLflow cannot change."""
        texts = {self._named(key_of(k)): text_of(v)[:LONGEST_PARAM] for k, v in values.items()}
        return self.keeper.send(do="params", run=self.run_id, values=texts) or {}

    def tags(self, values: Mapping[str, Any]) -> None:
        """Set tags."""
        texts = {self._named(key_of(k)): text_of(v)[:LONGEST_TAG] for k, v in values.items()}
        self.keeper.send(do="tags", run=self.run_id, values=texts)

    def untag(self, names: Iterable[str]) -> None:
        """Remove tags, where they are."""
        self.keeper.send(do="untag", run=self.run_id, names=[self._named(name) for name in names])

    def artifact(self, path: str, content: bytes | str | Callable[[Path], object]) -> str:
        """Log bytes, a text, or what a function puts into the file it is given; returns the artifact's URI."""
        path = self._named(path)
        local = self.keeper.file(self.run_id, path)
        local.unlink(missing_ok=True)
        if callable(content):
            content(local)
        else:
            local.write_bytes(content.encode() if isinstance(content, str) else content)
        self.keeper.send(do="artifact", run=self.run_id, path=path)
        return f"{self.keeper.artifact_uri(self.run_id)}/{path}"

    def table(self, name: str, table: pd.DataFrame) -> EvaluationArtifact:
        """Log a table as `mlflow.log_table` does, which would append to an older table instead of replacing it.

        MLflow looks for the tables of a result at the root of the run only: those in a folder are there, too.
        """
        uri = self.artifact(name, lambda local: write_table(table, local))
        if self.folder:
            return RunLogger(self.run_id, keeper=self.keeper).table(f"{self.folder.rpartition('/')[2]}_{name}", table)
        self.keeper.send(do="table", run=self.run_id, path=name)
        return TableArtifact(uri=uri, content=table)

    def uri(self, path: str) -> str:
        """URI of an artifact of this run."""
        return f"{self.keeper.artifact_uri(self.run_id)}/{self._named(path)}"

    def _named(self, name: str) -> str:
        return f"{self.folder}/{name}" if self.folder else name


def key_of(name: str) -> str:
    """A name as MLflow accepts it for metrics, params and tags."""
    return re.sub(r"[^/\w.\- :]", "_", name)[:250]


def text_of(value: Any) -> str:
    """A setting as text: strings as they are, the rest as JSON."""
    return value if isinstance(value, str) else json.dumps(value, default=repr, ensure_ascii=False)
