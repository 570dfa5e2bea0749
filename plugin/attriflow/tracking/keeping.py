"""What is written to a run, one operation at a time: sent at once, and kept in a folder if the server is gone for good.

A folder has `operations.jsonl` (first the run it belongs to, then the operations in their order) and `files`. They may
be sent again: a store that has one of them already is not changed by it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
import uuid
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlparse

from mlflow.entities import LoggedModelInput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS, MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from attriflow.errors import AttriflowError, InputError, reason_of
from attriflow.tracking.patience import AT_FIRST, AwayError, away, line, patience, patiently, quick

T = TypeVar("T")
Operation = Mapping[str, Any]
PER_BATCH = 100
"""MLflow takes 100 params, 100 tags and 1,000 metrics per request."""
JOURNAL, FILES = "operations.jsonl", "files"
FOLDER = "ATTRIFLOW_KEPT"
"""Environment variable: where folders are made that keep what a server did not take; the current one by default."""
STALE = ("attriflow.stopped", "attriflow.reason", "attriflow.failed_methods", "attriflow.failed_step_functions")
"""Tags that tell of an earlier try in the same run."""
OPERATIONS = ("child", "finish", "metrics", "params", "tags", "untag", "artifact", "table", "model")
"""What a journal may ask for."""
_HERE = ("", "file", "sqlite")
_KEY = re.compile(r"[\w-]{1,64}")


class KeptError(AttriflowError, ConnectionError):
    """A server is gone for good; the message names the folder that has everything."""


def status_of(error: BaseException) -> str:
    """MLflow's status of a run that an error ended."""
    return "FAILED" if isinstance(error, Exception) else "KILLED"


