"""Plots and the report of an evaluation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attriflow.evaluation import significance, tables
from attriflow.evaluation.cards import Card, method_cards
from attriflow.evaluation.choices import AXES
from attriflow.evaluation.circularity import own_metrics, token_of, with_circularity
from attriflow.evaluation.families import FAITHFUL, families
from attriflow.evaluation.runner import Evaluation
from attriflow.models.offload import places_of
from attriflow.registry import metrics
from attriflow.statistics import multiverse
from attriflow.statistics.agreement import agreement_table
from attriflow.statistics.gates import failed, gates
from attriflow.statistics.ranking import redundancy, same_metrics
from attriflow.tracking.artifacts import HtmlArtifact, PlotsArtifact

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from mlflow.models.evaluation.base import EvaluationArtifact

    from attriflow.tracking.run_logger import RunLogger

_logger = logging.getLogger(__name__)
TOLD = 8
"""Workers whose speed is told one by one."""


@dataclass(frozen=True, kw_only=True)
class MultiverseTables:
    """What a multiverse found, and what that says, see `attriflow.statistics.multiverse`."""

    rows: pd.DataFrame
    ranks: pd.DataFrame
    wins: pd.DataFrame
    stability: pd.DataFrame
    places: pd.DataFrame
    verdict: str

    @classmethod
    def of(cls, evaluation: Evaluation, doubles: Collection[str], floor: float) -> MultiverseTables | None:
        """Tables of what is known so far; None without a row."""
        found = evaluation.multiverse
        if found is None or not found.found:
            return None
        families = {m: str(metrics.info(m).meta["family"]) for m in found.choices.metrics if m not in doubles}
        higher, rows, worlds = tables.directions(families), found.rows(), found.worlds()
        alike = {r.name: r.same_as for r in evaluation.results if r.same_as}
        same = multiverse.copies(rows, worlds, list(families), alike)
        ranked = multiverse.world_ranks(rows, worlds[~worlds["method"].isin(list(same))], higher, families, floor)
        won, stable = multiverse.wins(ranked), multiverse.stability(ranked, AXES)
        places = multiverse.spans(ranked)
        said = multiverse.verdict(won, stable, places)
        said += "".join(f" {m} is {home} in every world, and counts with it." for m, home in same.items())
        return cls(rows=rows, ranks=ranked, wins=won, stability=stable, places=places, verdict=said)


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The tables of an evaluation, which way each metric points, and cards; `agreement` with two methods or more."""

    leaderboard: pd.DataFrame
    gates: pd.DataFrame
    redundancy: pd.DataFrame
    summary: pd.DataFrame
    comparisons: pd.DataFrame
    agreement: pd.DataFrame | None
    scores: pd.DataFrame
    curves: pd.DataFrame
    step_scores: pd.DataFrame
    directions: Mapping[str, bool]
    cards: Sequence[Card]
    multiverse: MultiverseTables | None = None

    @classmethod
    def of(cls, evaluation: Evaluation, magnitudes: Mapping[str, Sequence[np.ndarray]]) -> Tables:
        """Tables of what is known so far; `magnitudes` are what `agreement_table` compares, by method."""
        names, seed = evaluation.config.metrics, evaluation.config.seed
        directions = tables.directions(names)
        scores = tables.scores_table(evaluation.results, evaluation.examples)
        kinds = families(names, evaluation.metric_options)
        ranked = [m for m in names if m in directions]
        values = tables.example_table([r for r in evaluation.results if r.ok], ranked)
        doubles = same_metrics(values, kinds)
        passing = gates(
            values,
            directions,
            [m for m in ranked if kinds[m] in FAITHFUL and m not in doubles],
            unsigned={r.name for r in evaluation.results if r.unsigned},
            seeded={r.name: tables.seeded_tables(r, doubles) for r in evaluation.results if not r.same_as},
            families=kinds,
            seed=seed,
        )
        board = tables.leaderboard(
            evaluation.results,
            names,
            directions,
            len(evaluation.examples),
            families=kinds,
            floor=evaluation.config.min_coverage,
            gates=failed(passing) if evaluation.config.gates else None,
        )
        own = own_metrics(evaluation.results, kinds, evaluation.metric_options, token_of(evaluation.model.wrapped))
        return cls(
            leaderboard=with_circularity(board, own, kinds),
            gates=passing,
            redundancy=redundancy(values, directions, doubles),
            summary=significance.summary_table(scores, seed=seed),
            comparisons=significance.comparison_table(scores, directions, seed=seed),
            agreement=agreement_table(magnitudes, seed=seed) if len(magnitudes) > 1 else None,
            scores=scores,
            curves=tables.curves_table(evaluation.curves(), evaluation.examples),
            step_scores=tables.step_scores_table(evaluation.step_scores, evaluation.examples),
            directions=directions,
            cards=method_cards(evaluation, board, passing),
            multiverse=MultiverseTables.of(evaluation, doubles, evaluation.config.min_coverage),
        )


