"""`check`: did something get slower or worse?"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attriflow.cli.console import console, whole
from attriflow.cli.options import option, overwrite_option, store_option
from attriflow.errors import InputError

if TYPE_CHECKING:
    from attriflow.regression.rules import Rules
    from attriflow.regression.verdicts import Verdict

_FILES, _RUNS, _OUTPUT = "Files of pytest-benchmark", "Evaluations in MLflow", "Rules and output"
_BAD_INPUT = 2


@dataclass(kw_only=True)
class CheckOptions:
    """Options of `check`."""

    baseline: Annotated[Path | None, option("Benchmarks to compare with.", metavar="FILE", panel=_FILES)] = None
    current: Annotated[Path | None, option("Benchmarks to judge.", metavar="FILE", panel=_FILES)] = None
    baseline_run: Annotated[str | None, option("Evaluation to compare with.", metavar="RUN_ID", panel=_RUNS)] = None
    run: Annotated[str | None, option("Evaluation to judge.", metavar="RUN_ID", panel=_RUNS)] = None
    tracking_uri: Annotated[str | None, store_option(panel=_RUNS)] = None
    rules: Annotated[Path | None, option("YAML file; defaults without it.", metavar="FILE", panel=_OUTPUT)] = None
    junit: Annotated[Path | None, option("JUnit XML to write.", metavar="FILE", panel=_OUTPUT)] = None
    overwrite: Annotated[bool, overwrite_option(_OUTPUT)] = False
    summary: Annotated[
        Path | None,
        option(
            "Markdown to append to.",
            metavar="FILE",
            panel=_OUTPUT,
            envvar="GITHUB_STEP_SUMMARY",
            show_envvar=True,
        ),
    ] = None


def check(options: CheckOptions) -> None:
    """Fail when something got slower or worse than the rules allow.

    Compares two files of benchmarks, or two evaluations. Exit codes: 0 within the limits, 1 a regression, 2 no verdict.
    """
    try:
        from attriflow.io import check_outputs, write_content

        check_outputs([options.junit], options.overwrite)
        if options.summary is not None and (options.summary.is_dir() or not options.summary.exists()):
            check_outputs([options.summary])  # what exists is appended to
        title, notes, verdicts = _judge(options)
        from attriflow.views.evaluations.verdicts import junit, markdown, summary, verdict_table

        out = console()
        out.print(verdict_table(verdicts, title))
        for line in (*notes, summary(verdicts)):
            whole(out, line)
        if options.junit is not None:
            write_content(junit(verdicts, title), options.junit, overwrite=options.overwrite)
        if options.summary is not None:
            with options.summary.open("a", encoding="utf-8") as file:
                file.write(markdown(verdicts, title) + "".join(f"\n{note}\n" for note in notes))
    except Exception as error:  # whatever it is, it is no verdict
        error.exit_code = _BAD_INPUT  # type: ignore[attr-defined]
        raise
    if any(v.failed for v in verdicts):
        raise typer.Exit(1)


def _judge(options: CheckOptions) -> tuple[str, list[str], list[Verdict]]:
    from attriflow.regression.rules import Rules

    files, runs = (options.baseline, options.current), (options.baseline_run, options.run)
    if all(files) and not any(runs):
        return _judge_files(files[0], files[1], Rules.read(options.rules))  # type: ignore[arg-type]
    if all(runs) and not any(files):
        from attriflow.tracking.regression import check_runs

        verdicts = check_runs(runs[0], runs[1], Rules.read(options.rules), options.tracking_uri)  # type: ignore[arg-type]
        return f"Evaluation {runs[1]} against {runs[0]}", [], verdicts
    raise InputError("give two files (--baseline and --current) or two runs (--baseline-run and --run)")


def _judge_files(baseline: Path, current: Path, rules: Rules) -> tuple[str, list[str], list[Verdict]]:
    from attriflow.regression.benchmarks import read_benchmarks
    from attriflow.regression.verdicts import judge_costs

    before, after = read_benchmarks(baseline), read_benchmarks(current)
    differing = [k for k in before.machine if after.machine.get(k, before.machine[k]) != before.machine[k]]
    notes = [f"{k}: {after.machine[k]}, in the baseline {before.machine[k]}" for k in differing]
    for found in (before, after):
        if found.unmeasured:
            notes.append(f"{len(found.unmeasured)} benchmarks in {found.path} have no forward-pass equivalents")
    verdicts = judge_costs(before.costs, after.costs, rules, before.unit)
    return f"{os.path.basename(current)} against {os.path.basename(baseline)}", notes, verdicts
