"""An answer as one span against the same answer token by token: seconds, passes, and whether the numbers agree.

Usage: ``python benchmarks/spans.py [--prompt 64] [--answer 512] [--rounds 3] [--threads 1]``. Both are measured in
turn, round after round; a row is the median over rounds. Prints the table of docs/long-answers.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
from dataclasses import replace

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from random_models import Shape, random_examples, random_model

from attriflow.measuring.cost import timed
from attriflow.model import AttributionModel
from attriflow.types import Example

SHAPE = Shape("llama", layers=4, width=256, heads=4, vocabulary=1000)
METHODS = {
    "saliency": {},
    "input_x_gradient": {},
    "integrated_gradients": {"n_steps": 3},
    "deeplift": {},
    "occlusion": {},
    "information_flow_routes": {},
}
LINEAR = ("input_x_gradient", "integrated_gradients", "deeplift", "occlusion", "information_flow_routes")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--answer", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--methods", default=",".join(METHODS))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = random_model(SHAPE)
    ((tokens,),) = [next(random_examples(SHAPE, given.prompt, given.answer, 1))]
    span = replace(tokens, spans=((tokens.start, tokens.stop),))
    print(f"| method | forward | token by token | one span | ratio | largest difference |\n|{' --- |' * 6}")
    for name in given.methods.split(","):
        print(row(model, name, tokens, span, given.rounds), flush=True)


def row(model: AttributionModel, name: str, tokens: Example, span: Example, rounds: int) -> str:
    """The row of one method."""

    def explained(example: Example) -> tuple[torch.Tensor, float]:
        def work() -> torch.Tensor:
            options = {"attributed_fn_args": {"logprob": True}, **METHODS[name]}
            return model.attribute_examples([example], name, **options)[0].scores.nan_to_num().sum(0)

        return timed(work, model.device)

    seconds: list[tuple[float, float, float]] = []
    for _ in range(rounds + 1):
        forward = timed(lambda: model.teacher_forced([tokens]), model.device)[1]
        (summed, each), (one, together) = explained(tokens), explained(span)
        seconds.append((forward, each, together))
    forward, each, together = (statistics.median(column) for column in zip(*seconds[1:], strict=True))
    agrees = f"{float((one - summed).abs().max() / one.abs().max()):.0e}" if name in LINEAR else "(a norm)"
    ratio = f"{each / together:.0f}"
    return f"| `{name}` | {forward:.3f} s | {each:.2f} s | {together:.3f} s | {ratio} | {agrees} |"


if __name__ == "__main__":
    main()
