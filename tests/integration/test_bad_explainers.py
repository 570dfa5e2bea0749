"""Bad explainers, planted in a real evaluation, are caught by at least two metrics each."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from attriflow.tracking.pages import Tables

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "bad_explainers.py"
FAITHFULNESS = ["aopc_compr", "morf_lerf", "loo_agreement"]
PLAUSIBILITY = ["relevance_rank", "auprc_plau"]
SANITY = ["parameter_randomisation", "random_logit", "efficient_mprt"]


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("bad_explainers", RECIPE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def evaluation(recipe):
    return recipe.evaluate(12, [*FAITHFULNESS, *PLAUSIBILITY, *SANITY], [*recipe.CONTROLS, "saliency"])


@pytest.fixture(scope="module")
def found(recipe, evaluation):
    return recipe.caught(evaluation)


def test_each_fails_a_gate_and_stands_below_every_honest_method(recipe, evaluation):
    board = Tables.of(evaluation, {}).leaderboard
    rows = board.set_index("method")
    honest = rows.loc[["occlusion", "saliency"]]
    assert honest["status"].eq("ok").all() and honest["rank"].notna().all()
    assert rows.loc[list(recipe.SPOILT), "gates_failed"].ne("").all(), rows["gates_failed"]
    assert rows.loc[list(recipe.SPOILT), "rank"].isna().all()
    assert set(board["method"][:2]) == {"occlusion", "saliency"}
    for name in ("constant", "leaking", "position_only"):
        assert "randomisation (1.00)" in rows.loc[name, "gates_failed"]
    for name in ("reversed", "shuffled"):
        assert "control" in rows.loc[name, "gates_failed"] and "randomisation" not in rows.loc[name, "gates_failed"]


@pytest.mark.parametrize(
    ("name", "by"),
    [
        ("reversed", {*FAITHFULNESS, *PLAUSIBILITY}),
        ("shuffled", {*FAITHFULNESS, *PLAUSIBILITY}),
        # what is constant has no correlation; it does not look at the model, which the sanity metrics see
        ("constant", {"morf_lerf", *PLAUSIBILITY, *SANITY}),
        ("leaking", {"loo_agreement", *SANITY}),
        ("position_only", {"morf_lerf", "loo_agreement", *SANITY}),
    ],
)
def test_each_is_caught_by_two_at_least(found, name, by):
    caught = {metric for metric, row in found.items() if row[name]}
    assert by <= caught and len(caught) >= 2


def test_metrics_that_compare_an_explainer_with_itself_do_not_catch_what_it_always_did(found):
    """Reversing or shuffling an honest explanation leaves its dependence on the model as it was."""
    assert not any(found[metric][name] for metric in SANITY for name in ("reversed", "shuffled"))
