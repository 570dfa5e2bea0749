"""Which words depend on context, and on which of its words: found against planted, on the demo models.

Usage: ``python recipes/context_reliance.py [--examples 150] [--out docs/context_reliance.md]``

For every metric that finds sensitive tokens and every method that finds their cues: precision, recall and F1 of the
sensitive tokens, and of the pairs (sensitive token, cue), against what the grammars plant.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

import attriflow
from attriflow.context import ContextOutput, attribute_context
from attriflow.demo import load_demo_dataset

METRICS = ("kl_divergence", "pcxmi")
METHODS = ("saliency", "integrated_gradients", "occlusion")
OPTIONS: dict[str, dict[str, Any]] = {"integrated_gradients": {"n_steps": 20}}


def run(model: str, metric: str, method: str, data: pd.DataFrame, **settings: Any) -> ContextOutput:
    """Context attribution of a data set of one demo model."""
    return attribute_context(
        attriflow.load_model(f"demo/{model}"),
        data.input_current.tolist(),
        data.input_context.tolist(),
        output_current_text=data.output_current.tolist(),
        output_context_text=data.output_context.tolist(),
        contextless_input_current_text=data.contextless_input.tolist(),
        contextless_output_current_text=data.contextless_output.tolist(),
        context_sensitivity_metric=metric,
        context_sensitivity_scope="dataset",
        attribution_method=method,
        attributed_fn="contrast_prob_diff",
        attribution_kwargs=OPTIONS.get(method, {}),
        show_progress=False,
        **settings,
    )


def scores(found: set[Any], planted: set[Any]) -> dict[str, float]:
    """Precision, recall and F1 of two sets."""
    hits = len(found & planted)
    precision, recall = hits / max(1, len(found)), hits / max(1, len(planted))
    return {"precision": precision, "recall": recall, "f1": 2 * hits / max(1, len(found) + len(planted))}


def compare(found: ContextOutput, data: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Sensitive tokens ("tokens") and pairs of a sensitive token and a cue in the input context ("pairs")."""
    tokens, pairs, planted_tokens, planted_pairs = set(), set(), set(), set()
    for i, (result, cues) in enumerate(zip(found, data.cues, strict=True)):
        tokens |= {(i, k) for k in result.sensitive}
        spans = result.token_spans["input_context"]
        pairs |= {(i, k, spans[j]) for k, side, j in result.pairs() if side == "input"}
        # one token per word here
        planted_tokens |= {(i, k) for k, places in enumerate(cues) if places}
        planted_pairs |= {(i, k, tuple(place)) for k, places in enumerate(cues) for place in places}
    return {"tokens": scores(tokens, planted_tokens), "pairs": scores(pairs, planted_pairs)}


def table(examples: int) -> pd.DataFrame:
    """One row per model, metric and method."""
    rows = []
    everything = load_demo_dataset("context")
    for model in ("recall", "translate"):
        data = everything[everything.model == model].head(examples)
        for metric in METRICS:
            for method in METHODS:
                begin = time.perf_counter()
                found = run(model, metric, method, data)
                seconds = time.perf_counter() - begin
                result = compare(found, data)
                rows.append(
                    {"model": model, "metric": metric, "method": method}
                    | {f"{what} {k}": v for what, values in result.items() for k, v in values.items()}
                    | {"seconds": seconds}
                )
    return pd.DataFrame(rows)


def markdown(frame: pd.DataFrame) -> str:
    """The table for the docs."""
    shown = frame.drop(columns="seconds")
    lines = ["| " + " | ".join(shown.columns) + " |", "|" + " --- |" * len(shown.columns)]
    for row in shown.itertuples(index=False):
        lines.append("| " + " | ".join(_cell(v) for v in row) + " |")
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else f"`{value}`"


def main(arguments: Iterable[str] | None = None) -> pd.DataFrame:
    """Print the table, and write it where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--examples", type=int, default=150, help="per model")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args(None if arguments is None else list(arguments))
    found = table(options.examples)
    print(found.to_string(index=False, float_format="{:.3f}".format))
    if options.out is not None:
        options.out.write_text(markdown(found), encoding="utf-8")
    return found


if __name__ == "__main__":
    main()
