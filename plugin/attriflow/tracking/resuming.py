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
from attriflow.evaluation.selection import part_of
from attriflow.evaluation.work import BLOCK, NAME, WorkFolder
from attriflow.registry import methods, metrics, step_functions
from attriflow.streaming.deciding import part_facts
from attriflow.tracking.keeping import FOLDER, status_of
from attriflow.tracking.places import ENDED, NO_VALUES, Place, choose, claims_of, folders, within
from attriflow.versions import COMPUTING, versions
from attriflow.workers import rounding

if TYPE_CHECKING:
    from mlflow.entities import Run, RunInfo

    from attriflow.evaluation.runner import Evaluation

WORK = "attriflow.work"
"""Tag of an evaluation: the folder that has what its units found."""
RESUME = "resume"
"""Key of an evaluator's configuration: the run to go on with."""


def decisive(evaluation: Evaluation, model: str) -> dict[str, Any]:
    """Everything that decides a number of an evaluation, by name."""
    loaded, config, chosen = evaluation.model, evaluation.config.as_dict(), evaluation.config
    functions = dict.fromkeys((chosen.attributed_fn, *chosen.step_functions))
    parts = [
        *((methods, part_of(name)) for name in chosen.methods),
        *((metrics, name) for name in chosen.metrics),
        *((step_functions, name) for name in functions if isinstance(name, str)),
    ]
    return {
        "weights": weights_digest(loaded.model),
        "model": model,
        "device": str(loaded.device),
        "dtype": str(loaded.dtype),
        "examples per unit": BLOCK,
        **{f"rows ({what})": digest for what, digest in data_digests(evaluation.data, ()).items()},
        **{name: value for name, value in config.items() if name not in NO_VALUES},
        **part_facts(parts),
        **{f"version of {name}": version for name, version in versions(COMPUTING).items()},
    }


def begun(tags: Mapping[str, str], prefix: str, identity: str) -> Place | None:
    """The place of the evaluation that an earlier process began in a run with these tags; None where there is none.

    That is the same evaluation, or the last one, which then has something to say about what differs.
    """
    chosen, known = choose(tags, prefix, identity), folders(tags)
    if chosen.again:
        return chosen
    if known:
        last = [f for f in known if WORK in within(tags, f)] or known
        return Place(last[-1], prefix, True, others=tuple(f for f in known if f != last[-1]))
    claims = sorted(claims_of(tags).items(), key=lambda item: item[1]["began"])  # killed before it logged more
    return Place(claims[-1][1]["folder"], prefix, claim=(claims[-1][0], tags[claims[-1][0]])) if claims else None


def opened(evaluation: Evaluation, model: str, run: Run, place: Place, ours: Place | None) -> WorkFolder:
    """The folder of an evaluation.

    Args:
        evaluation: What is evaluated.
        model: The model's name.
        run: The run.
        place: Where the evaluation lies in it.
        ours: The same where it was begun by an earlier process, and goes on.

    Raises:
        InputError: There is nothing to go on with, or what decides the numbers has changed.
    """
    told = within(run.data.tags, place.folder).get(WORK)
    folder = Path(told) if ours and told else _folder(run, place)
    there = (folder / f"{NAME}.state").is_file()
    if ours is not None and ours.again and not there:
        why = "it is finished" if ENDED in within(run.data.tags, place.folder) else f"{folder} is not there"
        raise InputError(f"there is nothing to resume in run {run.info.run_id}: {why}")
    config, on_cpu = evaluation.config, evaluation.model.device.type == "cpu"
    by = rounding(config.engine, config.workers) if on_cpu else None
    return WorkFolder(folder, decisive(evaluation, model), ours is not None and there, by)


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
    before = run_to_resume(resume).info
    client.set_tag(active, "attriflow.resumed", resume)
    client.update_run(resume, status="RUNNING")
    try:
        yield resume
    except InputError:
        leave_as_it_was(client, before)
        raise
    except BaseException as error:
        client.set_terminated(resume, status_of(error))
        raise
    client.set_terminated(resume)


def leave_as_it_was(client: MlflowClient, before: RunInfo) -> None:
    """Status and end of a run that could not be gone on with."""
    if before.end_time is None:
        client.update_run(before.run_id, status=before.status)
    else:
        client.set_terminated(before.run_id, before.status, before.end_time)


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
