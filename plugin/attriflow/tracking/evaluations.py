"""Evaluations in an MLflow store and what they logged, for leaderboards and checks; read through the client only.

Runs are found with one query per page; of each run that counts, two tables are read: one row per method, and the metric
values per step. Nested runs are not looked at, so that hundreds of evaluations take seconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from attriflow.datasets import limits
from attriflow.errors import InputError, UnknownNameError, reason_of, unknown
from attriflow.evaluation.identity import same_rows
from attriflow.statistics.standings import COSTS
from attriflow.tracking.foreign import board_rows, cost_rounds, directions_of, method_options, score_table
from attriflow.tracking.places import folders, within
from attriflow.tracking.quiet import no_artifact_bars

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PAGE, THREADS = 1000, 8
EVALUATED = "tags.`attriflow.device` LIKE '%'"  # evaluations; runs of single methods have no such tag
OTHERS = "tags.`attriflow.device` IS NULL AND tags.`attriflow.method` IS NULL"  # not in MLflow's oldest versions
MOST_OTHERS = 20
"""Runs that are no evaluations and are named; an experiment may have thousands."""
_SHARED = (
    "attributed_fn",
    "attributed_fn_args",
    "attribute_target",
    "contrast_target",
    "contrast_source",
    "contrast_targets_alignments",
    "contrast_force_inputs",
    "target_spans",
    "span_value",
)
"""Settings that change what is explained."""
_USUAL = ("", "null", "false", "sum")
"""Values of these settings that change nothing."""
_DATA = ("inputs", "targets", "evidence", "foils")


@dataclass(frozen=True)
class EvaluationRun:
    """One evaluation as its run tells it; `folder` where the run has several."""

    run: Run = field(repr=False)
    folder: str = ""

    @property
    def run_id(self) -> str:
        """Id of the run."""
        return str(self.run.info.run_id)

    @property
    def name(self) -> str:
        """Name of the run."""
        found = str(self.run.info.run_name or self.run_id)
        return f"{found} ({self.folder.rpartition('/')[2]})" if self.folder else found

    @cached_property
    def tags(self) -> Mapping[str, str]:
        """Tags of the evaluation."""
        return within(self.run.data.tags, self.folder)

    @cached_property
    def params(self) -> Mapping[str, str]:
        """Params of the evaluation."""
        return within(self.run.data.params, self.folder)

    @property
    def started(self) -> int:
        """Start, in milliseconds."""
        return int(self.run.info.start_time or 0)

    @property
    def model(self) -> str:
        """Name of the model; its class where the run does not tell."""
        tags = self.tags
        return str(tags.get("attriflow.model_name") or tags.get("attriflow.model") or "model")

    @property
    def weights(self) -> str:
        """Digest of the model's weights; empty where the run does not tell."""
        return str(self.tags.get("attriflow.weights") or "")

    @cached_property
    def rows(self) -> dict[str, str]:
        """Digests of inputs, targets, evidence and foils; a run that does not tell its inputs has its own."""
        tags = {what: self.tags.get(f"attriflow.{what}") for what in _DATA}
        own = f"run {'/'.join(filter(None, (self.run_id, self.folder)))}"
        return {"inputs": own} | {what: tag for what, tag in tags.items() if tag}

    @property
    def inputs(self) -> str:
        """Identifies the rows between models: inputs, given targets, evidence and foils."""
        return same_rows(self.rows)

    @property
    def data(self) -> str:
        """Name of the data."""
        return str(self.tags.get("attriflow.data_name") or f"data {self.rows['inputs'][:6]}")

    @property
    def seed(self) -> str:
        """Seed of the evaluation."""
        return self.setting("seed")

    @cached_property
    def methods(self) -> dict[str, str]:
        """Method -> the options that were given for it, as JSON."""
        return method_options(self.setting("methods"), self.setting("method_options"))

    @cached_property
    def shared(self) -> str:
        """Settings that change what is explained, as JSON."""
        given = {k: self.setting(k) for k in _SHARED}
        return json.dumps({k: v for k, v in given.items() if v not in _USUAL}, sort_keys=True)

    @cached_property
    def cost_rounds(self) -> dict[str, list[float]]:
        """Method -> forward-pass equivalents of each timed round, where the run tells."""
        return cost_rounds(str(self.tags.get("attriflow.forward_equivalents", "")))

    @property
    def unfinished(self) -> str:
        """Why it is no finished evaluation; empty for one that is."""
        status = str(self.run.info.status)
        why = self.tags.get("attriflow.stopped")
        return "" if status == "FINISHED" else f"it is {status}{f' ({why})' if why else ''}"

    def named(self, reason: str) -> str:
        """A line about the run."""
        return f"run {self.run_id} ({self.name}): {reason}"

    def setting(self, name: str) -> str:
        """A setting as it was logged; empty where there is none."""
        return str(self.params.get(f"attriflow.{name}", ""))


