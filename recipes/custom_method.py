"""A method of your own, evaluated against the others: one class, one registration.

Usage: ``python recipes/custom_method.py [--examples 8]``
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch

import attriflow
from attriflow.demo import load_demo_dataset
from attriflow.engine import Engine, Scores
from attriflow.evaluation.config import EvaluationConfig
from attriflow.evaluation.data import EvaluationData
from attriflow.evaluation.runner import Evaluation


@attriflow.register_method(identifier="recency", family="control", cost="nothing", deterministic=True)
@dataclass(frozen=True)
class Recency:
    """The later a token, the higher its score: what an explanation has to beat on long prompts.

    Attributes:
        decay: Factor from one token to the one before it.
    """

    decay: float = 0.8

    def __call__(self, engine: Engine) -> Scores:
        """Scores of a batch."""
        blocks = {}
        for block in engine.blocks:
            seen = engine.visible(block)  # [batch, step, position]
            later = seen.flip(-1).cumsum(-1).flip(-1)
            blocks[block] = torch.where(seen, self.decay ** later.to(engine.dtype), 0.0)
        return Scores(blocks)


def main() -> None:
    """Run the recipe."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--examples", type=int, default=8)
    rows = load_demo_dataset("recall").head(parser.parse_args().examples)
    config = EvaluationConfig.from_dict(
        {
            "methods": ["occlusion", "saliency", "recency", "random"],
            "method_options": {"recency": {"decay": 0.9}},
            "metrics": ["aopc_compr", "auprc_plau"],
            "rationale": "rationale",
            "step_functions": [],
            "throughput": False,
        },
        columns=list(rows.columns),
        text_columns=["input"],
        targets="target",
    )
    run = Evaluation(
        attriflow.load_model("demo/recall"), EvaluationData.from_frame(rows, config, rows["target"].tolist()), config
    )
    for _ in run.run():
        pass
    for result in run.results:
        print(f"{result.name:10s}", {k: round(v, 3) for k, v in result.metrics.items()})


if __name__ == "__main__":
    main()
