"""Do regression checks find what got worse, and are they quiet otherwise? Measured on a demo model.

    python benchmarks/regression_checks.py --runs 20 --output build/regression-checks

The baseline is measured once, then as many times again as `--runs` says without any change: every failed check is a
false alarm. Then a method does its work twice (or `--times`), and returns its scores in random order: both must fail.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import mlflow
import torch

import attriflow
from attriflow.demo import load_demo_dataset
from attriflow.engine import Engine, Scores
from attriflow.measuring.throughput import measure_method, rotate
from attriflow.registry import methods
from attriflow.regression.benchmarks import read_benchmarks
from attriflow.regression.rules import Rules
from attriflow.regression.verdicts import judge_costs
from attriflow.tracking.quiet import quiet
from attriflow.tracking.regression import check_runs

TIMED = {
    "mine": {},
    "attention": {},
    "input_x_gradient": {},
    "integrated_gradients": {"n_steps": 10},
    "lime": {"n_samples": 32},
}
# with few samples, so that their scores differ from seed to seed
SAMPLED = {"mine": {}, "lime": {"n_samples": 24}, "gradient_shap": {"n_samples": 2}, "random": {}}
METRICS = ["aopc_compr", "aopc_suff", "auprc_plau", "token_f1_plau"]


@attriflow.register_method(
    identifier="mine", family="perturbation", cost="as occlusion", deterministic=True, signed=True
)
@dataclass(frozen=True)
class Mine:
    """Occlusion that can be broken.

    Attributes:
        times: How often the work is done.
        shuffled: Return the scores in random order. No option: a check refuses to compare runs with other options.
    """

    times: int = 1
    shuffled: ClassVar[bool] = False

    def __call__(self, engine: Engine) -> Scores:
        """Scores of a batch."""
        for _ in range(self.times):
            found = methods.build("occlusion")(engine)
        if not self.shuffled:
            return found
        generator = torch.Generator().manual_seed(0)
        blocks = {}
        for block, scores in found.blocks.items():
            out, seen = scores.clone(), engine.visible(block)
            for i, step in torch.cartesian_prod(*map(torch.arange, scores.shape[:2])).tolist():
                where = seen[i, step].nonzero().squeeze(1)
                out[i, step, where] = scores[i, step, where[torch.randperm(len(where), generator=generator)]]
            blocks[block] = out
        return Scores(blocks)


def measure(model, examples, names: list[str], path: Path, times: int = 1) -> Path:
    """A file of pytest-benchmark's form."""
    entries = []
    for name in names:
        chosen = {"times": times} if name == "mine" else TIMED[name]
        found = measure_method(model, name, chosen, rotate(examples), work=None, budget=3.0, rounds=(5, 9))
        extra = {"forward_equivalents_rounds": list(found.forward_equivalents), **found.numbers()}
        entries.append({"name": name, "extra_info": extra, "stats": {"data": list(found.seconds)}})
    path.write_text(json.dumps({"machine_info": {"device": str(model.device)}, "benchmarks": entries}))
    return path


def evaluate(uri: str, rows, seed: int, shuffled: bool = False) -> str:
    """An evaluation in the store; its run's id."""
    Mine.shuffled = shuffled
    with mlflow.start_run() as run:
        mlflow.models.evaluate(
            uri,
            rows,
            targets="target",
            model_type="text-attribution",
            evaluators="attriflow",
            evaluator_config={
                "inputs": "input",
                "rationale": "rationale",
                "methods": list(SAMPLED),
                "method_options": SAMPLED,
                "metrics": METRICS,
                "step_functions": [],
                "throughput": False,
                "report_examples": 0,
                "seed": seed,
            },
        )
    return run.info.run_id


def say(title: str, verdicts) -> bool:
    """Print what failed; returns whether anything did."""
    failed = [v for v in verdicts if v.failed]
    print(f"{title}: {len(failed)} of {len(verdicts)} failed", flush=True)
    for v in failed:
        print(f"  {v.name}: {v.message}", flush=True)
    return bool(failed)


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--examples", type=int, default=32)
    parser.add_argument("--times", type=int, default=2, help="how often the broken method does its work")
    parser.add_argument("--timed", nargs="*", default=list(TIMED), help="methods that are timed, may be none")
    parser.add_argument("--output", type=Path, default=Path("regression-checks"))
    options = parser.parse_args()
    folder, begin = options.output.resolve(), time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    rows = load_demo_dataset("recall").sample(options.examples, random_state=0, ignore_index=True)
    model, rules, alarms = attriflow.load_model("demo/recall"), Rules(), {"speed": 0, "quality": 0}
    examples = model.encode(rows["input"].tolist(), rows["target"].tolist(), continuation=True)

    if options.timed:
        base = read_benchmarks(measure(model, examples, options.timed, folder / "baseline.json")).costs
        for i in range(options.runs):
            again = read_benchmarks(measure(model, examples, options.timed, folder / "current.json")).costs
            alarms["speed"] += say(f"speed, no change, {i + 1}", judge_costs(base, again, rules))
        slow = read_benchmarks(measure(model, examples, options.timed, folder / "slow.json", options.times)).costs
        say(f"speed, mine does its work {options.times} times", judge_costs(base, slow, rules))

    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    with quiet():
        if mlflow.get_experiment_by_name("checks") is None:
            mlflow.create_experiment("checks", artifact_location=(folder / "mlartifacts").as_uri())
        mlflow.set_experiment("checks")
        uri = attriflow.log_model(model, name="recall").model_uri
        first = evaluate(uri, rows, seed=0)
        for i in range(options.runs):
            verdicts = check_runs(first, evaluate(uri, rows, seed=i + 1), rules)
            alarms["quality"] += say(f"quality, another seed, {i + 1}", verdicts)
        say(
            "quality, mine returns shuffled scores",
            check_runs(first, evaluate(uri, rows, seed=0, shuffled=True), rules),
        )
    if not options.timed:
        del alarms["speed"]
    print(f"false alarms in {options.runs} checks each: {alarms}; {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