class Keeper:
    """Sends operations to one store.

    Attributes:
        root: The run that everything belongs to.
        gone: Whether the store was given up: what follows is only kept.
        resumed: Whether an earlier process has logged some of it: metrics that a run has are not logged again.
        about: Names of the run and its experiment, for another store.
    """

    def __init__(self, root: str, client: MlflowClient | None = None) -> None:
        self.root, self.client = root, client or MlflowClient()
        self.about: dict[str, str] = {}
        self.uri = str(self.client.tracking_uri)
        self.remote = urlparse(self.uri).scheme not in _HERE and len(urlparse(self.uri).scheme) > 1
        self.gone = self.sent = self.resumed = False
        self.ids = {root: root}
        self._places: dict[str, str] = {}
        self._folder: Path | None = None
        self._clean: Any = None
        self._unsent = 0

    # -- the store -------------------------------------------------------------------------------------------------

    def ask(self, call: Callable[[], T]) -> T:
        """What the store says; it is asked again while it is away.

        Raises:
            AwayError: It does not come back.
        """
        if self.gone:
            raise AwayError(f"the tracking server {self.uri} does not answer")
        waiting = False

        def asked() -> T:
            nonlocal waiting
            try:
                return call()
            except Exception as error:
                waiting = bool(away(error))
                raise

        seconds = patience() if self.remote else min(patience(), AT_FIRST)
        try:
            return patiently(
                asked,
                self.uri,
                seconds if self.sent else min(seconds, AT_FIRST),
                ", then everything is kept in a folder" if self.sent and self.remote else "",
            )
        except AwayError:
            self.gone = self.sent and self.remote
            raise
        except (KeyboardInterrupt, SystemExit):
            self.gone = self.remote and waiting  # nobody waits any longer
            raise

    def send(self, **operation: Any) -> Any:
        """Do an operation; what the store answers, or None where it is only kept."""
        self._note(operation)
        if self.gone:
            return None
        try:
            found = self.ask(lambda: self.do(operation))
        except AwayError:
            if not self.gone:
                raise
            self._unsent = len(operations(self.folder)[1]) - 1
            line(f"the tracking server {self.uri} is given up; the work goes on, and is kept in {self.folder}")
            return None
        self.sent = True
        if operation["do"] == "artifact" and not self.remote:
            self.file(operation["run"], operation["path"]).unlink()
        return found

    def artifact_uri(self, run: str) -> str:
        """Where the artifacts of a run lie."""
        if self.gone:
            return self.file(run, "").as_uri()
        if run not in self._places:
            found = self.ask(lambda: self.client.get_run(self.ids[run]).info.artifact_uri)
            self._places[run] = str(found).rstrip("/")
        return self._places[run]

    # -- the folder ------------------------------------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        """Where files lie until they are sent, and what was sent, for a store that may go away."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="attriflow-"))
            self._clean = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
            if self.remote:
                self._note({"tracking_uri": self.uri, "run": self.root, **self.about})
        return self._folder

    def file(self, run: str, path: str) -> Path:
        """The place of an artifact in the folder."""
        found = self.folder / FILES / run / path
        found.parent.mkdir(parents=True, exist_ok=True)
        return found

    def _note(self, operation: Operation) -> None:
        if not self.remote:
            return
        with (self.folder / JOURNAL).open("a", encoding="utf-8") as f:
            f.write(json.dumps(operation) + "\n")

    def close(self, status: str | None = None) -> None:
        """The end of the work. What a store did not take is sent once more, else kept.

        Args:
            status: How the run ends, if it has to be told.

        Raises:
            KeptError: The store is still away.
        """
        try:
            if self.gone and self._folder is not None:
                if status is not None:
                    self._note({"do": "finish", "run": self.root, "status": status})
                self._send_again()
        finally:
            if self._clean is not None:
                self._clean()
            self._folder = self._clean = None

    def _send_again(self) -> None:
        self.gone = False
        try:
            with quick():
                self.client.get_run(self.root)
            replay(self.folder, self, self._unsent)
        except Exception as error:
            self.gone = True
            kept = self._keep()
            why = "does not answer" if isinstance(error, AwayError) or away(error) else f"failed: {reason_of(error)}"
            raise KeptError(
                f"the tracking server {self.uri} {why}. Everything is kept in {kept}; attriflow log {kept} logs it"
            ) from error
        line("the tracking server answers again: everything is logged")

    def _keep(self) -> Path:
        """Move the folder to where it stays."""
        self._clean.detach()
        for place in (os.environ.get(FOLDER) or ".", tempfile.gettempdir()):
            target = Path(place).absolute() / f"attriflow-kept-{self.root[:8]}-{uuid.uuid4().hex[:4]}"
            with contextlib.suppress(OSError):
                target.parent.mkdir(parents=True, exist_ok=True)
                return Path(shutil.move(str(self.folder), str(target)))
        return self.folder

    # -- operations ------------------------------------------------------------------------------------------------

    def do(self, operation: Operation) -> Any:
        """Send one operation."""
        if operation["do"] not in OPERATIONS:
            raise InputError(f"unknown operation {operation['do']!r}")
        return getattr(self, f"_{operation['do']}")(**{k: v for k, v in operation.items() if k != "do"})

    def _child(self, run: str, name: str, tags: Mapping[str, str], **_: Any) -> str:
        """Start a nested run; one that has the same tags is taken up again."""
        parent = self.client.get_run(self.ids[self.root])
        query = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent.info.run_id}'"
        for known in self.client.search_runs([parent.info.experiment_id], query):
            if all(known.data.tags.get(k, "") == v for k, v in tags.items()):
                self.ids[run] = str(known.info.run_id)
                for tag in STALE:
                    if tag in known.data.tags:
                        self.client.delete_tag(self.ids[run], tag)
                self.client.update_run(self.ids[run], status="RUNNING")
                return self.ids[run]
        own = {MLFLOW_PARENT_RUN_ID: parent.info.run_id, MLFLOW_RUN_NAME: name, **tags}
        made = self.client.create_run(parent.info.experiment_id, tags=resolve_tags(own), run_name=name)
        self.ids[run] = str(made.info.run_id)
        return self.ids[run]

    def _finish(self, run: str, status: str) -> None:
        self.client.set_terminated(self.ids[run], status)

    def _metrics(self, run: str, values: Mapping[str, float], time: int, model_id: str | None = None) -> None:
        """To the run, and to no other model than is named.

        During an evaluation the evaluated model is MLflow's active model, and the client adds every metric to it: the
        unprefixed metrics of all methods would pile up there under the same names. A thread of its own has no active
        model.
        """
        known = self.client.get_run(self.ids[run]).data.metrics if self.resumed else {}
        model = self._linked(model_id)
        entries = [Metric(k, v, time, 0, model_id=model) for k, v in values.items() if k not in known]
        with ThreadPoolExecutor(1) as thread:
            for i in range(0, len(entries), PER_BATCH):
                thread.submit(self.client.log_batch, self.ids[run], metrics=entries[i : i + PER_BATCH]).result()

    def _params(self, run: str, values: Mapping[str, str]) -> dict[str, str]:
        known = self.client.get_run(self.ids[run]).data.params
        entries = [Param(k, v) for k, v in values.items() if k not in known]
        for i in range(0, len(entries), PER_BATCH):
            self.client.log_batch(self.ids[run], params=entries[i : i + PER_BATCH])
        return {k: v for k, v in values.items() if k in known and known[k] != v}

    def _tags(self, run: str, values: Mapping[str, str]) -> None:
        entries = [RunTag(k, v) for k, v in values.items()]
        for i in range(0, len(entries), PER_BATCH):
            self.client.log_batch(self.ids[run], tags=entries[i : i + PER_BATCH])

    def _untag(self, run: str, names: list[str]) -> None:
        known = self.client.get_run(self.ids[run]).data.tags
        for name in names:
            if name in known:
                self.client.delete_tag(self.ids[run], name)

    def _artifact(self, run: str, path: str) -> None:
        self.client.log_artifact(self.ids[run], str(self.file(run, path)), path.rpartition("/")[0] or None)

    def _model(self, run: str, model_id: str) -> None:
        if self._linked(model_id):
            self.client.log_inputs(self.ids[run], models=[LoggedModelInput(model_id)])

    def _linked(self, model_id: str | None) -> str | None:
        """The model, unless what was kept goes to another store, which has not got it."""
        if model_id is not None and self.ids[self.root] != self.root:
            try:
                self.client.get_logged_model(model_id)
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return None
                raise
        return model_id

    def _table(self, run: str, path: str) -> None:
        """Make a table known, as `mlflow.log_table` does."""
        entry = {"path": path, "type": "table"}
        tables = json.loads(self.client.get_run(self.ids[run]).data.tags.get(MLFLOW_LOGGED_ARTIFACTS, "[]"))
        if entry not in tables:
            self.client.set_tag(self.ids[run], MLFLOW_LOGGED_ARTIFACTS, json.dumps([*tables, entry]))


