"""Writes to one MLflow run through the client: no active run, no active model, no surprises from other threads."""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow.entities import Metric, Param, RunTag
from mlflow.models.evaluation.base import EvaluationArtifact
from mlflow.tracking import MlflowClient
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS, MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from attriflow.tracking.artifacts import TableArtifact, write_table
from attriflow.tracking.stopping import terminable

if TYPE_CHECKING:
    import pandas as pd

PER_BATCH = 100
"""MLflow takes 100 params, 100 tags and 1,000 metrics per request."""
LONGEST_PARAM, LONGEST_TAG = 6000, 5000


@dataclass(frozen=True)
class LoggedRun:
    """A run, and the store that has it."""

    run_id: str
    tracking_uri: str


@contextmanager
def new_run(tracking_uri: str | None, experiment: str | None) -> Iterator[LoggedRun]:
    """Start a run, for MLflow's own functions, too; without a store or an experiment, in those that MLflow uses."""
    if tracking_uri is not None:
        mlflow.set_tracking_uri(tracking_uri)
    if experiment is not None:
        mlflow.set_experiment(experiment)
    with terminable(), mlflow.start_run() as run:
        yield LoggedRun(run.info.run_id, mlflow.get_tracking_uri())


class RunLogger:
    """Metrics, params, tags and artifacts of one run."""

    def __init__(self, run_id: str, client: MlflowClient | None = None) -> None:
        self.run_id, self.client = run_id, client or MlflowClient()

    def child(self, name: str, tags: Mapping[str, str]) -> RunLogger:
        """Start a nested run."""
        parent = self.client.get_run(self.run_id)
        own = {MLFLOW_PARENT_RUN_ID: self.run_id, MLFLOW_RUN_NAME: name, **tags}
        run = self.client.create_run(parent.info.experiment_id, tags=resolve_tags(own), run_name=name)
        return RunLogger(run.info.run_id, self.client)

    def finish(self, status: str = "FINISHED") -> None:
        """End the run."""
        self.client.set_terminated(self.run_id, status)

    def metrics(self, values: Mapping[str, float]) -> None:
        """Log metrics, one point each, to the run only.

        During an evaluation the evaluated model is MLflow's active model, and the client adds every metric to it: the
        unprefixed metrics of all methods would pile up there under the same names. A thread of its own has no active
        model.
        """
        now = int(time.time() * 1000)
        entries = [Metric(key_of(k), float(v), now, 0) for k, v in values.items()]
        with ThreadPoolExecutor(1) as thread:
            for i in range(0, len(entries), PER_BATCH):
                thread.submit(self.client.log_batch, self.run_id, metrics=entries[i : i + PER_BATCH]).result()

    def params(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Log params and return those that the run already has with another value, which MLflow cannot change."""
        known = self.client.get_run(self.run_id).data.params
        texts = {key_of(k): text_of(v)[:LONGEST_PARAM] for k, v in values.items()}
        entries = [Param(k, v) for k, v in texts.items() if k not in known]
        for i in range(0, len(entries), PER_BATCH):
            self.client.log_batch(self.run_id, params=entries[i : i + PER_BATCH])
        return {k: v for k, v in texts.items() if k in known and known[k] != v}

    def tags(self, values: Mapping[str, Any]) -> None:
        """Set tags."""
        entries = [RunTag(key_of(k), text_of(v)[:LONGEST_TAG]) for k, v in values.items()]
        for i in range(0, len(entries), PER_BATCH):
            self.client.log_batch(self.run_id, tags=entries[i : i + PER_BATCH])

    def artifact(self, path: str, content: bytes | str | Callable[[Path], object]) -> str:
        """Log bytes, a text, or what a function puts into the file it is given; returns the artifact's URI."""
        folder, _, name = path.rpartition("/")
        with tempfile.TemporaryDirectory() as temporary:
            local = Path(temporary) / name
            if callable(content):
                content(local)
            else:
                local.write_bytes(content.encode() if isinstance(content, str) else content)
            self.client.log_artifact(self.run_id, str(local), folder or None)
        return self.uri(path)

    def table(self, name: str, table: pd.DataFrame) -> EvaluationArtifact:
        """Log a table as `mlflow.log_table` does, which would append to an older table instead of replacing it."""
        uri = self.artifact(name, lambda local: write_table(table, local))
        entry = {"path": name, "type": "table"}
        tables = json.loads(self.client.get_run(self.run_id).data.tags.get(MLFLOW_LOGGED_ARTIFACTS, "[]"))
        if entry not in tables:
            self.client.set_tag(self.run_id, MLFLOW_LOGGED_ARTIFACTS, json.dumps([*tables, entry]))
        return TableArtifact(uri=uri, content=table)

    def uri(self, path: str) -> str:
        """URI of an artifact of this run."""
        return f"{str(self.client.get_run(self.run_id).info.artifact_uri).rstrip('/')}/{path}"


def key_of(name: str) -> str:
    """A name as MLflow accepts it for metrics, params and tags."""
    return re.sub(r"[^/\w.\- :]", "_", name)[:250]


def text_of(value: Any) -> str:
    """A setting as text: strings as they are, the rest as JSON."""
    return value if isinstance(value, str) else json.dumps(value, default=repr, ensure_ascii=False)
