"""Contrastive attributions and step scores against recorded numbers and oracles, and in batches."""

from __future__ import annotations

import functools

import pytest
import torch
from load_golden import Golden, oracle

from attriflow.errors import InputError
from attriflow.registry import methods

FUNCTIONS = {"contrast_logits", "contrast_prob", "contrast_logits_diff", "contrast_prob_diff"}
RECORDED = ("saliency", "input_x_gradient", "integrated_gradients", "occlusion")
METHODS = [n for n in methods.names() if methods.info(n).meta["family"] in ("gradient", "path", "perturbation")]
FEW = {"n_steps": 5, "n_samples": 6, "max_probe_steps": 4}  # whichever of these a method has
reference = functools.lru_cache(Golden)


def _runs(model: str) -> list:
    out = []
    for run in reference(model).runs(dtype="f64"):
        options = run["attribute_kwargs"]
        used = {options.get("attributed_fn"), *options.get("step_scores", [])}
        # the recorded gradient of a forced foil flows through whatever tensors happen to be shared
        shared = model == "bart" and ":force" in run["id"]
        if used & FUNCTIONS and run["method"] in (*RECORDED, "dummy") and not shared:
            out.append(pytest.param(model, run["id"], id=f"{model}-{run['id']}"))
    return out


def _attribute(golden_model, model, run, **extra):
    golden = reference(model)
    case = golden.cases[run["case"]]
    options = {k: v for k, v in run["attribute_kwargs"].items() if k not in ("input_texts", "generated_texts")}
    options |= {"granular": run["method"] in RECORDED[:3], **extra}
    return golden_model(model).attribute(case["input_texts"], case["generated_texts"], method=run["method"], **options)


@pytest.mark.parametrize(("model", "run_id"), [*_runs("gpt2"), *_runs("bart")])
def test_recorded(golden_model, model, run_id):
    golden = reference(model)
    run = golden.run(run_id)
    out = _attribute(golden_model, model, run)[0]
    compared = 0
    for field in golden.fields(run):
        if field.startswith("step_scores."):
            mine = out.step_scores[field.removeprefix("step_scores.")].numpy()
        elif field in ("source_attributions", "target_attributions") and run["method"] != "dummy":
            mine = getattr(out, field).float().numpy()
            mine = abs(mine) if run["method"] == "occlusion" else mine
        else:
            continue
        golden.compare(run, field, mine)
        compared += 1
    assert compared


@pytest.mark.parametrize("model", ["gpt2", "bart"])
@pytest.mark.parametrize("fn", ["contrast_logits_diff", "contrast_prob_diff"])
@pytest.mark.parametrize("method", ["saliency", "occlusion"])
def test_oracle(golden_model, model, fn, method):
    arrays, _ = oracle(model)
    case = reference(model).cases["contrast"]
    options = {"abs": False, "granular": True} if method == "saliency" else {}
    quantity = f"gradient.{fn}" if method == "saliency" else f"leave_one_out.baseline.{fn}"
    out = golden_model(model).attribute(
        case["input_texts"],
        case["generated_texts"],
        method=method,
        attributed_fn=fn,
        contrast_targets=case["contrast_targets"],
        attribute_target=model == "bart",
        **options,
    )[0]
    for block in ("source", "target") if model == "bart" else ("target",):
        wanted = torch.from_numpy(arrays[f"contrast/seq0/{quantity}/{block}"])
        torch.testing.assert_close(getattr(out, f"{block}_attributions"), wanted, atol=1e-8, rtol=0, equal_nan=True)


@pytest.mark.parametrize("model", ["gpt2", "bart"])
@pytest.mark.parametrize("method", METHODS)
def test_batch_is_alone(golden_model, model, method):
    """Foils of other lengths, in one padded batch; Inseq raises here."""
    m = golden_model(model)
    prompts = ["no gemibes pofil savir la", "ki nakol"]
    if model == "gpt2":
        targets = [f"{prompts[0]} fuzuka pari no bavu", f"{prompts[1]} temo te"]
        foils = [f"{prompts[0]} fuzuka te no bavu", "la gape te te"]
    else:
        targets, foils = ["um rapel Tarsen popite", "so rapel"], ["um so Tarsen popite", "ki so rapel"]
    options = {
        "method": method,
        "attributed_fn": "contrast_logits_diff",
        "step_scores": ["contrast_prob_diff"],
        **{k: v for k, v in FEW.items() if k in methods.info(method).options},
    }
    both = m.attribute(prompts, targets, contrast_targets=foils, **options)
    for i in range(2):
        alone = m.attribute(prompts[i], targets[i], contrast_targets=foils[i], **options)[0]
        torch.testing.assert_close(both[i].scores, alone.scores, atol=1e-10, rtol=0, equal_nan=True)
        name = "contrast_prob_diff"
        torch.testing.assert_close(both[i].step_scores[name], alone.step_scores[name], atol=1e-12, rtol=0)


def test_wrong_contrasts(golden_model):
    m = golden_model("gpt2")
    prompt, full = "ki nakol", "ki nakol temo te"
    call = functools.partial(m.attribute, prompt, full, method="saliency", attributed_fn="contrast_prob_diff")
    with pytest.raises(InputError, match="contrast_targets"):
        call()
    with pytest.raises(InputError, match="1 texts are explained but 2"):
        call(contrast_targets=[full, full])
    with pytest.raises(InputError, match="outside"):
        call(contrast_targets=full, contrast_targets_alignments=[(3, 99)])
    with pytest.raises(InputError, match="either contrast_targets"):
        call(contrast_sources=prompt, contrast_targets=full)
    with pytest.raises(InputError, match="needs contrast_targets"):
        m.attribute(prompt, full, method="saliency", contrast_targets_alignments=[(2, 2)])