def operations(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The head of a folder's journal and its operations; a last line that was cut off is left out."""
    try:
        lines = (folder / JOURNAL).read_text(encoding="utf-8").split("\n")
        found = [json.loads(text) for text in lines[:-1]]
        head, rest = dict(found[0]), found[1:]
        for one in (head, *rest):
            _check(one)
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise InputError(f"{folder} does not hold what an evaluation kept ({JOURNAL}): {error}") from None
    return head, rest


def log_kept(
    folder: Path, *, tracking_uri: str | None = None, experiment: str | None = None, run: str | None = None
) -> tuple[str, str]:
    """Log what a folder keeps: to the run that it belongs to, or where the store does not have it, to a new one.

    Args:
        folder: What an evaluation kept when the server did not come back.
        tracking_uri: The store; by default the one that was away.
        experiment: Log to a new run of this experiment.
        run: Log to this run.

    Returns:
        The run, and the store that has it.
    """
    head, _ = operations(folder)
    client = MlflowClient(tracking_uri or head.get("tracking_uri"))
    keeper = Keeper(head["run"], client)
    keeper._folder, keeper.sent = folder, True
    wanted = run or (None if experiment else head["run"])
    known = None if wanted is None else keeper.ask(lambda: _run(client, wanted))
    if run is not None and known is None:
        raise InputError(f"there is no run {run} in {keeper.uri}")
    if known is None:
        name = experiment or head.get("experiment") or "Default"
        known = keeper.ask(lambda: _new_run(client, name, head.get("name")))
    keeper.ids[head["run"]] = known
    replay(folder, keeper)
    return known, keeper.uri


def _run(client: MlflowClient, run_id: str) -> str | None:
    try:
        return str(client.get_run(run_id).info.run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def _new_run(client: MlflowClient, experiment: str, name: str | None) -> str:
    found = client.get_experiment_by_name(experiment)
    place = client.create_experiment(experiment) if found is None else found.experiment_id
    return str(client.create_run(place, run_name=name).info.run_id)


def _check(operation: Mapping[str, Any]) -> None:
    """Raise `ValueError` for what this module does not write: a folder may come from anywhere."""
    if operation.get("do", "child") not in OPERATIONS or not _KEY.fullmatch(operation["run"]):
        raise ValueError(f"unknown operation {json.dumps(operation)[:80]}")
    path = operation.get("path", "")
    if path.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", path) or ":" in path:
        raise ValueError(f"a path out of the folder: {path[:80]!r}")


def replay(folder: Path, keeper: Keeper, first: int = 0) -> int:
    """Send the operations of a folder, from one on; returns their number."""
    found = operations(folder)[1][first:]
    for operation in found:
        keeper.ask(lambda operation=operation: keeper.do(operation))  # type: ignore[misc]
    return len(found)