def plots(found: Tables) -> dict[str, bytes]:
    """Name -> PNG. A plot that cannot be drawn is left out: numbers must not be lost for a picture."""
    from attriflow.views.evaluations import plots as views
    from attriflow.views.evaluations.agreement import agreement_heatmap, correlation_heatmap
    from attriflow.views.evaluations.curves import removal_curves
    from attriflow.views.evaluations.multiverse import multiverse as draw_multiverse
    from attriflow.views.figures import to_png

    drawings: dict[str, Callable[[], Any]] = {
        "metric_heatmap": lambda: views.metric_heatmap(found.leaderboard, found.directions),
        "metric_distributions": lambda: views.metric_distributions(found.scores, found.directions),
        "quality_cost": lambda: views.quality_cost(found.leaderboard, found.directions),
        "step_scores": lambda: views.step_scores(found.step_scores),
    }
    if len(found.curves):
        drawings["removal_curves"] = lambda: removal_curves(found.curves, found.directions)
    agreement = found.agreement
    if agreement is not None:
        drawings["agreement"] = lambda: agreement_heatmap(agreement).figure
    if len(found.redundancy):
        drawings["metric_correlations"] = lambda: correlation_heatmap(found.redundancy)
    worlds = found.multiverse
    if worlds is not None:
        drawings["multiverse"] = lambda: draw_multiverse(worlds.wins, worlds.places)
    out = {}
    for name, draw in drawings.items():
        try:
            out[name] = to_png(draw())
        except Exception as error:
            _logger.warning("could not draw the plot '%s': %s", name, error)
    return out


def report(evaluation: Evaluation, found: Tables, figures: Mapping[str, bytes], names: Mapping[str, str]) -> str:
    """The self-contained page."""
    from attriflow.views.evaluations.report import report_html

    shown = evaluation.config.report_examples
    return report_html(
        title=f"Attribution methods on {names['model']}" if "model" in names else "Attribution methods",
        leaderboard=found.leaderboard,
        directions=found.directions,
        scores=found.scores,
        step_scores=found.step_scores,
        summary=found.summary,
        comparisons=found.comparisons,
        attributions={r.name: r.attributions[:shown] for r in evaluation.results if r.ok},
        rationales=evaluation.rationales[:shown] if evaluation.data.rationales is not None else None,
        settings=settings(evaluation, names),
        figures=figures,
        cards=found.cards,
        choices=None if found.multiverse is None else (found.multiverse.verdict, found.multiverse.stability),
        max_examples=shown,
    )


def settings(evaluation: Evaluation, names: Mapping[str, str]) -> dict[str, Any]:
    """What a reader of the report needs to know to run it again."""
    model = evaluation.model
    config, kind = evaluation.config, type(model.model).__name__
    return {
        **config.as_dict(),
        "model": f"{names['model']} ({kind})" if "model" in names else kind,
        "model_name_or_uri": model.name,
        **({"registered_as": names["registered"]} if "registered" in names else {}),
        **({"data": names["data"]} if "data" in names else {}),
        "device": ", ".join(places_of(model.model, model.wrapped.devices)),
        "dtype": str(model.dtype).removeprefix("torch."),
        "n_examples": len(evaluation.examples),
        "n_target_tokens": evaluation.n_tokens,
        **({"examples_per_second": _pace(evaluation.pace)} if evaluation.pace else {}),
        **({"left_out": dict(config.left_out)} if config.left_out else {}),
        **({"failed_rows": dict(evaluation.data.failed)} if evaluation.data.failed else {}),
    }


def _pace(rates: Mapping[str, float]) -> dict[str, float]:
    """Examples per second of workers and in all; the slowest and the fastest of many."""
    each = sorted((rate, worker) for worker, rate in rates.items() if worker != "in all")
    told = each if len(each) <= TOLD else [each[0], each[-1]]
    return {name: float(f"{rate:.3g}") for rate, name in told} | {"in all": float(f"{rates['in all']:.3g}")}


def log_pages(
    run: RunLogger, evaluation: Evaluation, found: Tables, names: Mapping[str, str]
) -> dict[str, EvaluationArtifact]:
    """Log plots and report; returns them by name."""
    artifacts: dict[str, EvaluationArtifact] = {}
    figures = plots(found)
    for name, png in figures.items():
        run.artifact(f"plots/{name}.png", png)
    artifacts["plots"] = PlotsArtifact(uri=run.uri("plots"), content=figures)
    try:
        page = report(evaluation, found, figures, names)
    except Exception as error:
        _logger.warning("could not write the report: %s", error)
        return artifacts
    uri = run.artifact("report.html", page)
    artifacts["report"] = HtmlArtifact(uri=uri, content=page)
    return artifacts
