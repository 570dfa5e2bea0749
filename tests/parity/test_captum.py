"""captum itself, one call per target step, as a judge of the shared passes."""

from __future__ import annotations

import typing

import captum.attr
import pytest
import torch
from models import build

import attriflow
from attriflow.methods._quadrature import Rule, quadrature

PROMPT, FULL = "ki nakol temo dibema te", "ki nakol temo dibema te pari mitemi kana"


@pytest.fixture(scope="module")
def model(tokenizers):
    return attriflow.load_model(build("llama-gqa"), tokenizer=tokenizers["gpt2"])


def forward_of(model, token):
    def forward(embeds):
        return model.model(inputs_embeds=embeds, use_cache=False).logits[:, -1].softmax(-1)[:, token]

    return forward


@pytest.mark.parametrize(
    ("method", "judge", "options", "arguments"),
    [
        ("saliency", captum.attr.Saliency, {}, {}),
        ("input_x_gradient", captum.attr.InputXGradient, {}, {}),
        ("integrated_gradients", captum.attr.IntegratedGradients, {"n_steps": 7}, {"n_steps": 7}),
        (
            "integrated_gradients",
            captum.attr.IntegratedGradients,
            {"n_steps": 7, "quadrature": "riemann_trapezoid", "captum_compatible": True},
            {"n_steps": 7, "method": "riemann_trapezoid"},
        ),
    ],
)
def test_gradient_methods(model, method, judge, options, arguments):
    out = model.attribute(PROMPT, FULL, method=method, granular=True, **options)[0]
    (example,) = model.encode(PROMPT, FULL)
    for step, end in enumerate(range(example.start, example.stop)):
        embeds = model.wrapped.embed(torch.tensor([example.target_ids[:end]]), "target").detach().requires_grad_(True)
        if judge is captum.attr.IntegratedGradients:
            arguments = {**arguments, "baselines": model.wrapped.embed(torch.zeros(1, end, dtype=torch.long), "target")}
        wanted = judge(forward_of(model, example.target_ids[end])).attribute(embeds, **arguments)
        torch.testing.assert_close(out.scores[step, :end], wanted[0].detach(), atol=1e-8, rtol=0)


@pytest.mark.parametrize("rule", ["riemann_left", "riemann_middle", "riemann_right", "riemann_trapezoid"])
def test_rules(model, rule):
    """captum's numbers; the trapezoid's are too small by (n - 1) / n, which is not so here unless asked for."""
    options = {"method": "integrated_gradients", "granular": True, "n_steps": 7, "quadrature": rule}
    plain, captums = (model.attribute(PROMPT, FULL, captum_compatible=c, **options)[0] for c in (False, True))
    (example,) = model.encode(PROMPT, FULL)
    end = example.stop - 1
    embeds = model.wrapped.embed(torch.tensor([example.target_ids[:end]]), "target").detach().requires_grad_(True)
    baselines = model.wrapped.embed(torch.zeros(1, end, dtype=torch.long), "target")
    judge = captum.attr.IntegratedGradients(forward_of(model, example.target_ids[end]))
    wanted = judge.attribute(embeds, baselines, n_steps=7, method=rule)[0].detach()
    torch.testing.assert_close(captums.scores[-1, :end], wanted, atol=1e-8, rtol=0)
    factor = 7 / 6 if rule == "riemann_trapezoid" else 1
    torch.testing.assert_close(plain.scores, captums.scores * factor, atol=1e-9, rtol=0, equal_nan=True)


@pytest.mark.parametrize("method", ["integrated_gradients", "layer_integrated_gradients"])
def test_trapezoid_is_complete(model, method):
    """With 64 points captum's weights lose 1/64 of the difference; the rule itself has no error of that size."""
    options = {"method": method, "n_steps": 64, "quadrature": "riemann_trapezoid", "return_convergence_delta": True}
    for captums, low, high in ((False, 0, 1e-3), (True, 1 / 67, 1 / 61)):
        out = model.attribute(PROMPT, FULL, attributed_fn="logits", captum_compatible=captums, **options)[0]
        delta = out.step_scores["deltas"]
        lost = (delta / (out.token_scores().nansum(1) - delta)).abs()
        assert (lost >= low).all()
        assert (lost <= high).all()


def test_trapezoid_of_one_token_at_a_time(model):
    """The sum over dimensions is a difference of two scores, which `norms=False` computes without a path."""
    options = {"method": "sequential_integrated_gradients", "attributed_fn": "logits"}
    wanted = model.attribute(PROMPT, FULL, norms=False, **options)[0].scores
    for captums, factor in ((False, 1), (True, 63 / 64)):
        more = {"n_steps": 64, "quadrature": "riemann_trapezoid", "captum_compatible": captums}
        out = model.attribute(PROMPT, FULL, **more, **options)[0].scores
        torch.testing.assert_close(out, wanted * factor, atol=1e-4, rtol=0, equal_nan=True)


@pytest.mark.parametrize("rule", typing.get_args(Rule))
def test_weights_sum_to_one(rule):
    for n in (2, 3, 7, 50):
        nodes, weights = quadrature(rule, n)
        assert len(nodes) == len(weights) == n
        assert sum(weights) == pytest.approx(1, abs=1e-14)


@pytest.mark.parametrize("window", [1, 2, 3])
def test_occlusion(model, window):
    out = model.attribute(PROMPT, FULL, method="occlusion", window=window)[0]
    (example,) = model.encode(PROMPT, FULL)
    for step, end in enumerate(range(example.start, example.stop)):
        embeds = model.wrapped.embed(torch.tensor([example.target_ids[:end]]), "target").detach()
        baseline = model.wrapped.embed(torch.zeros(1, end, dtype=torch.long), "target").detach()
        judge = captum.attr.Occlusion(forward_of(model, example.target_ids[end]))
        wanted = judge.attribute(embeds, (window, embeds.shape[-1]), baselines=baseline)[0, :, 0]
        # captum accumulates in single precision
        torch.testing.assert_close(out.scores[step, :end], wanted.to(out.scores.dtype), atol=1e-7, rtol=0)
