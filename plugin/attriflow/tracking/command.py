"""What `attriflow evaluate` does: data from a file, a model from anywhere, `mlflow.models.evaluate`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attriflow.errors import InputError
from attriflow.tracking.data import checked, read_data

if TYPE_CHECKING:
    from mlflow.models.evaluation.base import EvaluationResult

    from attriflow.tracking.run_logger import LoggedRun


@dataclass(frozen=True)
class Evaluated:
    """What MLflow's evaluation gave, and the run that has it."""

    result: EvaluationResult
    run: LoggedRun


def evaluate(
    model: str,
    data: str,
    config: Mapping[str, Any],
    *,
    split: str = "train",
    dataset_config: str | None = None,
    targets: str | None = None,
    tracking_uri: str | None = None,
    experiment: str | None = None,
    resume: str | None = None,
) -> Evaluated:
    """Evaluate methods on a data set, in a new run or in the one where it was begun.

    Args:
        model: MLflow URI, folder, Hugging Face name or demo/<name>.
        data: See `read_data`, as for `split` and `dataset_config`.
        config: The evaluator's configuration, see `EvaluationConfig`.
        split, dataset_config: Of a data set.
        targets: Column of targets; without it they are generated.
        tracking_uri, experiment: Where to log; MLflow's own settings by default.
        resume: The run of an evaluation that was broken off, with the same model, data and settings.
    """
    frame = read_data(data, split, dataset_config)
    checked(frame, config, targets)  # before a model is logged; MLflow's evaluation checks it again
    import mlflow

    from attriflow.tracking.quiet import quiet
    from attriflow.tracking.run_logger import new_run

    with quiet(), new_run(tracking_uri, experiment, resume) as run:
        from attriflow.tracking.lineage import dataset_of

        result = mlflow.models.evaluate(
            model_uri(model) if resume is None else resumed_uri(model, resume),
            dataset_of(frame, data, split, dataset_config, targets),
            model_type="text-attribution",
            evaluators="attriflow",
            evaluator_config={**config, **({} if resume is None else {"resume": resume})},
        )
    return Evaluated(result, run)


def model_uri(model: str) -> str:
    """An MLflow URI as it is; anything else is logged, once per experiment, so that the run says what was evaluated."""
    from attriflow.models.loading import is_mlflow_uri

    if is_mlflow_uri(model):
        return model
    import mlflow

    from attriflow.model import load_model
    from attriflow.tracking.lineage import CONTENT, content_of, logged_before
    from attriflow.tracking.log_model import log_model

    content, active = content_of(model), mlflow.active_run()
    if content and active is not None and (known := logged_before(active.info.experiment_id, content)):
        return known
    tags = {CONTENT: content} if content else None
    return log_model(load_model(model, device="cpu"), name=_logged_name(model), tags=tags).model_uri


def resumed_uri(model: str, run_id: str) -> str:
    """The model that a run has logged already, which the given one must be."""
    from attriflow.evaluation.identity import weights_digest
    from attriflow.model import load_model
    from attriflow.models.loading import is_mlflow_uri
    from attriflow.tracking.resuming import run_to_resume

    tags = run_to_resume(run_id).data.tags
    known = next((v for k, v in reversed(tags.items()) if k.endswith("attriflow.model_id")), None)
    if known is None or is_mlflow_uri(model):
        return model_uri(model)
    if weights_digest(load_model(model, device="cpu").model) != tags.get("attriflow.weights"):
        raise InputError(f"cannot resume run {run_id}: its model is another one than {model}")
    return f"models:/{known}"


def _logged_name(model: str) -> str:
    """A name for MLflow, which leaderboards show: "demo-recall" for demo/recall, the folder's name for a path."""
    parts = Path(model).parts[-1:] if Path(model).exists() else model.split("/")
    return re.sub(r"[/:.%\"'\s]+", "-", "-".join(parts)).strip("-") or "model"
