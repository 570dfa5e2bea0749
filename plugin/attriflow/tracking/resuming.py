"""Evaluations that go on where an earlier process stopped: the folder that their units are kept in, beside the run.

The folder lies next to the artifacts of the run where these are on this machine, else where `ATTRIFLOW_KEPT` says (the
current folder by default); a tag of the run names it. It is removed once the evaluation is done and its process ends.
"""

from __future__ import annotations

import atexit
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from attriflow.errors import InputError
from attriflow.evaluation.identity import data_digests, weights_digest
from attriflow.evaluation.work import BLOCK, WorkFolder
from attriflow.tracking.keeping import FOLDER
from attriflow.tracking.places import NO_VALUES, Place, folders, within
from attriflow.tracking.stopping import status_of
from attriflow.versions import COMPUTING, versions

if TYPE_CHECKING:
    from mlflow.entities import Run

    from attriflow.evaluation.runner import Evaluation

WORK = "attriflow.work"
"""Tag of an evaluation: the folder that has what its units found."""
RESUME = "resume"
"""Key of an evaluator's configuration: the run to go on with."""


def decisive(evaluation: Evaluation, model: str) -> dict[str, Any]:
    """Everything that decides a number of an evaluation, by name."""
    loaded, config = evaluation.model, evaluation.config.as_dict()
    return {
        "weights": weights_digest(loaded.model),
        "model": model,
        "device": str(loaded.device),
        "dtype": str(loaded.dtype),
        "examples per unit": BLOCK,
        **{f"rows ({what})": digest for what, digest in data_digests(evaluation.data, ()).items()},
        **{name: value for name, value in config.items() if name not in NO_VALUES},
        **{f"version of {name}": version for name, version in versions(COMPUTING).items()},
    }


def place_of(tags: Mapping[str, str], chosen: Place, resume: bool) -> Place:
    """Where the evaluation lies: as chosen, or the last one of the run where another was begun that goes on."""
    known = folders(tags)
    if not resume or chosen.again or not known:
        return chosen
    begun = [f for f in known if WORK in within(tags, f)] or known
    return Place(begun[-1], chosen.prefix, True, tuple(f for f in known if f != begun[-1]))


def opened(evaluation: Evaluation, model: str, run: Run, place: Place, resume: bool) -> WorkFolder:
    """The folder of an evaluation.

    Raises:
        InputError: `resume`, and there is nothing to go on with, or what decides the numbers has changed.
    """
    told = within(run.data.tags, place.folder).get(WORK)
    folder = Path(told) if resume and told else _folder(run, place)
    begun = folder.is_dir()
    if resume and not begun and folders(run.data.tags):
        why = "it is finished" if run.info.status == "FINISHED" else f"{folder} is not there"
        raise InputError(f"there is nothing to resume in run {run.info.run_id}: {why}")
    return WorkFolder(folder, decisive(evaluation, model), resume and begun)


def remove_at_exit(folder: Path) -> None:
    """Remove the folder of an evaluation that is done when the process ends: until then, MLflow has more to log."""
    atexit.register(shutil.rmtree, folder, ignore_errors=True)


def run_to_resume(run_id: str, tracking_uri: str | None = None) -> Run:
    """The run of that id; `InputError` when the store has none."""
    client = MlflowClient(tracking_uri)
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        raise InputError(f"there is no run {run_id} in {client.tracking_uri}") from error


@contextmanager
def resumed_run(active: str, resume: str | None) -> Iterator[str]:
    """The run to log to: the active one, or another one to go on with, which is ended in the end."""
    if resume is None or resume == active:
        yield active
        return
    client = MlflowClient()
    run_to_resume(resume)
    client.set_tag(active, "attriflow.resumed", resume)
    client.update_run(resume, status="RUNNING")
    try:
        yield resume
    except BaseException as error:
        client.set_terminated(resume, status_of(error))
        raise
    client.set_terminated(resume)


def checked_resume(value: Any) -> str | None:
    """`resume` of an evaluator's configuration."""
    if value is not None and (not isinstance(value, str) or not value):
        raise InputError(f"'resume' must be the id of a run, not {value!r}")
    return value


def _folder(run: Run, place: Place) -> Path:
    uri = str(run.info.artifact_uri)
    scheme = urlparse(uri).scheme
    name = "-".join(filter(None, ("attriflow-work", place.folder.rpartition("/")[2])))
    if scheme == "file":
        return Path(url2pathname(urlparse(uri).path)).absolute().parent / name
    if len(scheme) < 2:  # a path, of Windows with a drive
        return Path(uri).absolute().parent / name
    return Path(os.environ.get(FOLDER) or ".").absolute() / f"{name}-{run.info.run_id}"
