"""Outliers of exact leave-one-out that are found from coarse to fine and behind a smaller model, and what it costs.

Usage: ``python benchmarks/leave_out.py [--texts 40]``. The texts ask `demo/recall` about one of nine facts in three
paragraphs of three lines; the proxy is the same model without its last layers. An outlier is a token whose absence
costs more than the mean of all tokens and two standard deviations, as in the metric `loo_outlier_map`. Prints the table
of docs/long-answers.md.
"""

from __future__ import annotations

import argparse
import copy
import os
import random
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

import attriflow
from attriflow.demo.grammar import COLORS, NAMES, OBJECTS

COARSE = ["paragraph", "sentence"]
RUNS: dict[str, dict[str, Any]] = {
    "every token": {},
    "paragraphs, sentences, tokens; 2 kept": {"levels": COARSE, "keep": 2},
    "paragraphs, sentences, tokens; 1 kept": {"levels": COARSE, "keep": 1},
    "sentences, tokens; 2 kept": {"levels": COARSE[1:], "keep": 2},
    "sentences, tokens; 1 kept": {"levels": COARSE[1:], "keep": 1},
}


def texts(n: int, seed: int = 0) -> list[tuple[str, str]]:
    """Prompts and what follows them."""
    rng, out = random.Random(seed), []
    for _ in range(n):
        names, colors, things = (rng.sample(some, 9) for some in (NAMES, COLORS, OBJECTS))
        facts = [
            f"{name} has {'an' if color[0] in 'aeiou' else 'a'} {color} {thing} ."
            for name, color, thing in zip(names, colors, things, strict=True)
        ]
        paragraphs = "\n\n".join("\n".join(facts[i : i + 3]) for i in range(0, 9, 3))
        which = rng.randrange(9)
        out.append((f"{paragraphs}\n\nwhat color is the {things[which]} ?", colors[which]))
    return out


def shorter(model: attriflow.AttributionModel, layers: int) -> attriflow.AttributionModel:
    """The model without its last layers."""
    small = copy.deepcopy(model.wrapped.hf)
    small.model.layers = small.model.layers[:layers]
    small.config.num_hidden_layers = layers
    return attriflow.load_model(small, tokenizer=model.wrapped.tokenizer)


def precision(scores: torch.Tensor, outliers: torch.Tensor) -> float:
    """Average precision of scores for outliers, equal ones together."""
    as_high = scores.unsqueeze(0) >= scores[outliers].unsqueeze(1)
    return float((as_high[:, outliers].sum(1) / as_high.sum(1)).mean())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=40)
    given = parser.parse_args()
    model = attriflow.load_model("demo/recall")
    asked = texts(given.texts)
    prompts, wholes = [p for p, _ in asked], [f"{p} {a}" for p, a in asked]

    def run(**options: Any) -> tuple[list[torch.Tensor], float]:
        found = model.attribute(prompts, wholes, method="occlusion", show_progress=False, batch_size=1, **options)
        scores = [a.scores[0, a.visible[0]] for a in found]
        return scores, sum(a.provenance.forward_rows for a in found) / len(found)

    exact, full = run(attributed_fn_args={"logprob": True})
    outliers = [(s > s.mean() + 2 * s.std(correction=0)) & (s >= 1e-3) for s in exact]
    print("| what is left out | forwards | of all | outliers found | mAP |\n|" + " --- |" * 5)
    names: list[tuple[str, dict[str, Any]]] = list(RUNS.items())
    for layers in (3, 2):
        asks = f"tokens, chosen by a proxy of {layers} of the 4 layers; "
        names += [(f"{asks}{keep} kept", {"proxy": True, "keep": keep, "layers": layers}) for keep in (10, 5)]
    for name, options in names:
        if layers := options.pop("layers", 0):
            attriflow.use_proxy(model, shorter(model, layers))
        scores, forwards = run(attributed_fn_args={"logprob": True}, **options)
        found = [
            same
            for s, e, o in zip(scores, exact, outliers, strict=True)
            for same in torch.isclose(s[o], e[o], rtol=1e-3).tolist()
        ]
        quality = [precision(s, o) for s, o in zip(scores, outliers, strict=True) if o.any()]
        row = [name, f"{forwards:.1f}", f"{forwards / full:.0%}", f"{sum(found) / len(found):.0%}"]
        print("| " + " | ".join([*row, f"{sum(quality) / len(quality):.2f}"]) + " |", flush=True)


if __name__ == "__main__":
    main()
