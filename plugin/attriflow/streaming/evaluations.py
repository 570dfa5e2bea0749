"""What an evaluation of a data set will take, from an evaluation of a sample that is not logged."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from attriflow.datasets import Rows
from attriflow.errors import InputError
from attriflow.evaluation.config import EvaluationConfig
from attriflow.evaluation.data import EvaluationData, text_columns
from attriflow.evaluation.planning import unsaid
from attriflow.evaluation.reexplaining import spread
from attriflow.evaluation.runner import Evaluation
from attriflow.evaluation.work import BLOCK
from attriflow.streaming.fields import Fields
from attriflow.streaming.plan import Estimate, sample_of

if TYPE_CHECKING:
    from attriflow.model import AttributionModel


def estimate_evaluation(
    rows: Rows,
    load: Callable[[], AttributionModel],
    settings: Mapping[str, Any],
    *,
    fields: Fields,
    sample: int = 32,
    total: int | None = None,
) -> Estimate:
    """Evaluate a sample, and say what all rows will take.

    Args:
        rows, fields, sample, total: As for `estimate`.
        load: Loads the model.
        settings: Of `EvaluationConfig`, columns aside.

    Raises:
        InputError: There is no row that can be used, no method can explain one, or a setting is wrong.
    """
    config, data = _sampled(rows, fields.resolved(rows.columns), settings, sample)
    begin = time.perf_counter()
    model = load()
    n, limit = len(data.inputs), config.reexplain_examples
    with unsaid(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice to developers of other packages, as while an evaluation is logged
        _done(Evaluation(model, data.without(dict.fromkeys(range(1, n), "")), config))  # sets things up
        loaded = time.perf_counter()
        found = _done(Evaluation(model, data, config))
        took = time.perf_counter() - loaded
    if not any(result.ok for result in found.results):
        raise InputError(f"no method can explain the sample: {found.results[0].reason}")
    again, wanted = found.seconds["explaining again"], len(rows) if total is None else total
    passes = 0.0 if found.plan is None else found.plan.passes - found.plan.again
    return Estimate(
        rows=wanted,
        window=BLOCK,
        sampled=n + len(data.failed),
        failed=len(data.failed),
        load_seconds=loaded - begin,
        row_seconds=(took - again) / n,
        row_passes=passes / n,
        row_bytes=0.0,
        alone_seconds=again * (wanted if limit is None else min(wanted, limit)) / len(spread(n, limit)),
    )


def _sampled(
    rows: Rows, fields: Fields, settings: Mapping[str, Any], sample: int
) -> tuple[EvaluationConfig, EvaluationData]:
    import pandas as pd

    frame = pd.DataFrame([dict(row) for row in sample_of(rows, sample) if not isinstance(row, Exception)])
    if not len(frame):
        raise InputError("there are no rows to plan for")
    columns = {
        "inputs": fields.inputs,
        "contrast_target": fields.contrast_targets,
        "contrast_source": fields.contrast_sources,
    }
    features = frame.drop(columns=[fields.targets] if fields.targets else [])
    config = EvaluationConfig.from_dict(
        {**settings, **{key: name for key, name in columns.items() if name}, "throughput": False},
        columns=list(features.columns),
        text_columns=text_columns(features),
        targets=fields.targets,
    )
    return config, EvaluationData.from_frame(frame, config, frame[fields.targets].tolist() if fields.targets else None)


def _done(evaluation: Evaluation) -> Evaluation:
    for _ in evaluation.run():
        pass
    return evaluation
