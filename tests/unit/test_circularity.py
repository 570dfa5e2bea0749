"""Who is scored by the perturbation it was built with, and what it gains by it."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pandas as pd
import pytest

from attriflow.evaluation.circularity import own_metrics, token_of, with_circularity
from attriflow.evaluation.families import families
from attriflow.evaluation.results import MethodResult

NAMES = ["aopc_compr", "deletion_auc", "infidelity", "log_odds", "auprc_plau", "soft_nc", "max_sensitivity"]


def test_families_follow_what_becomes_of_the_tokens():
    found = families(NAMES, {"deletion_auc": {"how": "mask"}, "log_odds": {"how": "delete"}})
    assert [found[n] for n in NAMES] == [
        "removal", "replacement", "replacement", "removal", "plausibility", "replacement", "robustness",
    ]  # fmt: skip
    assert families(["no_such_metric"]) == {"no_such_metric": ""}


def test_methods_with_the_same_baseline_are_scored_by_their_own_perturbation():
    results = [
        MethodResult(name="occlusion"),
        MethodResult(name="lime", options={"baseline": "pad"}),
        MethodResult(name="saliency"),
        MethodResult(name="no_such_method"),
    ]
    assert own_metrics(results, families(NAMES), {}) == {"occlusion": ["infidelity", "log_odds"]}
    assert own_metrics(results, families(NAMES), {"log_odds": {"how": "delete"}}) == {"occlusion": ["infidelity"]}


class PadAndEos:
    """A model whose tokenizer has these two only: its "unk" is the pad token."""

    name, vocab_size = "toy", 10

    def special_id(self, name):
        return {"pad": 5, "eos": 7}.get(name)

    def tokens(self, ids):
        return [SimpleNamespace(text=str(i)) for i in ids]


def test_a_metric_replaces_as_a_method_does_whatever_the_token_is_called():
    with pytest.warns(UserWarning, match="no unk token"):
        token = token_of(PadAndEos())
        assert [token(t) for t in ("unk", "pad", "eos", 7, "bos", "zero", 99)] == [5, 5, 7, 7, "bos", "zero", "99"]
    pad, eos = 5, 7
    results = [
        MethodResult(name="occlusion"),
        MethodResult(name="lime", options={"baseline": "eos"}),
        MethodResult(name="kernel_shap", options={"baseline": ["pad", eos]}),
        MethodResult(name="integrated_gradients", options={"baseline": "zero"}),
        MethodResult(name="integrated_gradients.other", options={"baseline": [pad, "mean"]}),
    ]
    how = {"aopc_compr": {"perturbation": "unk"}, "deletion_auc": {"perturbation": eos}}
    how |= {"log_odds": {"perturbation": "mask"}}
    assert own_metrics(results, families(NAMES, how), how, token) == {
        "occlusion": ["aopc_compr", "infidelity"],
        "lime": ["deletion_auc"],
        "kernel_shap": ["aopc_compr", "deletion_auc", "infidelity"],
        "integrated_gradients.other": ["aopc_compr", "infidelity"],
    }


def test_places_gained_by_hand():
    board = pd.DataFrame(
        {
            "method": ["occlusion", "saliency"],
            "aopc_compr_rank": [3.0, 1.0],
            "deletion_auc_rank": [2.0, 1.0],
            "infidelity_rank": [1.0, 2.0],
            "auprc_plau_rank": [9.0, 9.0],
        }
    )
    found = with_circularity(board, {"occlusion": ["infidelity"]}, families(NAMES))
    assert found["places_gained"][0] == pytest.approx(2.5 - 1) and math.isnan(found["places_gained"][1])
    assert found["scored_by_own"].tolist() == ["infidelity", ""]
