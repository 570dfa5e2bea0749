"""Interpreto: decoder-only; probabilities, one score per token."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import interpreto
import numpy as np
import torch
from interpreto import Granularity
from interpreto.attributions.inference_wrappers.inference_wrapper import InferenceModes
from protocol import measured, serve

METHODS = (
    "Saliency",
    "IntegratedGradients",
    "GradientShap",
    "SmoothGrad",
    "VarGrad",
    "Occlusion",
    "Lime",
    "KernelShap",
)

state: dict[str, Any] = {}


def load(folder: str) -> dict[str, Any]:
    import transformers

    state.update(folder=folder)
    versions = {
        "interpreto": version("interpreto"),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    return {"versions": versions, "methods": list(METHODS)}


def prepare(method: str, options: dict[str, Any], load: dict[str, Any] | None = None) -> dict[str, Any]:
    """A fresh model for every method: constructors may add a token to the vocabulary."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(state["folder"]).eval()
    state["tokenizer"] = AutoTokenizer.from_pretrained(state["folder"])
    state["explainer"] = getattr(interpreto, method)(
        model,
        state["tokenizer"],
        granularity=Granularity.ALL_TOKENS,
        inference_mode=InferenceModes.SOFTMAX,
        **(load or {}),
    )
    return {}


def run(
    method: str, options: dict[str, Any], texts: list[str], targets: list[str], save: str | None = None
) -> dict[str, Any]:
    (text,), (target,) = texts, targets
    new = target.removeprefix(text).strip()
    out, cost = measured(lambda: state["explainer"].explain(text, new, **options))
    if save:
        np.savez(save, **{"target.scores": out[0].attributions.detach().float().numpy()})
    ids = out[0].model_inputs_to_explain["input_ids"][0].tolist()
    return {**cost, "ids": {"source": [], "target": ids}}


if __name__ == "__main__":
    serve({"load": load, "prepare": prepare, "run": run})