def find_runs(
    client: MlflowClient, experiments: Sequence[str] = (), run_ids: Sequence[str] = (), notes: list[str] | None = None
) -> list[EvaluationRun]:
    """Finished evaluations of experiments, and those with the given ids, the latest first.

    The run of a single method stands for the evaluation that it belongs to; "RUN_ID/NAME" for one of several in a run.

    Args:
        client: Of the store.
        experiments: Names.
        run_ids: Runs that count whatever their status.
        notes: Gets a line for each run that does not count, or is not finished.

    Raises:
        InputError: There is nothing of that name; or, without `notes`, a run that is no evaluation.
    """
    said = [] if notes is None else notes
    found: dict[tuple[str, str], EvaluationRun] = {}
    if experiments:
        ids = [_experiment(client, name) for name in experiments]
        for run in _pages(client, ids):
            for key, evaluation in _evaluations(run).items():
                if evaluation.unfinished:
                    said.append(evaluation.named(f"left out, {evaluation.unfinished}"))
                else:
                    found[key] = evaluation
        said += _others(client, ids)
        if not found and not run_ids:
            raise nothing(f"no finished evaluations by attriflow in {', '.join(experiments)}", said)
    for name in run_ids:
        run_id, _, wanted = name.strip().partition("/")
        run = client.get_run(run_id)
        if "attriflow.method" in run.data.tags and MLFLOW_PARENT_RUN_ID in run.data.tags:
            run = client.get_run(run.data.tags[MLFLOW_PARENT_RUN_ID])
        if "attriflow.device" not in run.data.tags:
            if notes is None:
                raise InputError(f"run {run_id} is no evaluation by attriflow")
            said.append(EvaluationRun(run).named("left out, it is no evaluation by attriflow"))
            continue
        chosen = _evaluations(run, wanted)
        found |= chosen
        said += [e.named(e.unfinished) for e in chosen.values() if e.unfinished]
    return sorted(found.values(), key=lambda r: r.started, reverse=True)


def _evaluations(run: Run, wanted: str = "") -> dict[tuple[str, str], EvaluationRun]:
    """The evaluations of a run, the latest first; or the one whose folder or its last part is `wanted`."""
    known = folders(run.data.tags)
    chosen = [f for f in known if not wanted or wanted in (f, f.rpartition("/")[2])]
    if not chosen:
        raise UnknownNameError(unknown(f"evaluation of run {run.info.run_id}", wanted, filter(None, known)))
    return {(run.info.run_id, folder): EvaluationRun(run, folder) for folder in reversed(chosen)}


