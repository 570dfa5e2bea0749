"""How far half precision moves each method: scores of a model in bfloat16 and float16 beside those in float32.

Usage: ``python benchmarks/half_precision.py [--out docs/half-precision.csv]``. The float32 model has the rounded
weights of the half one, so that only what is computed differs. Per method and precision: the mean over steps of
Spearman's rank correlation and of the cosine, and the least rank correlation of a step.
"""

from __future__ import annotations

import argparse
import copy
import csv
import functools
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from scipy.stats import spearmanr
from transformers import GPT2Config, GPT2LMHeadModel

import attriflow
from attriflow.model import AttributionModel
from attriflow.registry import methods

DTYPES = ("bfloat16", "float16")
MODELS = ("demo/recall", "demo/translate", "random GPT-2")
TEXTS = {
    "demo/translate": ["the red house is big .", "anna sees the small dog .", "the old man reads a book ."],
    "demo/recall": [
        "anna has a red hat . ben has a blue cup . what color is the hat ?",
        "paul has a blue book . peter has a green bike . nina has a yellow cup . what color is the bike ?",
        "nina has a black cup . what color is the cup ?",
    ],
}
OPTIONS: dict[str, dict[str, Any]] = {
    "discretized_integrated_gradients": {"n_steps": 8},
    "integrated_gradients": {"n_steps": 16},
    "layer_integrated_gradients": {"n_steps": 16},
    "sequential_integrated_gradients": {"n_steps": 4},
}
FIELDS = ("model", "method", "dtype", "spearman", "least", "cosine")


@functools.cache
def pair(name: str, dtype: str, device: str = "cpu") -> tuple[AttributionModel, AttributionModel]:
    """A model in half precision, and in float32 with the same weights."""
    model = attriflow.load_model("demo/recall" if name.startswith("random") else name)
    hf = copy.deepcopy(model.model)
    if name.startswith("random"):
        torch.manual_seed(0)
        size = {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 64, "initializer_range": 0.1}
        ends = {"bos_token_id": None, "eos_token_id": None}
        hf = GPT2LMHeadModel(GPT2Config(vocab_size=len(model.tokenizer), **size, **ends)).eval()
    half = hf.to(device=device, dtype=getattr(torch, dtype))
    full = copy.deepcopy(half).float()
    made = [attriflow.load_model(m, tokenizer=model.tokenizer) for m in (half, full)]
    return made[0], made[1]


def agreement(half: torch.Tensor, full: torch.Tensor) -> tuple[float, float]:
    """Rank correlation and cosine of two explanations of a step; 1 where neither tells any input from another."""
    seen = ~full.isnan()
    a, b = half[seen].double(), full[seen].double()
    cosine = float((a / a.norm().clamp(min=1e-300)) @ (b / b.norm().clamp(min=1e-300)))
    if bool((a == a[0]).all()) and bool((b == b[0]).all()):
        return 1.0, 1.0
    rank = float(spearmanr(a, b).statistic)
    return 0.0 if math.isnan(rank) else rank, cosine


def compare(name: str, dtype: str, which: Sequence[str] | None = None, device: str = "cpu") -> Iterator[dict[str, Any]]:
    """A row per method."""
    half, full = pair(name, dtype, device)
    texts = TEXTS.get(name, TEXTS["demo/recall"])
    examples = full.encode(texts, generation_args={"max_new_tokens": 5, "min_new_tokens": 2})
    for method in which or methods.names():
        if methods.info(method).meta["family"] in ("control", "other"):
            continue
        given = [m.attribute_examples(examples, method, **OPTIONS.get(method, {})) for m in (half, full)]
        found = [
            agreement(one, other)
            for a, b in zip(*given, strict=True)
            for one, other in zip(a.token_scores(), b.token_scores(), strict=True)
        ]
        ranks, cosines = zip(*found, strict=True)
        values = (round(fmean(ranks), 4), round(min(ranks), 4), round(fmean(cosines), 4))
        yield dict(zip(FIELDS, (name, method, dtype, *values), strict=True))


def read(path: Path) -> list[dict[str, Any]]:
    """Rows that were written."""
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{**row, **{field: float(row[field]) for field in FIELDS[3:]}} for row in rows]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rank correlations (the least of a step in brackets): a row per method, a column per model and precision."""
    found = {(r["method"], r["model"], r["dtype"]): f"{r['spearman']:.3f} ({r['least']:.2f})" for r in rows}
    columns = [(m, d) for m in MODELS for d in DTYPES]
    lines = [["method", *(f"{m}, {d}" for m, d in columns)], ["---"] * (1 + len(columns))]
    for method in dict.fromkeys(r["method"] for r in rows):
        lines.append([f"`{method}`", *(found.get((method, *column), "") for column in columns)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "half-precision.csv")
    out = parser.parse_args().out
    warnings.simplefilter("ignore")
    rows = [row for name in MODELS for dtype in DTYPES for row in compare(name, dtype)]
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(table(rows))


if __name__ == "__main__":
    main()
