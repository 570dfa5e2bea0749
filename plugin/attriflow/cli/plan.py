"""`plan`."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Annotated, Any

from attriflow.cli.attribute import load, prepare
from attriflow.cli.attribute_dataset import loaded, opened, window
from attriflow.cli.options import DatasetOptions, json_option, known, option

_PLAN = "Plan"


@dataclass(kw_only=True)
class PlanOptions(DatasetOptions):
    """Options of `plan`."""

    within: Annotated[str | None, option("Say how many workers are done in this time: 90min, 8h, 2d.", panel=_PLAN)] = (
        None
    )
    rows: Annotated[
        int | None, option("Rows to plan for; those of the data set when not given.", min=1, panel=_PLAN)
    ] = None
    sample: Annotated[int, option("Rows to explain in order to know.", min=1, panel=_PLAN)] = 32
    methods: Annotated[
        list[str] | None,
        option("Plan an evaluation of these (commas between), or all.", panel=_PLAN, autocompletion=known("methods")),
    ] = None
    method_options: Annotated[dict[str, Any] | None, json_option("Method -> options, with --methods", panel=_PLAN)] = (
        None
    )
    metrics: Annotated[
        list[str] | None,
        option("Its metrics; ferret's six when not given.", panel=_PLAN, autocompletion=known("metrics")),
    ] = None
    metric_options: Annotated[dict[str, Any] | None, json_option("Metric -> options", panel=_PLAN)] = None


def plan(options: PlanOptions) -> None:
    """Tell what attribute-dataset, or an evaluation (--methods), with the same options will take.

    Time, forward passes and device hours, from a sample that is explained here, and how many workers it takes.
    """
    prepare(options, contrasted=bool(options.contrast_targets_field or options.contrast_sources_field))
    from attriflow import streaming

    within = None if options.within is None else streaming.seconds_of(options.within)
    rows, fields = opened(options)
    if options.methods is None:
        found = streaming.estimate(
            rows,
            functools.partial(loaded, options),
            fields=fields,
            window=window(options),
            sample=options.sample,
            total=options.rows,
        )
    else:
        from attriflow.streaming.evaluations import estimate_evaluation

        found = estimate_evaluation(
            rows,
            functools.partial(load, options),
            _evaluated(options),
            fields=fields,
            sample=options.sample,
            total=options.rows,
        )
    print("\n".join(found.lines(within)))


def _evaluated(options: PlanOptions) -> dict[str, Any]:
    """Settings of the evaluation that is planned."""
    given: dict[str, Any] = {
        "methods": ",".join(options.methods or ()),
        "metrics": ",".join(options.metrics) if options.metrics else None,
        "method_options": options.method_options,
        "metric_options": options.metric_options,
        "step_functions": ",".join(options.step_scores or ()) or [],
        "generation_args": options.generation_kwargs,
        "target_spans": options.target_spans,
        **{
            name: getattr(options, name)
            for name in ("attributed_fn", "attribute_target", "batch_size", "seed", "span_value")
        },
    }
    return {key: value for key, value in given.items() if value is not None}
