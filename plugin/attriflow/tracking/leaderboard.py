"""What `attriflow leaderboard` does: runs from a store, compared, written, logged."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attriflow.errors import InputError, check_choice, reason_of
from attriflow.io import check_outputs, write_content
from attriflow.statistics.ranking import FLOOR
from attriflow.statistics.standings import BY, Standings, standings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from attriflow.tracking.evaluations import EvaluationRun
    from attriflow.tracking.stored import EvaluationStore

_logger = logging.getLogger(__name__)
FORMATS = ("html", "csv", "md", "json", "png")
MOST_DRAWN, MOST_GROUPS = 60, 12
"""Rows per plot and groups with plots of their own; the tables have them all."""
FOLDER = "leaderboard"
"""Where `--log-to` puts the files in a run."""


def leaderboard(
    experiments: Sequence[str] = (),
    runs: Sequence[str] = (),
    *,
    by: str = "method",
    log_to: str | None = None,
    quality: Sequence[str] = (),
    tracking_uri: str | None = None,
    seed: int = 0,
    min_coverage: float = FLOOR,
    gates: bool = True,
) -> Leaderboard:
    """Compare evaluations.

    Args:
        experiments: Names of experiments, all of whose finished evaluations count.
        runs: Ids of evaluations.
        by: What a row is: "method", "model" or "both".
        log_to: Id of the run to which `Leaderboard.log` will log.
        quality: Metrics of the critical-difference diagrams; the first of each family by default.
        tracking_uri: The store; MLflow's own setting by default.
        seed: For resampling.
        min_coverage: Share of a metric's examples that a row must have values for to be ranked.
        gates: Rank only rows that passed the gates of their evaluations.
    """
    check_choice("grouping", by, BY)
    if not experiments and not runs:
        raise InputError("name an experiment (--experiment) or runs (--runs)")
    from attriflow.tracking.evaluations import find_runs, store_errors
    from attriflow.tracking.gathering import gather
    from attriflow.tracking.stored import EvaluationStore

    store = EvaluationStore(tracking_uri)
    with store_errors(store.uri):
        notes: list[str] = []  # lines about runs that are left out; the others are compared
        found = gather(store.uri, find_runs(store.client, experiments, runs, notes), gates=gates, notes=notes)
        destination = store.client.get_run(log_to).info.run_id if log_to else None
        board = standings(found, by, seed=seed, floor=min_coverage)
    for name in quality:
        check_choice("ranked metric", name, board.higher_is_better)
    return Leaderboard(board, experiments, found.runs, store, quality, destination)


def target(name: str) -> Path:
    """The file for an output: a path with a known suffix, or a format."""
    path = Path(f"leaderboard.{name}") if name in FORMATS else Path(name)
    if path.suffix.removeprefix(".") not in FORMATS:
        raise InputError(
            f"cannot write {name}: expected one of {', '.join(FORMATS)}, or a file that ends in one of them"
        )
    return path


class Leaderboard:
    """Evaluations compared, in every format; pictures are drawn once.

    Attributes:
        board: The numbers.
        title: What is compared.
        chosen: Metrics of the critical-difference diagrams.
    """

    def __init__(
        self,
        board: Standings,
        experiments: Sequence[str],
        runs: Sequence[EvaluationRun],
        store: EvaluationStore,
        quality: Sequence[str] = (),
        log_to: str | None = None,
    ) -> None:
        """Use `leaderboard`."""
        from attriflow.views.evaluations.standings import WHAT

        self.board, self._store, self._log_to = board, store, log_to
        self.title = f"{WHAT[board.by]}: {', '.join(experiments)}" if experiments else WHAT[board.by]
        ranked = list(board.higher_is_better)
        first = {board.families[name]: name for name in reversed(ranked)}
        self.chosen = list(quality) or sorted(first.values(), key=ranked.index)
        self.runs = [_about(run) for run in runs]
        self._figures: dict[str, bytes] | None = None

    @property
    def figures(self) -> Mapping[str, bytes]:
        """Name -> PNG. One that cannot be drawn is left out: numbers must not be lost for a picture."""
        if self._figures is None:
            from attriflow.views.figures import to_png

            self._figures = {}
            for name, draw in self._drawings().items():
                try:
                    self._figures[name] = to_png(draw())
                except Exception as error:
                    _logger.warning("could not draw the plot '%s': %s", name, reason_of(error))
        return self._figures

    def _drawings(self) -> dict[str, Callable[[], Figure]]:
        from attriflow.views.evaluations import plots as evaluation_plots
        from attriflow.views.evaluations.standings import plotted
        from attriflow.views.evaluations.standings_plots import critical_differences

        board, ranked = self.board, self.board.higher_is_better
        groups = list(dict.fromkeys(board.rows["group"]))[:MOST_GROUPS]
        drawings: dict[str, Callable[[], Figure]] = {}
        if len(board.rows) <= MOST_DRAWN:
            drawings["metric_heatmap"] = partial(evaluation_plots.metric_heatmap, plotted(board), ranked)
        for group in groups:
            part = board.rows[board.rows["group"] == group]
            if not 1 < len(part) <= MOST_DRAWN:
                continue
            suffix = f": {part['model'].iloc[0]}" if group and len(groups) > 1 else ""
            drawings[f"critical_differences{suffix}"] = partial(critical_differences, board, self.chosen, group)
            drawings[f"quality_cost{suffix}"] = partial(
                evaluation_plots.quality_cost, plotted(board, group), {"rank": False, **ranked}, "rank"
            )
        return drawings

    def contents(self, kind: str) -> dict[str, bytes]:
        """File name -> content of a format; pictures are several files."""
        from attriflow.views.common import to_csv
        from attriflow.views.evaluations import standings as views

        board = self.board
        if kind == "png":
            return {f"{name.replace(': ', '-').replace('/', '-')}.png": png for name, png in self.figures.items()}
        if kind == "html":
            text = views.standings_html(
                board, title=self.title, figures=self.figures, runs=self.runs, facts=self._facts()
            )
        elif kind == "csv":
            text = to_csv(views.flat(board), index=False)
        elif kind == "md":
            text = views.markdown(board)
        else:
            text = views.as_json(board, self.runs)
        return {f"leaderboard.{kind}": text.encode()}

    def write(self, path: Path, *, overwrite: bool = False) -> list[Path]:
        """Write a file; a `.png` gets the first picture, the others stand beside it with their names."""
        found = self.contents(path.suffix.removeprefix("."))
        if not found:
            raise InputError(f"there is nothing to draw for {path}: more than {MOST_DRAWN} rows")
        files = {path.with_name(f"{path.stem}-{name}") if i else path: found[name] for i, name in enumerate(found)}
        check_outputs(files, overwrite)
        return [write_content(content, file, overwrite=overwrite) for file, content in files.items()]

    def log(self) -> tuple[str, str]:
        """Log every format to the run that was named; returns its id and the folder."""
        if self._log_to is None:
            raise InputError("name a run to log to (log_to)")
        from attriflow.tracking.evaluations import store_errors
        from attriflow.tracking.run_logger import RunLogger

        run, folder = RunLogger(self._log_to, self._store.client), f"{FOLDER}/{self.board.by}"
        with store_errors(self._store.uri):
            for kind in FORMATS:
                for name, content in self.contents(kind).items():
                    run.artifact(f"{folder}/{name}", content)
        return run.run_id, folder

    def _facts(self) -> dict[str, Any]:
        rows = self.board.rows
        models = {run["model"] for run in self.runs}
        examples = [rows[f"{m}_n"].max() for m in self.board.metrics]
        return {
            "Evaluations": len(self.runs),
            "Models": ", ".join(sorted(models)) if len(models) < 6 else len(models),
            "Data": ", ".join(sorted({run["data"] for run in self.runs})[:6]),
            "Examples": f"up to {int(max(examples))}" if examples else "",
            "Metrics": len(self.board.metrics),
            "Store": re.sub(r"//[^/@]*@", "//", self._store.uri),  # without a name and password
        }


def _about(run: EvaluationRun) -> dict[str, Any]:
    started = datetime.fromtimestamp(run.started / 1000, timezone.utc)
    return {
        "run": run.name,
        "id": run.run_id,
        "model": run.model,
        "data": run.data,
        "seed": run.seed,
        "started (UTC)": f"{started:%Y-%m-%d %H:%M}",
    }
