"""captum itself, one call per target step, as a judge of the shared passes."""

from __future__ import annotations

import captum.attr
import pytest
import torch
from models import build

import attriflow

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
            {"n_steps": 7, "quadrature": "riemann_trapezoid"},
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
