"""One evaluation as MLflow sees it: settings checked, model found, every result logged as soon as it exists."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models.evaluation.base import EvaluationResult
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from attriflow.errors import AttriflowError, InputError
from attriflow.evaluation.config import EvaluationConfig
from attriflow.evaluation.data import EvaluationData, text_columns
from attriflow.kernels.stopping import terminable

if TYPE_CHECKING:
    from attriflow.evaluation.runner import Evaluation

_logger = logging.getLogger(__name__)
MLFLOWS_OWN = ("col_mapping", "metric_prefix")
"""Keys of an evaluator's configuration that are MLflow's."""
ASIDE = (*MLFLOWS_OWN, "resume")
"""Keys that say nothing about what is evaluated."""


@terminable()
def evaluate_model(
    *,
    model: Any,
    dataset: Any,
    run_id: str,
    settings: Mapping[str, Any],
    model_id: str | None = None,
    unsupported: Mapping[str, Any] | None = None,
) -> EvaluationResult:
    """Evaluate a loaded pyfunc model and log everything to a run.

    Args:
        model: The pyfunc model.
        dataset: MLflow's evaluation dataset.
        run_id: The run to log to.
        settings: The evaluator's configuration, see `EvaluationConfig`.
        model_id: The logged model's id, when MLflow knows it.
        unsupported: Arguments of `mlflow.models.evaluate` that other evaluators understand and this one does not.

    Raises:
        MlflowException: The configuration, the data or the model cannot be used; nothing has been computed then.
    """
    _keep_warnings()
    for name, value in (unsupported or {}).items():
        if value:
            _logger.warning("the attriflow evaluator does not use '%s'", name)
    from attriflow.tracking.places import checked_prefix
    from attriflow.tracking.resuming import checked_resume, resumed_run

    with _as_mlflow_error():
        frame, targets = _columns(dataset)
        prefix, resume = checked_prefix(settings.get("metric_prefix")), checked_resume(settings.get("resume"))
        config = EvaluationConfig.from_dict(
            {k: v for k, v in settings.items() if k not in ASIDE},
            columns=[str(c) for c in frame.columns],
            text_columns=text_columns(frame),
            targets=None if targets is None else (getattr(dataset, "targets_name", None) or "targets"),
        )
        data = EvaluationData.from_frame(frame, config, targets)
        # from here on the weights are needed; a wrong setting did not load any
        from attriflow.tracking.lineage import origin_of
        from attriflow.tracking.loading import hf_parts
        from attriflow.tracking.recorder import record

        origin = origin_of(model, model_id)
        elsewhere = _elsewhere(config, origin.model_id)
        hf, tokenizer = hf_parts(model)
        with _on_device(hf, config) as device, resumed_run(run_id, resume) as logged:
            from attriflow.model import load_model

            loaded = load_model(hf, tokenizer=tokenizer, device=device)
            if origin.model_id is not None:
                loaded.wrapped.name = f"models:/{origin.model_id}"  # instead of the folder that MLflow copied it to
            names = {"model": origin.name, "registered": ", ".join(origin.registered), "data": _data_name(dataset)}
            return record(
                loaded,
                data,
                config,
                logged,
                origin.model_id,
                names={k: v for k, v in names.items() if v},
                prefix=prefix,
                returned=model_id is not None and logged == run_id,
                resume=resume is not None,
                elsewhere=elsewhere,
            )


def _keep_warnings() -> None:
    """MLflow's evaluation imports modules that silence the root logger; that a method failed must be heard."""
    package = logging.getLogger("attriflow")
    if package.level == logging.NOTSET:
        package.setLevel(logging.WARNING)


@contextmanager
def _as_mlflow_error() -> Iterator[None]:
    try:
        yield
    except AttriflowError as error:
        raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from error


def _columns(dataset: Any) -> tuple[pd.DataFrame, list[Any] | None]:
    """Features as a data frame, and the targets."""
    features = dataset.features_data
    if not isinstance(features, pd.DataFrame):
        features = pd.DataFrame(features, columns=["input"] if features.shape[1] == 1 else None)
    if not len(features):
        raise InputError("there are no rows to evaluate")
    targets = dataset.labels_data
    return features.rename(columns=str), None if targets is None else list(targets)


def _data_name(dataset: Any) -> str | None:
    """The name that the user gave to the data; MLflow falls back to a hash."""
    name = getattr(dataset, "name", None)
    return None if name in (None, "dataset", getattr(dataset, "hash", None)) else str(name)


def _elsewhere(config: EvaluationConfig, model_id: str | None) -> Callable[[Evaluation], Mapping[str, float]] | None:
    """What lets workers do the blocks of an evaluation; None where this process does all."""
    if config.engine == "local":
        return None
    if model_id is None:
        raise InputError(
            f"engine '{config.engine}': workers cannot load this model, which is in no store that MLflow knows: log it "
            "(attriflow.log_model) and evaluate it by its URI"
        )
    import mlflow

    from attriflow.evaluation.blocks import fill
    from attriflow.tracking.loading import load_elsewhere

    load = partial(
        load_elsewhere,
        f"models:/{model_id}",
        {"tracking": mlflow.get_tracking_uri(), "registry": mlflow.get_registry_uri()},
        device=config.explicit_device,
        device_map=config.device_map,
        max_memory=config.max_memory,
    )
    return partial(fill, load=load)


@contextmanager
def _on_device(hf: Any, config: EvaluationConfig) -> Iterator[str | None]:
    """The device to use. MLflow loads models on the CPU; "auto" is an accelerator, and all is put back afterwards."""
    from attriflow.kernels import devices
    from attriflow.models.laying import laid

    if config.device_map is not None:
        with laid(hf, config.device_map, config.max_memory):
            yield None
        return
    wanted, before = config.explicit_device, next(iter(hf.parameters())).device
    if wanted is None and before.type == "cpu" and getattr(hf, "hf_device_map", None) is None:
        wanted = str(devices.best())
    try:
        yield wanted
    finally:
        if wanted is not None and next(iter(hf.parameters())).device != before:
            hf.to(before)