def _experiment(client: MlflowClient, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        names = [e.name for e in client.search_experiments(max_results=PAGE)]
        raise UnknownNameError(unknown("experiment", name, names))
    return str(found.experiment_id)


def nothing(what: str, notes: Sequence[str]) -> InputError:
    """The error where no run is left, with the first reasons."""
    more = f"; and {len(notes) - 3} more" if len(notes) > 3 else ""
    return InputError(f"{what}: {'; '.join(notes[:3])}{more}" if notes else what)


def _others(client: MlflowClient, experiments: list[str]) -> list[str]:
    """Lines about runs that are no evaluations, nor parts of one."""
    try:
        found = list(client.search_runs(experiments, OTHERS, max_results=MOST_OTHERS + 1))
    except MlflowException:
        return []
    lines = [EvaluationRun(run).named("left out, it is no evaluation by attriflow") for run in found[:MOST_OTHERS]]
    return [*lines, "more runs are no evaluations by attriflow"] if len(found) > MOST_OTHERS else lines


def _pages(client: MlflowClient, experiments: list[str]) -> Iterator[Run]:
    token = None
    while True:
        page = client.search_runs(experiments, EVALUATED, max_results=PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


@contextmanager
def store_errors(uri: str) -> Iterator[None]:
    """Errors of a store as one message that says which."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:  # errors of requests are OSErrors
        lines = str(error).strip().splitlines()
        raise InputError(
            f"cannot read the MLflow store {uri}: {lines[0] if lines else type(error).__name__}"
        ) from error


# -- tables -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunTables:
    """The tables of one evaluation.

    Attributes:
        leaderboard: One mapping per method: `method`, `family`, `status`, `reason`, `rank`, metrics, costs, ...
        scores: Metric values per step: the columns `SCORES`.
    """

    leaderboard: list[dict[str, Any]]
    scores: pa.Table

    @cached_property
    def metrics(self) -> list[str]:
        """Metrics that were asked for."""
        columns = list(self.leaderboard[0]) if self.leaderboard else ["rank", COSTS[0]]
        found = columns[columns.index("rank") + 1 : columns.index(COSTS[0])]
        return [c for c in found if not (c.endswith("_rank") and c.removesuffix("_rank") in columns)]

    @cached_property
    def directions(self) -> dict[str, bool]:
        """Metric -> whether higher is better, as the run noted it."""
        return directions_of(self.leaderboard)


def read_all(
    uri: str, runs: Sequence[EvaluationRun], notes: list[str] | None = None
) -> tuple[list[EvaluationRun], list[RunTables]]:
    """The runs and their tables; several at a time, since most of the time is spent waiting.

    Args:
        uri: The store.
        runs: What to read.
        notes: Gets a line for each run that cannot be read, which is left out.

    Raises:
        InputError: A run cannot be read, without `notes`.
    """

    def read(run: EvaluationRun) -> RunTables | InputError:
        try:
            return _read(uri, run)
        except InputError as error:
            return error

    kept, tables = list[EvaluationRun](), list[RunTables]()
    with no_artifact_bars(), ThreadPoolExecutor(THREADS) as pool:
        for run, found in zip(runs, pool.map(read, runs), strict=True):
            if isinstance(found, RunTables):
                kept.append(run)
                tables.append(found)
            elif notes is None:
                raise InputError(run.named(str(found))) from found
            else:
                notes.append(run.named(f"left out, {found}"))
    return kept, tables


def _read(uri: str, run: EvaluationRun) -> RunTables:
    _ = run.methods  # what its params say
    # pandas would take ten times as long per file, and there may be hundreds
    path = _fetch(uri, run, "leaderboard.json")
    try:
        rows = board_rows(limits.whole_json(path))
        path = _fetch(uri, run, "scores.parquet")
        table = limits.whole_parquet(path).read()
    except InputError:
        raise
    except Exception as error:  # pyarrow's have many kinds
        raise InputError(f"cannot read {path.name}: {reason_of(error)}") from error
    return RunTables(rows, score_table(table))


def _fetch(uri: str, run: EvaluationRun, name: str) -> Path:
    """A file of a run; by its own address, since asking for the run again would take most of the time."""
    from mlflow.artifacts import download_artifacts

    where = "/".join(filter(None, (str(run.run.info.artifact_uri).rstrip("/"), run.folder, name)))
    try:
        path = Path(download_artifacts(artifact_uri=where, tracking_uri=uri))
    except (MlflowException, OSError) as error:
        raise InputError(f"it has no table {name}: {error}") from error
    if not path.is_file():
        raise InputError(f"it has no table {name}")
    return path


def example_values(tables: Sequence[RunTables]) -> pd.DataFrame:
    """Means over steps: one row per table (`run`, its index), method, metric and example that has a value."""
    parts = []
    for index, table in enumerate(tables):
        scores = table.scores
        parts.append(scores.append_column("run", pa.repeat(pa.scalar(index, pa.int64()), len(scores))))
    keys = ["run", "method", "metric", "example"]
    if not parts:
        return pd.DataFrame(columns=[*keys, "value"])
    whole = pa.concat_tables(parts)
    for name in ("method", "metric"):
        column = whole[name].combine_chunks()
        whole = whole.set_column(whole.schema.get_field_index(name), name, column.dictionary_encode())
    frame = whole.to_pandas().dropna(subset=["value"])
    found = frame.groupby(keys, sort=False, observed=True)["value"].mean().reset_index()
    return found.astype({"method": str, "metric": str})
