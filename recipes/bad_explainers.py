"""Planted bad explainers, and which metrics catch them: the table of docs/metrics.md.

An honest method (occlusion) is spoilt in five ways. A metric catches one if it scores the spoilt method worse than the
honest one, by a paired permutation test over examples (p < 0.01).

Usage: ``python recipes/bad_explainers.py [--examples 32] [--out table.md]``
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import attriflow
from attriflow.demo import load_demo_dataset
from attriflow.engine import Engine, Scores
from attriflow.evaluation.config import EvaluationConfig
from attriflow.evaluation.data import EvaluationData
from attriflow.evaluation.rationale import parse_rationale
from attriflow.evaluation.runner import Evaluation
from attriflow.methods.occlusion import Occlusion
from attriflow.methods.position import Position
from attriflow.methods.random import example_seed
from attriflow.registry import metrics
from attriflow.statistics import paired_permutation
from attriflow.tracking.pages import Tables

HONEST = "occlusion"
LEVEL = 0.01


@dataclass(frozen=True)
class Reversed:
    """The honest scores with the opposite sign."""

    def __call__(self, engine: Engine) -> Scores:
        """Scores of a batch."""
        return Scores({block: -scores for block, scores in Occlusion()(engine).blocks.items()})


@dataclass(frozen=True)
class Shuffled:
    """The honest scores of each step, dealt to other tokens that it sees."""

    def __call__(self, engine: Engine) -> Scores:
        """Scores of a batch."""
        blocks = {}
        for block, scores in Occlusion()(engine).blocks.items():
            out, seen = scores.clone(), engine.visible(block)
            for row, example in enumerate(engine.examples):
                generator = torch.Generator().manual_seed(example_seed(0, example))
                for step in range(example.n_steps):
                    places = seen[row, step].nonzero()[:, 0].cpu()
                    order = torch.randperm(len(places), generator=generator)
                    out[row, step, places] = scores[row, step, places[order]]
            blocks[block] = out
        return Scores(blocks)


@dataclass(frozen=True)
class Constant:
    """The same score for every token."""

    def __call__(self, engine: Engine) -> Scores:
        """Scores of a batch."""
        return Scores({block: engine.visible(block).to(engine.dtype) for block in engine.blocks})


@dataclass(frozen=True)
class Leaking:
    """Marks the answer wherever it stands in the input, whatever the model does: it knows what was to be explained."""

    def __call__(self, engine: Engine) -> Scores:
        """Scores of a batch."""
        answer = engine.batch.step_ids.unsqueeze(-1)  # [batch, step, 1]
        return Scores({b: (engine.ids(b).unsqueeze(1) == answer).to(engine.dtype) for b in engine.blocks})


@dataclass(frozen=True)
class PositionOnly:
    """The nearer a token, the higher its score, whatever it is."""

    def __call__(self, engine: Engine) -> Scores:
        """Scores of a batch."""
        return Position()(engine)


SPOILT = {
    "reversed": Reversed,
    "shuffled": Shuffled,
    "constant": Constant,
    "leaking": Leaking,
    "position_only": PositionOnly,
}
CONTROLS = ("random", "random_unsigned")


def evaluate(examples: int, metric_names: str | Sequence[str] = "all", others: Sequence[str] = CONTROLS) -> Evaluation:
    """The honest and the spoilt methods on the demo's causal model, scored, and then other methods."""
    for name, cls in SPOILT.items():
        attriflow.register_method(cls, name, overwrite=True, family="control", deterministic=True, signed=True)
    rows = load_demo_dataset("recall").sample(examples, random_state=0, ignore_index=True)
    texts = tuple(rows["input"])
    data = EvaluationData(
        inputs=texts,
        targets=tuple(rows["target"]),
        rationales=tuple(parse_rationale(r, t) for r, t in zip(rows["rationale"], texts, strict=True)),
    )
    settings = {
        "methods": [HONEST, *SPOILT, *others],
        "metrics": metric_names if isinstance(metric_names, str) else list(metric_names),
        "step_functions": [],
        "rationale": "rationale",
        "throughput": False,
        "reexplain_examples": None,
    }
    evaluation = Evaluation(attriflow.load_model("demo/recall"), data, EvaluationConfig.from_dict(settings))
    for _ in evaluation.run():
        pass
    return evaluation


def ranked(evaluation: Evaluation) -> list[str]:
    """The metrics that say which direction is better."""
    return [m for m in evaluation.config.metrics if metrics.info(m).meta["higher_is_better"] is not None]


def caught(evaluation: Evaluation) -> dict[str, dict[str, bool]]:
    """Metric -> spoilt method -> whether it is scored worse than the honest one."""
    honest = evaluation.results[0]
    spoilt = [result for result in evaluation.results if result.name in SPOILT]
    out: dict[str, dict[str, bool]] = {}
    for metric in ranked(evaluation):
        better = 1 if metrics.info(metric).meta["higher_is_better"] else -1
        for result in spoilt:
            pairs = [
                (a.mean, b.mean)
                for a, b in zip(honest.values[metric], result.values[metric], strict=True)
                if a.mean is not None and b.mean is not None
            ]
            worse = math.fsum(better * (a - b) for a, b in pairs) > 0
            p = paired_permutation([a for a, _ in pairs], [b for _, b in pairs]) if pairs else 1.0
            out.setdefault(metric, {})[result.name] = worse and p < LEVEL
    return out


def table(evaluation: Evaluation) -> str:
    """Means in Markdown, bold where the explainer is caught."""
    found = caught(evaluation)
    lines = [f"| metric | better | {HONEST} | {' | '.join(SPOILT)} |", "| --- " * (3 + len(SPOILT)) + "|"]
    for metric in ranked(evaluation):
        cells = []
        for result in (r for r in evaluation.results if r.name == HONEST or r.name in SPOILT):
            value = result.metrics.get(metric)
            text = "-" if value is None else f"{value:.2f}"
            cells.append(f"**{text}**" if found[metric].get(result.name) else text)
        direction = "higher" if metrics.info(metric).meta["higher_is_better"] else "lower"
        lines.append(f"| `{metric}` | {direction} | {' | '.join(cells)} |")
    counts = [str(sum(row[name] for row in found.values())) for name in SPOILT]
    return "\n".join([*lines, f"| caught by | | | {' | '.join(counts)} |"])


def gated(evaluation: Evaluation) -> str:
    """Rank, status and gates of each method in Markdown."""
    board = Tables.of(evaluation, {}).leaderboard
    lines = ["| method | rank | status | gates not passed |", "| --- | --- | --- | --- |"]
    for row in board.to_dict("records"):
        rank = "-" if math.isnan(row["rank"]) else f"{row['rank']:.2f}"
        lines.append(f"| `{row['method']}` | {rank} | {row['status']} | {row['gates_failed']} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table; write it, if asked to."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--examples", type=int, default=32)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    evaluation = evaluate(arguments.examples)
    made = f"{table(evaluation)}\n\n{gated(evaluation)}"
    print(made)
    if arguments.out is not None:
        arguments.out.write_text(made + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
