"""Methods that draw random numbers: their means are what theory, or a mean over many recorded runs, says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from load_golden import Golden

PROMPT, FULL = "ki nakol temo", "ki nakol temo te pari"


def _attribute(m, method, **options):
    return m.attribute(PROMPT, FULL, method=method, show_progress=False, **options)[0]


@pytest.mark.parametrize("model", ["gpt2", "bart"])
def test_gradient_shap_has_the_recorded_mean(golden_model, model):
    """200 seeded runs of Inseq with 5 samples each against 1,000 samples of ours: equal within standard errors."""
    golden = Golden(model)
    stat = next(s for s in golden.doc["stochastic_statistics"] if s["method"] == "gradient_shap")
    case = golden.cases[stat["case"]]
    m = golden_model(model)
    out = m.attribute(
        case["input_texts"], case["generated_texts"], method="gradient_shap", n_samples=1000, show_progress=False
    )[0]
    for field in ("source_attributions", "target_attributions"):
        if f"{field}.mean" not in stat["arrays"]:
            continue
        mean, std = (golden.arrays[stat["arrays"][f"{field}.{what}"]["key"]] for what in ("mean", "std"))
        mine = getattr(out, field).numpy()
        seen = ~np.isnan(mean)
        np.testing.assert_array_equal(np.isnan(mine), ~seen)
        error = np.abs(mine - mean)[seen] / (std[seen] * np.sqrt(1 / stat["repeats"] + 5 / 1000) + 1e-7)
        assert error.max() < 5
        assert (error < 2).mean() > 0.85


def test_gradient_shap_tends_to_integrated_gradients(golden_model):
    m = golden_model("gpt2")
    exact = _attribute(m, "integrated_gradients", n_steps=64).scores
    errors = []
    for n in (16, 1024):
        runs = [_attribute(m, "gradient_shap", n_samples=n, seed=s).scores for s in range(4)]
        errors.append(torch.stack([(r - exact).nan_to_num() for r in runs]).norm().item())
    assert 4 < errors[0] / errors[1] < 16  # 1 / sqrt(64) = 1 / 8


def test_gradient_shap_delta_is_small_in_expectation(golden_model):
    m = golden_model("gpt2")
    deltas = {
        n: torch.stack(
            [
                _attribute(
                    m, "gradient_shap", n_samples=n, seed=s, baseline=["unk", "zero"], return_convergence_delta=True
                ).step_scores["deltas"]
                for s in range(6)
            ]
        ).norm()
        for n in (8, 512)
    }
    assert 3 < deltas[8] / deltas[512] < 20  # 1 / sqrt(64) = 1 / 8


def test_baselines_are_a_distribution(golden_model):
    """One of two baselines per sample: the mean lies between those of either."""
    m = golden_model("gpt2")
    unk, zero, both = (
        _attribute(m, "gradient_shap", n_samples=400, baseline=b).scores for b in ("unk", "zero", ["unk", "zero"])
    )
    assert (both - (unk + zero) / 2).nan_to_num().norm() < 0.25 * (unk - zero).nan_to_num().norm()


def test_smooth_grad_without_noise_is_the_gradient(golden_model):
    m = golden_model("gpt2")
    gradient = _attribute(m, "saliency", abs=False, granular=True).scores
    smooth = _attribute(m, "smooth_grad", stdev=1e-9, n_samples=2, granular=True).scores
    torch.testing.assert_close(smooth, gradient, atol=1e-7, rtol=1e-6, equal_nan=True)


def test_var_grad_is_the_variance_of_the_samples_of_smooth_grad(golden_model):
    """Means over the first k samples give back each sample's gradient."""
    m, n = golden_model("gpt2"), 4
    means = [_attribute(m, "smooth_grad", n_samples=k, granular=True).scores for k in range(1, n + 1)]
    samples = torch.stack([means[0], *(means[k] * (k + 1) - means[k - 1] * k for k in range(1, n))])
    variance = _attribute(m, "var_grad", n_samples=n).scores
    torch.testing.assert_close(variance, samples.var(0).sum(-1), atol=1e-10, rtol=1e-6, equal_nan=True)


def test_sequential_paths_of_prompts_that_differ_in_length(golden_model):
    """Later steps of a short prompt see less than the first step of a long one."""
    model = golden_model("gpt2")
    texts, targets = ["a dog", "where is it now"], ["barked twice", "here"]
    examples = model.encode(texts, targets, continuation=True)
    together = model.attribute_examples(examples, "sequential_integrated_gradients", n_steps=2)
    for example, found in zip(examples, together, strict=True):
        (alone,) = model.attribute_examples([example], "sequential_integrated_gradients", n_steps=2)
        assert torch.allclose(found.scores, alone.scores, atol=1e-10, equal_nan=True)


def test_sequential_sums_are_exact_differences(golden_model):
    """The sum over dimensions of one token's path is what the token's absence changes, without any gradient."""
    for model, target in (("gpt2", {}), ("bart", {"attribute_target": True})):
        m = golden_model(model)
        full = FULL if model == "gpt2" else "um te pari"
        out = {
            norms: m.attribute(
                PROMPT,
                full,
                method="sequential_integrated_gradients",
                norms=norms,
                n_steps=200,
                return_convergence_delta=True,
                show_progress=False,
                **target,
            )[0]
            for norms in (True, False)
        }
        atol = 1e-6 if model == "gpt2" else 2e-3  # kinks of ReLU
        torch.testing.assert_close(out[True].scores, out[False].scores, atol=atol, rtol=0, equal_nan=True)
        a, b = (out[k].step_scores["deltas"] for k in (True, False))
        torch.testing.assert_close(a, b, atol=10 * atol, rtol=0)
        assert out[False].norms is None
        assert out[True].norms is not None
