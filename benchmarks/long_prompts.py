"""What a method costs beside a forward of the same text, as the prompt grows: forwards, and memory beyond the weights.

Usage: ``python benchmarks/long_prompts.py [--prompts 100,400,1600,4000] [--methods ...] [--layers 6] [--memory]``. The
shape is that of Qwen2-0.5B but for its layers. Forward and method are measured in turn, round after round, in seconds
of the processor, and the least of each counts: other programs only ever add time. With ``--memory``, each method runs
once more in a process of its own, whose highest memory is compared with that before the call (Linux). Prints the table
of docs/long-answers.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from random_models import SHAPES, random_examples, random_model

from attriflow.model import AttributionModel
from attriflow.types import Example

METHODS = {
    "saliency": {},
    "input_x_gradient": {},
    "integrated_gradients": {"n_steps": 5},
    "deeplift": {},
    "layer_gradient_x_activation": {},
    "value_norm": {},
    "attention": {},
    "information_flow_routes": {},
}


def built(options: argparse.Namespace) -> AttributionModel:
    """The model."""
    torch.set_num_threads(options.threads)
    return random_model(replace(SHAPES["qwen2-6-layers"], layers=options.layers))


def example(options: argparse.Namespace, prompt: int, seed: int = 0) -> Example:
    """A random text."""
    return next(random_examples(SHAPES["qwen2-6-layers"], prompt, options.answer, 1, seed))[0]


def explain(model: AttributionModel, name: str, text: Example) -> object:
    """One call."""
    return model.attribute_examples([text], name, **METHODS[name])


def forwards(model: AttributionModel, name: str, text: Example, rounds: int) -> tuple[float, float]:
    """Seconds of a forward, and how many of them the method takes."""
    seconds = [
        (spent(lambda: model.teacher_forced([text])), spent(lambda: explain(model, name, text))) for _ in range(rounds)
    ]
    forward, method = (min(column) for column in zip(*seconds, strict=True))
    return forward, method / forward


def spent(work: Callable[[], object]) -> float:
    """Seconds of the processor, all threads."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def memory(options: argparse.Namespace, name: str, prompt: int) -> float:
    """GiB beyond the weights that a call takes, in a process of its own."""
    command = [sys.executable, __file__, "--work", name, "--prompts", str(prompt)]
    for given in ("answer", "layers", "threads"):
        command += [f"--{given}", str(getattr(options, given))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.split()[-1])


def work(options: argparse.Namespace) -> None:
    """Print the highest memory of one call less what the process had before, in GiB."""
    model = built(options)
    explain(model, options.work, example(options, 30, seed=1))  # checks of the model, buffers of kernels
    text = example(options, int(options.prompts))
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far starts from here
    explain(model, options.work, text)
    print((_status("VmHWM") - before) / 2**20)


def _status(name: str) -> int:
    """A line of the process's status, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--prompts", default="100,400,1600")
    parser.add_argument("--answer", type=int, default=10)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--memory", action="store_true", help="measure memory, too, at the longest prompt")
    parser.add_argument("--work", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options)
        return
    model, prompts = built(options), [int(n) for n in options.prompts.split(",")]
    columns = [f"{n:,}" for n in prompts] + ["GiB beyond the weights"] * options.memory
    print(f"| method | {' | '.join(columns)} |\n|{' --- |' * (len(columns) + 1)}", flush=True)
    for name in options.methods.split(","):
        explain(model, name, example(options, 30, seed=1))
        found = [forwards(model, name, example(options, n), options.rounds) for n in prompts]
        cells = [f"{ratio:.1f}" for _, ratio in found]
        if options.memory:
            cells.append(f"{memory(options, name, prompts[-1]):.2f}")
        print(f"| `{name}` | {' | '.join(cells)} |", flush=True)
    print("\nSeconds of a forward:", ", ".join(f"{seconds:.2f}" for seconds, _ in found))


if __name__ == "__main__":
    main()
