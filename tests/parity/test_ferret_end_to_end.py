"""ferret's recorded scores again, this time with the model in the loop: tokens deleted, model asked, score reduced."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from load_golden import Golden

from attriflow.evaluation.rescoring import VariantScorer
from attriflow.registry import metrics
from attriflow.types import Attribution, Provenance

RECORDED = json.loads((Path(__file__).parents[1] / "data" / "ferret_golden.json").read_text(encoding="utf-8"))
METRICS = {
    "aopc_compr": ("aopc_comprehensiveness/default", {}),
    "aopc_suff": ("aopc_sufficiency/default", {}),
    "taucorr_loo": ("taucorr_loo", {}),
}


@pytest.mark.parametrize("name", METRICS)
def test_recorded_with_the_real_model(golden_model, name):
    key, options = METRICS[name]
    m = golden_model("gpt2")
    metric = metrics.build(name, **options)
    rescorers = {}
    compared = 0
    for item in RECORDED["items"]:
        case = Golden("gpt2").cases[item["case"]] if item["case"] not in rescorers else None
        if case is not None:
            examples = m.encode(case["input_texts"], case["generated_texts"])
            rescorers[item["case"]] = examples, VariantScorer(m, examples)
        examples, scorer = rescorers[item["case"]]
        example = examples[item["sequence"]]
        end = len(item["prefix_ids"])
        assert example.target_ids[:end] == item["prefix_ids"]
        assert example.target_ids[end] == item["target_id"]
        scores = torch.full((example.n_steps, len(example.inputs())), torch.nan, dtype=torch.float64)
        step = end - example.start
        for row in range(example.n_steps):
            scores[row, : example.start + row] = 0.5
        scores[step, :end] = torch.tensor(item["scores"], dtype=torch.float64)
        attribution = Attribution(
            scores=scores,
            inputs=example.inputs(),
            targets=example.target[example.start : example.stop],
            start=example.start,
            provenance=Provenance(method="recorded"),
        )
        wanted = item["faithfulness"][key]["value"]
        value = metric(attribution, scorer.for_example(item["sequence"]), None).values[step]
        if wanted in (None, "nan"):
            assert value is None
            continue
        assert value == pytest.approx(wanted, abs=1e-5)
        compared += 1
    assert compared > 40
