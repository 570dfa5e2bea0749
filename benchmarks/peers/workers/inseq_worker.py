"""Inseq, offline: a synthetic map of word classes stands in for the tagger that its ReAGent would download."""

from __future__ import annotations

import os
import pickle
from importlib.metadata import version
from pathlib import Path
from typing import Any

import inseq
import numpy as np
import torch
from protocol import measured, serve

# Inseq's entry for GPT-2 names a variable that transformers renamed in 4.53
GPT2 = {"self_attention_module": "attn", "value_vector": "value_states", "cross_attention_module": None}

state: dict[str, Any] = {}


def load(folder: str) -> dict[str, Any]:
    import transformers

    inseq.register_model_config("GPT2LMHeadModel", GPT2, overwrite=True)
    state.update(folder=folder, key=None)
    _word_classes(folder)
    return {
        "versions": {
            "inseq": version("inseq"),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "methods": inseq.list_feature_attribution_methods(),
    }


def _word_classes(folder: str) -> None:
    """The file in which Inseq's sampler keeps the class of every token: here the class of token i is i modulo 4."""
    from transformers import AutoTokenizer

    size = AutoTokenizer.from_pretrained(folder).vocab_size
    place = Path(os.environ["INSEQ_ARTIFACTS_CACHE"]) / "pos_tag_sampler_cache" / f"{Path(folder).name}.pkl"
    place.parent.mkdir(parents=True, exist_ok=True)
    with open(place, "wb") as file:
        pickle.dump({str(group): list(range(group, size, 4)) for group in range(4)}, file)


def prepare(method: str, options: dict[str, Any], load: dict[str, Any] | None = None) -> dict[str, Any]:
    """Load the model with the method hooked to it: done once by a user, so outside of what is measured."""
    key = (method, repr(sorted((load or {}).items())))
    if state["key"] != key:
        state["model"] = None
        state["model"] = inseq.load_model(state["folder"], method, **(load or {}))
        state["key"] = key
    return {}


def run(
    method: str, options: dict[str, Any], texts: list[str], targets: list[str], save: str | None = None
) -> dict[str, Any]:
    out, cost = measured(lambda: state["model"].attribute(texts, targets, show_progress=False, **options))
    first = out.sequence_attributions[0]
    if save:
        np.savez(save, **_arrays(first))
    ids = {"source": [t.id for t in first.source], "target": [t.id for t in first.target]}
    return {**cost, "ids": ids}


def _arrays(sequence: Any) -> dict[str, np.ndarray]:
    """Scores `[step, input, ...]`; embedding dimensions are reduced to their sum and their L2 norm."""
    granular = "Granular" in type(sequence).__name__
    arrays = {}
    for block in ("source", "target"):
        raw = getattr(sequence, f"{block}_attributions")
        if raw is None:
            continue
        raw = raw.transpose(0, 1)
        arrays[f"{block}.scores"] = (raw.sum(-1) if granular else raw).numpy()
        if granular:
            arrays[f"{block}.norms"] = raw.norm(dim=-1).numpy()
    return arrays


if __name__ == "__main__":
    serve({"load": load, "prepare": prepare, "run": run})
