"""Recorded step scores, for the step functions that are registered."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from load_golden import Golden

from attriflow.registry import step_functions

# perplexity (to base 2 in Inseq) and mc_dropout_prob_avg (a z-score in Inseq) deviate on purpose; see below
OURS = ("logit", "probability", "entropy", "crossentropy", "top_p_size")
CONTRASTIVE = ("pcxmi", "kl_divergence", "in_context_pvi")
reference = functools.lru_cache(Golden)


def _runs(model: str) -> list:
    out = []
    for run in reference(model).runs(deterministic=True):
        names = run["attribute_kwargs"].get("step_scores", [])
        plain = names and set(names) <= {*OURS, *CONTRASTIVE}
        # the recorded divergences of filtered distributions are NaN
        plain = (plain and not {"top_k", "top_p"} & set(run["attribute_kwargs"])) or names == ["top_p_size"]
        # a left-padded batch without position ids shifts GPT-2's positions: a defect, not a reference
        if plain and ":generate" not in run["id"]:
            out.append(pytest.param(model, run["id"], id=f"{model}-{run['id']}"))
    return out


@pytest.mark.parametrize(("model", "run_id"), [*_runs("gpt2"), *_runs("bart")])
def test_step_scores(golden_model, model, run_id):
    golden = reference(model)
    run = golden.run(run_id)
    case = golden.cases[run["case"]]
    options = {k: v for k, v in run["attribute_kwargs"].items() if k not in ("input_texts", "generated_texts")}
    assert set(options) <= {
        "step_scores", "logprob", "attribute_target", "top_p", "contrast_targets", "contrast_sources",
        "contrast_targets_alignments", "contrast_force_inputs",
    }  # fmt: skip
    m = golden_model(model, "float64" if run["dtype"] == "f64" else "float32")
    out = m.attribute(case["input_texts"], case["generated_texts"], method="random", **options)
    for i in range(len(run["sequences"])):
        for name in options["step_scores"]:
            golden.compare(run, f"step_scores.{name}", out[i].step_scores[name].numpy(), sequence=i)


@pytest.mark.parametrize("model", ["gpt2", "bart"])
def test_the_runs_are_there(model):
    used = {name for p in _runs(model) for name in reference(model).run(p.values[1])["attribute_kwargs"]["step_scores"]}
    assert used >= {"logit", "probability", "entropy", "top_p_size", *CONTRASTIVE}


@pytest.mark.parametrize("model", ["gpt2", "bart"])
def test_perplexity_is_exp_of_nats(golden_model, model):
    """The documented deviation: 1 / p, where Inseq has 2 to the power of nats."""
    case = reference(model).cases["single"]
    out = golden_model(model).attribute(
        case["input_texts"], case["generated_texts"], method="random", step_scores=["perplexity", "probability"]
    )
    scores = out[0].step_scores
    np.testing.assert_allclose(scores["perplexity"], 1 / scores["probability"], rtol=1e-12)


def test_aliases_and_names():
    assert step_functions.resolve("logit") == "logits"
    assert {"logits", "probability", "entropy", "crossentropy", "perplexity"} <= set(step_functions.names())
