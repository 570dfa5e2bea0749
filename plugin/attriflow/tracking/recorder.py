"""Runs an evaluation and logs it: the parent run has everything, one nested run per method sorts into a leaderboard."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from mlflow.models.evaluation.base import EvaluationArtifact, EvaluationResult

from attriflow.errors import InputError, reason_of
from attriflow.evaluation.config import EvaluationConfig
from attriflow.evaluation.data import EvaluationData, say_failed
from attriflow.evaluation.identity import data_digests, weights_digest
from attriflow.evaluation.planning import say
from attriflow.evaluation.results import Attributed, Event, Finished, MethodResult, StepScored
from attriflow.evaluation.runner import Evaluation
from attriflow.evaluation.work import unit_of
from attriflow.kernels.stopping import why
from attriflow.measuring.benchmark import surroundings
from attriflow.measuring.cost import memory_kind
from attriflow.statistics import bootstrap_intervals
from attriflow.statistics.agreement import affordable, magnitudes
from attriflow.tracking import patience
from attriflow.tracking.artifacts import AttributionsArtifact, part_name
from attriflow.tracking.examples import evidence, examples_table
from attriflow.tracking.keeping import STALE, Keeper, KeptError, status_of
from attriflow.tracking.pages import Tables, log_pages
from attriflow.tracking.patience import AwayError
from attriflow.tracking.places import ENDED, IDENTITY, claim, identity_of
from attriflow.tracking.resuming import WORK, begun, opened, remove_at_exit
from attriflow.tracking.run_logger import RunLogger, key_of
from attriflow.versions import COMPUTING, versions

if TYPE_CHECKING:
    from attriflow.model import AttributionModel

_logger = logging.getLogger(__name__)
SHOWN = 10_000
"""Most rows of a table that is there as JSON, too."""
PACKAGES = (*COMPUTING, "mlflow", "ferret-xai")


def record(
    model: AttributionModel,
    data: EvaluationData,
    config: EvaluationConfig,
    run_id: str,
    model_id: str | None = None,
    names: Mapping[str, str] | None = None,
    prefix: str = "",
    *,
    returned: bool = False,
    resume: bool = False,
    elsewhere: Callable[[Evaluation], Mapping[str, float]] | None = None,
) -> EvaluationResult:
    """Evaluate and log to a run, result by result.

    Args:
        model: What is explained.
        data: The rows.
        config: Checked settings.
        run_id: The run to log to.
        model_id: The logged model's id.
        names: Names of "model" and "data" for the report, and what the model is "registered" as.
        prefix: Opens the names of the run's metrics, and names the folder of the evaluation.
        returned: Whether MLflow logs the metrics that are returned, see `Recorder`.
        resume: Go on with the evaluation that an earlier process began in this run.
        elsewhere: Lets workers do its blocks, see `Evaluation`.
    """
    evaluation = Evaluation(model, data, config, elsewhere=elsewhere)
    return Recorder(evaluation, run_id, model_id, names, prefix, returned=returned, resume=resume).record()


class Recorder:
    """Logs the events of an evaluation.

    Who logs the parent run's metrics: if MLflow finds the model's id in the URI, it logs whatever metrics an evaluator
    returns, to the run and to the model, once all evaluators are done. Logging them here as well would give every
    metric a second point, and points cannot be deleted. So then they are returned and left to MLflow; else
    (models:/NAME@ALIAS, runs:/, models that nobody logged) they are logged here at once, to the run and to a model
    whose id is known. Either way each method's nested run gets its metrics the moment they exist, and if the evaluation
    is broken off, MLflow will not log anything, so what is known by then is logged here.
    """

    def __init__(
        self,
        evaluation: Evaluation,
        run_id: str,
        model_id: str | None = None,
        names: Mapping[str, str] | None = None,
        prefix: str = "",
        *,
        returned: bool = False,
        resume: bool = False,
    ) -> None:
        self.evaluation, self.config = evaluation, evaluation.config
        self.names = dict(names or {})
        self.keeper = Keeper(run_id)
        self.identity = identity_of(evaluation, self.names.get("model", ""))
        client = self.keeper.client
        found = self.keeper.ask(lambda: client.get_run(run_id))
        if self.keeper.remote:
            experiment = self.keeper.ask(lambda: client.get_experiment(found.info.experiment_id))
            self.keeper.about = {"experiment": experiment.name, "name": found.info.run_name}
        ours = begun(found.data.tags, prefix, self.identity) if resume else None
        self.place = ours or claim(client, self.keeper.ask, run_id, prefix, self.identity)
        if self.place.ended and not resume:
            raise InputError(
                f"run {run_id} has this evaluation already (same model, rows and settings): its metrics would be there "
                "twice. Take its results from there, evaluate in another run, or give it another 'metric_prefix'"
            )
        self._open = partial(opened, evaluation, self.names.get("model", ""), found, self.place, ours)
        if ours is not None:  # what differs is told before anything is replaced
            self.work = evaluation.work = self._open()
        self.resume = self.keeper.resumed = resume and bool(self.place.prefix or not self.place.others)
        self.known = set(found.data.metrics) if self.resume else set[str]()
        self.run = RunLogger(run_id, folder=self.place.folder, keeper=self.keeper)
        self.model_id = model_id
        self.mlflow_logs_metrics = returned
        self.metrics: dict[str, float] = {}
        self.artifacts: dict[str, EvaluationArtifact] = {}
        self._children: dict[str, RunLogger] = {}
        self._finished = set[str]()
        self._evidence: dict[str, list[str]] = {}
        self._magnitudes: dict[str, list[np.ndarray]] = {}

    def record(self) -> EvaluationResult:
        """Run the evaluation to its end."""
        try:
            self._log_place()
            self._log_settings()
        except BaseException:
            self.evaluation.work.close()
            self.keeper.close()
            raise
        try:
            for event in self.evaluation.run():
                self._log_event(event)
            self._log_all()
            if self.evaluation.pace:
                self.run.tags({"attriflow.workers": {k: round(v, 3) for k, v in self.evaluation.pace.items()}})
            if self.keeper.gone and self.mlflow_logs_metrics:
                self.run.metrics(self.metrics, self.model_id)
            self.run.tags({ENDED: "yes"})
        except BaseException as error:
            self._save_what_is_known(error)
            raise
        self.work.close()
        self.run.untag([WORK])
        self.keeper.close("FINISHED")
        remove_at_exit(self.work.folder)
        metrics = {k: v for k, v in self.metrics.items() if k not in self.known}  # MLflow would log them once more
        return EvaluationResult(metrics=metrics, artifacts=self.artifacts, run_id=self.run.run_id)

    # -- events -----------------------------------------------------------------------------------------------------

    def _log_event(self, event: Event) -> None:
        if isinstance(event, StepScored):
            means = {f"step_scores/{s.name}/mean": s.mean for s in event.step_scores}
            self._parent_metrics({k: v for k, v in means.items() if v is not None})
            failed = {s.name: s.reason for s in event.step_scores if s.reason}
            if failed:
                self.run.tags({"attriflow.failed_step_functions": failed})
            say_failed(self.evaluation.data, _logger.warning)
            self._log_data()
        elif isinstance(event, Attributed):
            self._method_metrics(event.result, event.result.cost.metrics() if event.result.cost else {})
            self._log_attributions(event.result)
        elif isinstance(event, Finished):
            self._finish_method(event.result)

    def _child(self, result: MethodResult) -> RunLogger:
        if result.name not in self._children:
            tags = {"attriflow.method": result.name, "attriflow.place": self.place.folder}
            child = self.run.child(result.name, tags)
            child.tags({"attriflow.family": result.family})
            child.params({"method": result.name, "seed": self.config.seed, **result.options})
            self._children[result.name] = child
        return self._children[result.name]

    def _method_metrics(self, result: MethodResult, values: Mapping[str, float]) -> None:
        if not self._told(result):
            self._child(result).metrics(values)
        self._parent_metrics({f"{result.name}/{k}": v for k, v in values.items()})

    def _told(self, result: MethodResult) -> bool:
        """Whether an earlier process has logged everything about a method."""
        return unit_of("logged", result.name) in self.work

    def _parent_metrics(self, values: Mapping[str, float]) -> None:
        named = {key_of(f"{self.place.prefix}{k}"): float(v) for k, v in values.items()}
        self.metrics |= named
        if not self.mlflow_logs_metrics:
            self.run.metrics(named, self.model_id)

    def _log_attributions(self, result: MethodResult) -> None:
        name, logged = key_of(result.name).replace("/", "_"), unit_of("logged explanations", result.name)
        if logged not in self.work:
            for number in range(len(self.evaluation.blocks)):
                whole = self.work.path(unit_of("explain", result.name, number))
                self.run.artifact(
                    f"attributions/{part_name(name, number)}.safetensors", partial(shutil.copyfile, whole)
                )
            self.work.put(logged, {})
        # read back when somebody asks for it: a whole data set times all methods would not fit into memory
        self.artifacts["attributions"] = AttributionsArtifact(uri=self.run.uri("attributions"))

    def _finish_method(self, result: MethodResult) -> None:
        self._finished.add(result.name)
        self._method_metrics(result, result.metrics)
        if not self._told(result):
            self._finish_child(result)
        if not result.ok:
            _logger.warning("attribution method '%s' failed: %s", result.name, result.reason)
        if result.ok:
            shapes = [(e.n_steps, len(e.inputs(self.config.attribute_target))) for e in self.evaluation.examples]
            compared = self._magnitudes[result.name] = list[np.ndarray]()
            self._evidence[result.name] = told = list[str]()
            most = affordable(shapes)
            for explained in self.evaluation.explanations(result.name):  # read from the disk, so once
                told.append(evidence(explained))
                if len(compared) < most:
                    compared.append(magnitudes(explained))
        result.attributions = result.attributions[: self.config.report_examples]  # what the report shows

    def _finish_child(self, result: MethodResult) -> None:
        child, cost = self._child(result), result.cost
        extra = {f"{name}_skipped_steps": float(n) for name, n in result.skipped.items()}
        extra |= _intervals(result, self.config.seed)
        if cost is not None and cost.forward_seconds is not None:
            extra |= {"forward_seconds": cost.forward_seconds, "timed_runs": float(cost.repeats)}
        child.metrics(extra)
        child.tags({"attriflow.status": result.status})
        if cost is not None and len(cost.peak_by_device) > 1:
            child.tags({"attriflow.peak_memory_mb": {k: round(v, 3) for k, v in cost.peak_by_device.items()}})
        if result.problems:
            child.tags({"attriflow.metrics_without_value": result.problems})
        if not result.ok:
            child.tags({"attriflow.reason": result.reason})
        child.finish("FINISHED" if result.ok else "FAILED")
        self._children.pop(result.name)
        self.work.put(unit_of("logged", result.name), {})

    def _stop_method(self, result: MethodResult, status: str) -> None:
        if self._told(result):
            return
        child = self._child(result)
        child.tags({"attriflow.status": result.status, "attriflow.reason": result.reason})
        child.finish(status)

    # -- once -------------------------------------------------------------------------------------------------------

    def _log_place(self) -> None:
        """Where the evaluation lies in the run, and a first file: a store that takes none is found before the work."""
        place, others = self.place, ", ".join(f or "the first one" for f in self.place.others)
        if place.again:
            if not self.resume:
                _logger.warning(
                    "the run has this evaluation already (same model, rows and settings), but not to its end: its "
                    "files are replaced, its nested runs are taken up again ('resume' goes on where it stood)"
                )
            self.run.untag(STALE)
        elif place.others:
            apart = "" if place.prefix else "; its metrics go by the same names: metric_prefix tells them apart"
            _logger.warning("the run has evaluations already (%s): this one is in %s%s", others, place.folder, apart)
        whole = RunLogger(self.run.run_id, keeper=self.keeper)
        facts: dict[str, Any] = {
            "settings": self.config.as_dict(),
            **{what: self.names[what] for what in ("model", "registered", "data") if what in self.names},
            "versions": versions(PACKAGES),
        }
        try:
            self.run.artifact("settings.json", json.dumps(facts, indent=1, default=repr))
        except AwayError:
            raise
        except Exception as error:
            if not place.again:
                whole.untag([place.claim[0]])
            raise InputError(
                f"cannot log files to run {self.run.run_id}: {reason_of(error)}. Nothing has been computed"
            ) from error
        if not self.evaluation.work.lasting:
            self.work = self.evaluation.work = self._open()
        if not place.again:
            whole.tags(dict([place.claim]) | {"attriflow.device": str(self.evaluation.model.device)})
        prefix = {"attriflow.metric_prefix": place.prefix} if place.prefix else {}
        self.run.tags({IDENTITY: self.identity, WORK: str(self.work.folder), **prefix})

    def _log_settings(self) -> None:
        model = self.evaluation.model
        if self.model_id is not None and not self.mlflow_logs_metrics:
            self.run.evaluates(self.model_id)
        conflicts = self.run.params({f"attriflow.{k}": v for k, v in self.config.as_dict().items()})
        if conflicts:
            _logger.warning("this run has other values already for the params %s; kept as tags", sorted(conflicts))
        about = surroundings(model.device, model.dtype, *model.wrapped.devices)
        self.run.tags(
            {
                **conflicts,
                **{f"attriflow.version.{p}": v for p, v in versions(PACKAGES).items()},
                **{f"attriflow.{what}": about[what] for what in ("device", "device_name", "dtype", "threads")},
                "attriflow.model": type(model.model).__name__,
                "attriflow.model_name": self.names.get("model", model.name),
                "attriflow.weights": weights_digest(model.model),
                **({} if self.model_id is None else {"attriflow.model_id": self.model_id}),
                **({"attriflow.registered_model": self.names["registered"]} if "registered" in self.names else {}),
                "attriflow.seed": self.config.seed,
            }
        )
        if self.config.throughput:
            self.run.tags({"attriflow.peak_memory": memory_kind(*model.wrapped.devices)})
        if self.config.left_out:
            self.run.tags({"attriflow.left_out": dict(self.config.left_out)})

    def _log_data(self) -> None:
        """What was explained: the examples as they were tokenised or generated."""
        evaluation = self.evaluation
        failed = evaluation.data.failed
        if failed:
            self.run.tags({"attriflow.failed_rows": failed})
            self.artifacts["failed_rows"] = self.run.table(
                "failed_rows.json", pd.DataFrame({"row": list(failed), "reason": list(failed.values())})
            )
        self.run.tags(
            {
                "attriflow.n_examples": len(evaluation.examples),
                "attriflow.n_tokens": evaluation.n_tokens,
                **{f"attriflow.{k}": v for k, v in data_digests(evaluation.data, evaluation.examples).items()},
                **({"attriflow.data_name": self.names["data"]} if "data" in self.names else {}),
            }
        )

    def _log_all(self) -> None:
        """Tables, plots and the report, of what is known."""
        found = self._log_tables()
        self.run.artifact("cards.json", json.dumps(found.cards, indent=1, ensure_ascii=False, allow_nan=False))
        self.artifacts |= log_pages(self.run, self.evaluation, found, self.names)

    def _log_tables(self) -> Tables:
        evaluation, found = self.evaluation, Tables.of(self.evaluation, self._magnitudes)
        frames = {
            "examples": ("examples.json", examples_table(evaluation, self._evidence)),
            "leaderboard": ("leaderboard.json", found.leaderboard),
            "gates": ("gates.json", found.gates),
            **({"redundancy": ("redundancy.json", found.redundancy)} if len(found.redundancy) else {}),
            "summary": ("summary.json", found.summary),
            "comparisons": ("comparisons.parquet", found.comparisons),
            **({} if found.agreement is None else {"agreement": ("agreement.json", found.agreement)}),
            "scores": ("scores.parquet", found.scores),
            "step_scores": ("step_scores.json", found.step_scores),
        }
        if found.multiverse is not None:
            worlds = found.multiverse
            frames["multiverse"] = ("multiverse.parquet", worlds.rows)
            for name in ("ranks", "wins", "stability", "places"):
                frames[f"multiverse_{name}"] = (f"multiverse_{name}.json", getattr(worlds, name))
            self.run.tags({"attriflow.multiverse": worlds.verdict})
            say(worlds.verdict)
        if len(found.curves):
            frames["curves"] = ("curves.parquet", found.curves)
        numbers = dict(enumerate(evaluation.data.numbers))
        for name, (path, frame) in frames.items():
            if evaluation.data.failed and "example" in frame and name != "examples":
                frame = frame.assign(example=frame["example"].map(numbers))  # numbers of rows in the data
            self.artifacts[name] = self.run.table(path, frame)
            if path.endswith(".parquet") and len(frame) <= SHOWN:  # which the viewer of artifacts does not open
                self.run.table(path.replace(".parquet", ".json"), frame)
        self._log_spent()
        rounds = {r.name: [float(f"{x:.4g}") for x in r.cost.rounds] for r in evaluation.results if r.cost is not None}
        if any(rounds.values()):
            self.run.tags({"attriflow.forward_equivalents": rounds})
        failed = {r.name: r.reason for r in evaluation.results if not r.ok}
        if failed:
            self.run.tags({"attriflow.failed_methods": failed})
        return found

    def _log_spent(self) -> None:
        """What was planned and what it took; options of metrics that came from the data."""
        evaluation = self.evaluation
        self.run.tags({"attriflow.seconds": {what: round(s, 3) for what, s in evaluation.seconds.items()}})
        if evaluation.plan is not None:
            self.run.tags({"attriflow.plan": str(evaluation.plan)})
        options = {name: given for name, given in evaluation.metric_options.items() if given}
        if options:
            self.run.tags({"attriflow.metric_options_used": options})

    def _save_what_is_known(self, error: BaseException) -> None:
        """After an interruption: as much as possible, without hiding the error."""
        reason, status = why(error), status_of(error)
        steps: list[Callable[[], object]] = [partial(self.run.tags, {"attriflow.stopped": reason})]
        if self.mlflow_logs_metrics:
            steps.append(partial(self.run.metrics, self.metrics, self.model_id))
        for result in self.evaluation.results:
            if result.name not in self._finished:
                result.status, result.reason, result.values = "failed", reason, {}
                steps.append(partial(self._stop_method, result, status))
            elif result.name in self._children:  # while it was being logged
                steps.append(partial(self._finish_method, result))
        if self.evaluation.results:
            steps.append(self._log_all)
        for step in steps:
            try:
                step()
            except Exception as error:
                _logger.warning("could not log the results of an evaluation that was broken off: %s", error)
        self.work.close()
        try:
            self.keeper.close(status)
        except KeptError as error:
            patience.line(str(error))
        if status == "KILLED":
            say(f"{reason}; what is done is kept: the same evaluation with --resume {self.run.run_id} goes on")


def _intervals(result: MethodResult, seed: int) -> dict[str, float]:
    """Ends of the interval and number of examples behind every mean; an interval needs two examples."""
    out: dict[str, float] = {}
    if not result.values:
        return out
    means = [[math.nan if (m := v.mean) is None else m for v in values] for values in result.values.values()]
    for name, found in zip(result.values, bootstrap_intervals(np.array(means).T, seed=seed), strict=True):
        out[f"{name}_n"] = float(found.n)
        if found.n > 1:
            out |= {f"{name}_low": found.low, f"{name}_high": found.high}
    return out
