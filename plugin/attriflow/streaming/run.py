"""A data set through a model: windows of rows, committed one after the other."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attriflow import io
from attriflow.datasets import Rows
from attriflow.errors import InputError
from attriflow.io.files import run_of, write
from attriflow.progress import Meter
from attriflow.streaming.fields import Fields
from attriflow.streaming.journal import Journal
from attriflow.streaming.page import page_run, write_page
from attriflow.streaming.rows import Explain
from attriflow.streaming.windows import WindowExplainer, windows
from attriflow.types import Attribution
from attriflow.workers import Pace, check_engine, rounding, run_units

HELD = 20_000
"""Most rows for a .safetensors file, which is made in memory."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a run did.

    Attributes:
        rows: Rows of the data set.
        failed: How many of them could not be explained.
        resumed: Rows that an earlier process had done.
        seconds: Time of this process.
        pace: Rows per second of each worker, while it worked.
        finished_before: Whether there was nothing to do, since an earlier process had finished.
    """

    rows: int
    failed: int = 0
    resumed: int = 0
    seconds: float = 0.0
    pace: Mapping[str, float] = field(default_factory=dict)
    finished_before: bool = False


def attribute_dataset(
    rows: Rows,
    load: Callable[[], Explain],
    *,
    fields: Fields | None = None,
    output: str | Path | None = None,
    page: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    strict: bool = False,
    window: int = 128,
    settings: Mapping[str, Any] | None = None,
    on_window: Callable[[list[Attribution]], None] | None = None,
    on_failure: Callable[[int, str], None] | None = None,
    show_progress: bool = True,
    engine: str = "local",
    workers: int | None = None,
    address: str | None = None,
) -> Summary:
    """Explain every row of a data set in bounded memory, and write the attributions as they come.

    Args:
        rows: The data set (see `attriflow.datasets.open_dataset`).
        load: Called when there is a row to explain. Returns what explains the texts of a window:
            `lambda: functools.partial(model.attribute, method="saliency")`. Every worker calls it.
        fields: Which columns hold what.
        output: File for the attributions (see `attriflow.io`) and, in their place, the reasons of rows that failed.
            A .html file is a `page`.
        page: HTML page of the first rows.
        resume: Go on with a run that was interrupted; its result is the same, byte for byte, as if it had not been.
        overwrite: Replace files that exist, and what an interrupted run left.
        strict: Stop at the first row that fails.
        window: Rows that are explained together and committed together.
        settings: What else the result depends on (model, method, options): a run with others cannot be resumed.
        on_window: Called with the attributions of every window.
        on_failure: Called with the row and the reason of every failure.
        show_progress: Show how far the run is.
        engine, workers, address: Where windows are explained (see `attriflow.workers.run_units`), which changes
            nothing of what is written. Elsewhere than in this process, `load` must be picklable.

    Raises:
        InputError: A file that cannot be written or resumed, a row that fails (`strict`), or no row of the first window
            that could be explained.
    """
    begin = time.monotonic()
    fields = (fields or Fields()).resolved(rows.columns)
    journal, only_page = None, False
    check_targets(output, page, resume=resume, overwrite=overwrite)
    check_engine(engine, workers, address)
    if output or page:
        target = Path(output or page or "")
        only_page = not output or io.suffix_of(target, ".html") == ".html"
        _check_size(target, only_page, len(rows))
        data = {**rows.identity(), "from": rows.start, "to": rows.stop}
        facts = {"data": data, "fields": dataclasses.asdict(fields), "window": window, **(settings or {})}
        journal = Journal(target, facts, overwrite=overwrite, rounding=rounding(engine, workers))
        if page and output:  # a page of this run: killed between the steps of its end
            io.check_outputs([page], overwrite or (resume and _page_of(Path(page), journal)))
    with journal or contextlib.nullcontext():
        if journal and not journal.open(resume, page_run if only_page else run_of):
            took = time.monotonic() - begin
            return Summary(rows=len(rows), resumed=len(rows), seconds=took, finished_before=True)
        done, failed = (journal.rows, journal.failed) if journal else (0, 0)
        resumed = done
        run = journal.run if journal else None
        made, pace = WindowExplainer(load=load, fields=fields, run=run, show=on_window is not None), Pace()
        units = windows(rows, done, window)
        doing = run_units(made, units, engine=engine, workers=workers, address=address, ordered=True)
        with contextlib.closing(doing), Meter("rows", len(rows), done, show_progress) as meter:
            for one in doing:
                found = made.result(one)
                everything = done == 0 and len(found.wrong) == found.rows
                _check_failures(found.wrong, strict, all_failed=everything)
                if journal:
                    journal.commit(found.block, found.rows, len(found.wrong))
                done, failed = done + found.rows, failed + len(found.wrong)
                pace.add(one.worker, found.rows, one.seconds)
                if on_window:
                    on_window(found.shown)
                if on_failure:
                    for row, why in found.wrong:
                        on_failure(row, why)
                meter.advance(found.rows)
        if journal:
            _finish(journal, only_page, Path(page) if page and output else None)
    took = time.monotonic() - begin
    return Summary(rows=done, failed=failed, resumed=resumed, seconds=took, pace=pace.rows_per_second())


def _check_failures(wrong: Sequence[tuple[int, str]], strict: bool, all_failed: bool) -> None:
    if wrong and (strict or all_failed):
        who = f"none of the first {len(wrong)} rows can be explained; " if all_failed and len(wrong) > 1 else ""
        raise InputError(f"{who}row {wrong[0][0]}: {wrong[0][1]}")


def check_targets(
    output: str | Path | None, page: str | Path | None, *, resume: bool = False, overwrite: bool = False
) -> None:
    """Raise `InputError` for outputs that cannot be written, before anything is read or computed.

    With `resume`, files that exist may be those of the run that goes on; its journal knows.
    """
    if output:
        io.suffix_of(output, ".html")
    io.check_outputs([path or None for path in (output, page)], overwrite or resume)


def _page_of(page: Path, journal: Journal) -> bool:
    return page.exists() and page_run(page) == journal.run


def _finish(journal: Journal, only_page: bool, page: Path | None) -> None:
    if page is not None:
        write_page(journal.records(), page, journal.run, overwrite=journal.overwrite or _page_of(page, journal))
    if only_page:
        journal.finish(write_page)
    else:
        journal.finish(None if journal.target.suffix.lower() == ".jsonl" else write)


def _check_size(target: Path, only_page: bool, n: int) -> None:
    if not only_page and io.suffix_of(target) == io.DEFAULT and n > HELD:
        raise InputError(
            f"{n:,} rows are too many for a .safetensors file, which is made in memory (at most {HELD:,}): "
            "write .jsonl or .parquet"
        )
