"""`plan`."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Annotated

from attriflow.cli.attribute import prepare
from attriflow.cli.attribute_dataset import loaded, opened, window
from attriflow.cli.options import DatasetOptions, option

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


def plan(options: PlanOptions) -> None:
    """Tell what attribute-dataset with the same options will take.

    Time, forward passes and device hours, from a sample that is explained here, and how many workers it takes.
    """
    prepare(options, contrasted=bool(options.contrast_targets_field or options.contrast_sources_field))
    from attriflow import streaming

    within = None if options.within is None else streaming.seconds_of(options.within)
    rows, fields = opened(options)
    found = streaming.estimate(
        rows,
        functools.partial(loaded, options),
        fields=fields,
        window=window(options),
        sample=options.sample,
        total=options.rows,
    )
    print("\n".join(found.lines(within)))
