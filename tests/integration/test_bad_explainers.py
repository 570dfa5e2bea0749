"""Bad explainers, planted in a real evaluation, are caught by at least two metrics each."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "bad_explainers.py"
FAITHFULNESS = ["aopc_compr", "morf_lerf", "loo_agreement"]
PLAUSIBILITY = ["relevance_rank", "auprc_plau"]
SANITY = ["parameter_randomisation", "random_logit", "efficient_mprt"]


@pytest.fixture(scope="module")
def found():
    spec = importlib.util.spec_from_file_location("bad_explainers", RECIPE)
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    return recipe.caught(recipe.evaluate(12, [*FAITHFULNESS, *PLAUSIBILITY, *SANITY]))


@pytest.mark.parametrize(
    ("name", "by"),
    [
        ("reversed", {*FAITHFULNESS, *PLAUSIBILITY}),
        ("shuffled", {*FAITHFULNESS, *PLAUSIBILITY}),
        # what is constant has no correlation; it does not look at the model, which the sanity metrics see
        ("constant", {"morf_lerf", *PLAUSIBILITY, *SANITY}),
        ("leaking", {"morf_lerf", "loo_agreement", *SANITY}),
    ],
)
def test_each_is_caught_by_two_at_least(found, name, by):
    caught = {metric for metric, row in found.items() if row[name]}
    assert by <= caught and len(caught) >= 2


def test_metrics_that_compare_an_explainer_with_itself_do_not_catch_what_it_always_did(found):
    """Reversing or shuffling an honest explanation leaves its dependence on the model as it was."""
    assert not any(found[metric][name] for metric in SANITY for name in ("reversed", "shuffled"))
