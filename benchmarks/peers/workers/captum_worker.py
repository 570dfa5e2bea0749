"""Captum's classes for language models: decoder-only, credit to prompt tokens only."""

from __future__ import annotations

from typing import Any

import captum
import numpy as np
import torch
from captum.attr import (
    FeatureAblation,
    KernelShap,
    LayerGradientShap,
    LayerGradientXActivation,
    LayerIntegratedGradients,
    Lime,
    LLMAttribution,
    LLMGradientAttribution,
    ShapleyValueSampling,
    TextTokenInput,
)
from protocol import measured, serve

GRADIENT = {
    "LayerGradientXActivation": LayerGradientXActivation,
    "LayerIntegratedGradients": LayerIntegratedGradients,
    "LayerGradientShap": LayerGradientShap,
}
PERTURBATION = {
    "FeatureAblation": FeatureAblation,
    "ShapleyValueSampling": ShapleyValueSampling,
    "KernelShap": KernelShap,
    "Lime": Lime,
}

state: dict[str, Any] = {}


def load(folder: str) -> dict[str, Any]:
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder).eval().requires_grad_(False)
    model.get_input_embeddings().weight.requires_grad_(True)  # captum differentiates the layer's output
    state.update(model=model, tokenizer=AutoTokenizer.from_pretrained(folder))
    versions = {"captum": captum.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
    return {"versions": versions, "methods": [*GRADIENT, *PERTURBATION]}


def prepare(method: str, options: dict[str, Any], load: dict[str, Any] | None = None) -> dict[str, Any]:
    model, tokenizer = state["model"], state["tokenizer"]
    if method in GRADIENT:
        explainer = LLMGradientAttribution(GRADIENT[method](model, model.get_input_embeddings()), tokenizer)
    else:
        explainer = LLMAttribution(PERTURBATION[method](model), tokenizer, attr_target="prob")
    state["explainer"] = explainer
    return {}


def run(
    method: str, options: dict[str, Any], texts: list[str], targets: list[str], save: str | None = None
) -> dict[str, Any]:
    tokenizer = state["tokenizer"]
    options = dict(options)
    (text,), (target,) = texts, targets
    new = target.removeprefix(text).strip()
    prompt = TextTokenInput(text, tokenizer, baselines=tokenizer.unk_token_id)
    if method == "LayerGradientShap":
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        options["baselines"] = torch.full_like(ids, tokenizer.unk_token_id)
    result, cost = measured(lambda: state["explainer"].attribute(prompt, target=new, **options))
    if save:
        scores = result.token_attr if result.token_attr is not None else result.seq_attr.unsqueeze(0)
        np.savez(save, **{"target.scores": scores.detach().numpy()})
    return {**cost, "ids": {"source": [], "target": tokenizer(target)["input_ids"]}}


if __name__ == "__main__":
    serve({"load": load, "prepare": prepare, "run": run})
