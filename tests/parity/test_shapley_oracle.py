"""Sampled Shapley values against the exact ones, computed by definition from all coalitions (float64)."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from load_golden import Golden, oracle

CASES = [("gpt2", "target"), ("bart", "source")]
METHODS = ("shapley_sampling", "kernel_shap")


@functools.lru_cache
def exact(model, block, fn):
    """Shapley values `[token, step]`, and f with and without the input `[step, 2]`."""
    arrays, _ = oracle(model)
    prefix = f"single/seq0/shapley[{block}].{fn}"
    return arrays[f"{prefix}/{block}"], arrays[f"{prefix}/f_input_and_f_baseline"]


def attribute(golden_model, model, block, method, n_samples, fn="logits", **options):
    case = Golden(model).cases["single"]
    out = golden_model(model).attribute(
        case["input_texts"],
        case["generated_texts"],
        method=method,
        n_samples=n_samples,
        attributed_fn=fn,
        show_progress=False,
        **options,
    )[0]
    return getattr(out, f"{block}_attributions").numpy()


@pytest.mark.parametrize(("model", "block"), CASES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fn", ["logit", "probability", "logprob"])
def test_scores_sum_to_what_the_input_changes(golden_model, model, block, method, fn):
    """Exactly, for every step and any number of samples, though all steps share them."""
    inside, outside = exact(model, block, fn)[1].T
    options = {"attributed_fn_args": {"logprob": True}} if fn == "logprob" else {}
    name = {"logit": "logits"}.get(fn, "probability")
    for n in (2, 5, 40):
        scores = attribute(golden_model, model, block, method, n, name, **options)
        np.testing.assert_allclose(np.nansum(scores, 0), inside - outside, atol=1e-9)


@pytest.mark.parametrize(("model", "block"), CASES)
@pytest.mark.parametrize(("method", "n"), [("shapley_sampling", 4), ("kernel_shap", 64)])
def test_errors_shrink_with_the_root_of_the_samples(golden_model, model, block, method, n):
    wanted = exact(model, block, "logit")[0]
    errors = []
    for samples in (n, 4 * n, 16 * n):
        found = [attribute(golden_model, model, block, method, samples, seed=seed) for seed in range(3)]
        for scores in found:
            np.testing.assert_array_equal(np.isnan(scores), np.isnan(wanted))
        errors.append(np.sqrt(np.mean([np.nanmean((scores - wanted) ** 2) for scores in found])))
    assert 2.4 < errors[0] / errors[2] < 6.7, errors  # 4 in expectation
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.25 * np.sqrt(np.nanmean(wanted**2)), errors


@pytest.mark.parametrize("method", METHODS)
def test_estimates_are_unbiased(golden_model, method):
    """The mean over seeds comes closer than any one: no step is served worse for sharing its samples."""
    wanted = exact("gpt2", "target", "logit")[0]
    n = 4 if method == "shapley_sampling" else 64
    found = np.stack([attribute(golden_model, "gpt2", "target", method, n, seed=s) for s in range(16)])
    single = np.sqrt(np.nanmean((found - wanted) ** 2, axis=(0, 1)))  # [step]
    together = np.sqrt(np.nanmean((found.mean(0) - wanted) ** 2, axis=0))
    assert (together < 0.5 * single).all(), (single, together)  # 0.25 in expectation


def test_reversed_permutations_lower_the_error(golden_model):
    wanted = exact("gpt2", "target", "logit")[0]
    errors = [
        np.mean(
            [
                np.nanmean(
                    (attribute(golden_model, "gpt2", "target", "shapley_sampling", 8, seed=s, **o) - wanted) ** 2
                )
                for s in range(8)
            ]
        )
        for o in ({"antithetic": True}, {"antithetic": False})
    ]
    assert errors[0] < errors[1], errors


def test_coalition_counts(golden_model):
    """One forward per sample, whatever the number of steps; the ends of permutations are shared."""
    case = Golden("gpt2").cases["single"]
    m = golden_model("gpt2")

    def forwards(method, **options):
        out = m.attribute(case["input_texts"], case["generated_texts"], method=method, **options)
        return out.info["forward_passes"]

    n_units = len(m.encode(case["input_texts"], case["generated_texts"])[0].target) - 1
    assert forwards("shapley_sampling", n_samples=6) == 6 * (n_units - 1) + 2
    assert forwards("kernel_shap", n_samples=20) == 22
    assert forwards("lime", n_samples=20) == 21
    assert forwards("context_cite", n_samples=20) == 20
    assert forwards("feature_ablation", unit="token") == n_units + 1
