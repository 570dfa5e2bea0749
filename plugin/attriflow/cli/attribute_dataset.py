"""`attribute-dataset`."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from typing import TYPE_CHECKING, Any

import typer

from attriflow.cli.attribute import aggregation, attribute_keywords, explainer, load, prepare
from attriflow.cli.console import console, say
from attriflow.cli.options import DatasetOptions
from attriflow.kernels.stopping import TERMINATED, terminable, why

if TYPE_CHECKING:
    from collections.abc import Callable

    from attriflow.datasets import Rows
    from attriflow.output import AttributionOutput
    from attriflow.streaming import Fields, Summary
    from attriflow.types import Attribution

BATCHES = 16
"""Batches per window: rows of a window are sorted by length, and are lost together when the process is killed."""
TOLD = 4
"""Workers that are told of one by one."""
REPORTED = 10
"""Failed rows that are reported one by one."""


def attribute_dataset(options: DatasetOptions) -> None:
    """Explain every row of a data set.

    Memory is bounded, and --resume goes on after an interruption.
    """
    prepare(options, contrasted=bool(options.contrast_targets_field or options.contrast_sources_field))
    from attriflow import streaming
    from attriflow.workers import check_engine

    check_engine(options.engine, options.workers, options.ray_address)
    streaming.check_targets(options.output, options.viz_path, resume=options.resume, overwrite=options.overwrite)
    rows, fields = opened(options)
    with _hint(options):
        summary = streaming.attribute_dataset(
            rows,
            functools.partial(loaded, options),
            fields=fields,
            output=options.output,
            page=options.viz_path,
            resume=options.resume,
            overwrite=options.overwrite,
            strict=options.strict,
            window=window(options),
            settings=_settings(options),
            on_window=None if options.hide_attributions else _show,
            on_failure=_Failures(),
            engine=options.engine,
            workers=options.workers,
            address=options.ray_address,
        )
    _say_what_was_done(summary, [str(path) for path in (options.output, options.viz_path) if path is not None])


def opened(options: DatasetOptions) -> tuple[Rows, Fields]:
    """The data set, and which of its columns hold what."""
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    from attriflow import streaming
    from attriflow.datasets import open_dataset

    rows = open_dataset(
        options.dataset_name,
        options.dataset_config,
        files=options.dataset_files,
        folder=options.dataset_dir,
        split=options.dataset_split,
        revision=options.dataset_revision,
        token=options.dataset_auth_token,
        options=options.dataset_kwargs,
    )
    fields = streaming.Fields(
        inputs=options.input_text_field,
        targets=options.generated_text_field,
        contrast_targets=options.contrast_targets_field,
        contrast_sources=options.contrast_sources_field,
    ).resolved(rows.columns)
    return rows, fields


def window(options: DatasetOptions) -> int:
    """Rows that are explained together."""
    return (options.batch_size or 8) * BATCHES


def loaded(options: DatasetOptions) -> Callable[..., AttributionOutput]:
    """What explains texts, in whichever process."""
    return explainer(load(options), options, show_progress=False)


def _show(attributions: list[Attribution]) -> None:
    from attriflow.views.console import show

    show(attributions, console=console())


class _Failures:
    """Tells of the first rows that fail."""

    told = 0

    def __call__(self, row: int, reason: str) -> None:
        """Tell of a row."""
        self.told += 1
        if self.told <= REPORTED:
            say(f"row {row} failed: {reason}")
        elif self.told == REPORTED + 1:
            say("further rows that fail are only counted here; the output has their reasons")


def _say_what_was_done(summary: Summary, written: list[str]) -> None:
    if summary.finished_before:
        say(f"{written[0]} was complete already")
        return
    failed = f", {summary.failed:,} failed" if summary.failed else ""
    before = f" ({summary.resumed:,} before)" if summary.resumed else ""
    speed = (summary.rows - summary.resumed) / max(summary.seconds, 1e-9)
    say(f"{summary.rows:,} rows{before}{failed}; {speed:,.1f} rows/s{_workers(summary)}")
    if written:
        say(f"wrote {' and '.join(written)}")


def _workers(summary: Summary) -> str:
    """What each worker did, where there were several or they were elsewhere; the slowest and the fastest of many."""
    pace = sorted((speed, name) for name, speed in summary.pace.items())
    if not pace or pace[0][1] == "local":
        return ""
    told = pace if len(pace) <= TOLD else [pace[0], pace[-1]]
    each = (", " if len(pace) <= TOLD else " to ").join(f"{speed:,.1f} ({name})" for speed, name in told)
    return f"; {len(pace)} workers, rows/s while they worked: {each}"


@contextlib.contextmanager
def _hint(options: DatasetOptions) -> Any:
    try:
        with terminable():
            yield
    except (KeyboardInterrupt, SystemExit) as stop:
        told = why(stop)
        if options.output or options.viz_path:
            say(f"{told}; the same command with --resume goes on")
        raise typer.Exit(130 if isinstance(stop, KeyboardInterrupt) else TERMINATED) from None


def _settings(options: DatasetOptions) -> dict[str, Any]:
    """What the result depends on, by name."""
    from attriflow.registry import aggregators, methods, step_functions
    from attriflow.streaming.deciding import model_facts, part_facts, without_secrets
    from attriflow.versions import versions

    steps = aggregation(options)
    names = [name if isinstance(name, str) else name[0] for name in steps["aggregator"]]
    functions = dict.fromkeys((options.attributed_fn, *(options.step_scores or ())))
    parts = [(methods, options.attribution_method), *((step_functions, name) for name in functions)]
    return {
        "model": options.model_name_or_path,
        **model_facts(options.model_name_or_path, options.model_kwargs),
        "model_kwargs": without_secrets(options.model_kwargs),
        "tokenizer_kwargs": without_secrets(options.tokenizer_kwargs),
        "device": options.device,
        **({} if options.device_map is None else {"device_map": options.device_map}),
        **({} if options.max_memory is None else {"max_memory": options.max_memory}),
        "dtype": options.dtype,
        "versions": versions(),
        **attribute_keywords(options),
        **part_facts([*parts, *((aggregators, name) for name in names if name in aggregators)]),
        "generation_kwargs": options.generation_kwargs,
        "generate_from_target_prefix": options.generate_from_target_prefix,
        "aggregation": steps,
    }
