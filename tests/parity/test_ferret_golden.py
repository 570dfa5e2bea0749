"""Numbers recorded from ferret-xai 0.4.2 with its own tokenizer round trip and a real model, reproduced item by item.

The recorded probability of every perturbed text is served in place of a model, so that the codec, the selection of
inputs, the plan and ferret's arithmetic are compared, on the installed numpy and transformers.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from attriflow.registry import metrics
from attriflow.types import Attribution, Provenance, Token

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "ferret_golden.json").read_text())
ITEMS = GOLDEN["items"]
IDS = [f"{i['case']}{i['sequence']}-step{i['step']}-{i['score_source']}" for i in ITEMS]
MASK_ID = 0
NAMES = ("aopc_compr", "aopc_suff", "taucorr_loo", "auprc_plau", "token_f1_plau", "token_iou_plau")
METRICS = {name: metrics.get(name) for name in NAMES}

ARGUMENT_SETS = {
    "default": {},
    "all_signs": {"only_pos": False},
    "mask": {"perturbation": "baseline"},
    "mask_all_signs": {"only_pos": False, "perturbation": "baseline"},
    "k123": {"based_on": "k", "thresholds": (1, 2, 3), "only_pos": False},
    "th": {"based_on": "th", "thresholds": (0.0, 0.05, 0.1, 0.2)},
    "perc_eraser": {"thresholds": (0.01, 0.05, 0.1, 0.2, 0.5), "only_pos": False},
}


def attribution_of(item):
    ids = item["prefix_ids"]
    return Attribution(
        scores=torch.tensor([item["scores"]], dtype=torch.float64),
        inputs=tuple(Token(text=str(i), id=i) for i in ids),
        targets=(Token(text=str(item["target_id"]), id=item["target_id"], segment="generated"),),
        start=len(ids),
        provenance=Provenance(method=item["score_source"]),
    )


class Served:
    """Looks up recorded probabilities; keeps the texts that were asked for."""

    def __init__(self, item):
        self.item, self.texts = item, []

    def __call__(self, keep, steps=None, *, how="delete"):
        assert steps == [0] * len(keep)
        ids = self.item["prefix_ids"]
        for row in keep.tolist():
            if how == "delete":
                kept = [i for i, k in zip(ids, row, strict=True) if k]
            else:
                kept = [i if k else MASK_ID for i, k in zip(ids, row, strict=True)]
            self.texts.append(" ".join(map(str, kept)))
        found = [self.item["probabilities"][text] for text in self.texts[-len(keep) :]]
        return torch.tensor(found, dtype=torch.float64).log()


@pytest.mark.parametrize("item", ITEMS, ids=IDS)
def test_comprehensiveness_and_sufficiency(item):
    checked = set()
    for ours, theirs in (("aopc_compr", "aopc_comprehensiveness"), ("aopc_suff", "aopc_sufficiency")):
        for name, options in ARGUMENT_SETS.items():
            recorded = item["faithfulness"][f"{theirs}/{name}"]
            served = Served(item)
            (value,) = METRICS[ours](**options)(attribution_of(item), served).values
            assert value == pytest.approx(recorded["value"], rel=1e-9, abs=1e-12), (ours, name)
            # the same inputs as ferret's own texts, and besides only the full text
            assert set(served.texts) - {item["text"]} == set(recorded["perturbed_texts"]) - {item["text"]}
            checked.add(f"{theirs}/{name}")
    assert checked | {"taucorr_loo"} == set(item["faithfulness"])


@pytest.mark.parametrize("item", ITEMS, ids=IDS)
def test_kendall_leave_one_out(item):
    result = METRICS["taucorr_loo"]()(attribution_of(item), Served(item))
    assert result.values[0] == pytest.approx(item["faithfulness"]["taucorr_loo"]["value"], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("item", ITEMS, ids=IDS)
def test_plausibility(item):
    for recorded in item["plausibility"].values():
        rationale = torch.tensor([recorded["rationale"]], dtype=torch.bool)
        for name, expected in recorded.items():
            if name == "rationale" or name.endswith("/accumulate"):
                continue
            metric, _, signs = name.partition("/")
            metric, _, k = metric.partition("@")
            options = {"top_k": int(k)} if k else {}
            if signs == "all_signs":
                options["only_pos"] = False
            result = METRICS[f"{metric}_plau"](**options)(attribution_of(item), None, rationale)
            if not any(recorded["rationale"]):
                assert result.skipped == {0: "empty rationale"}
                continue
            assert result.values[0] == pytest.approx(expected, rel=1e-9, abs=1e-12), name


def test_the_record_covers_what_is_claimed():
    assert len(ITEMS) == 57
    assert all(math.isfinite(v["value"]) for i in ITEMS for v in i["faithfulness"].values())
    assert any(min(i["scores"]) < 0 for i in ITEMS)
