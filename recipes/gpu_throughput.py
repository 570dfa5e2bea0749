"""How many examples at a time: throughput of a few methods by batch size, and the largest batch that fits.

Usage: ``python recipes/gpu_throughput.py [--model demo/recall] [--methods saliency,occlusion] [--device auto]
[--dtype bfloat16]``. On a GPU the default precision is bfloat16, elsewhere float32. Prints a table, and writes the two
plots that `attriflow benchmark` logs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import attriflow
from attriflow.demo import load_demo_dataset
from attriflow.kernels import devices
from attriflow.measuring.benchmark import BenchmarkSettings, benchmark, surroundings, table
from attriflow.models.loading import check_device
from attriflow.views.evaluations.throughput import batch_curves, cost_bars, markdown
from attriflow.views.figures import to_png


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, plot."""
    parser = argparse.ArgumentParser(description="Throughput by batch size.")
    parser.add_argument("--model", default="demo/recall", help="folder, Hugging Face name, MLflow URI, demo/<name>")
    parser.add_argument("--methods", default="saliency,integrated_gradients,occlusion")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default=None)
    parser.add_argument("--largest-batch", type=int, default=256)
    parser.add_argument("--batch-seconds", type=float, default=20.0, help="time for the search, per method")
    parser.add_argument("--out", type=Path, default=Path("throughput-output"))
    options = parser.parse_args(arguments)
    on_gpu = (check_device(options.device) or devices.best()).type != "cpu"
    model = attriflow.load_model(
        options.model, device=options.device, dtype=options.dtype or ("bfloat16" if on_gpu else "float32")
    )
    rows = load_demo_dataset("recall").head(8)
    examples = model.encode(rows["input"].tolist(), rows["target"].tolist(), continuation=True)
    settings = BenchmarkSettings(
        methods=tuple(options.methods.split(",")),
        method_options={"integrated_gradients": {"n_steps": 20}} if "integrated_gradients" in options.methods else {},
        seconds=2.0,
        most=options.largest_batch,
        batch_seconds=options.batch_seconds,
    )
    where = surroundings(model.device, model.dtype)
    print(
        f"{options.model} on {where['device_name']} ({where['device']}), {where['dtype']}, {where['threads']} threads\n"
    )
    found = list(benchmark(model, examples, settings))
    print(markdown(table(found)))
    curves = {}
    for one in found:
        if one.largest is not None:
            curves[one.name] = [(b.size, b.target_tokens_per_second) for b in one.largest.tried]
            best = max(one.largest.tried, key=lambda b: b.target_tokens_per_second)
            print(f"{one.name}: fastest with {best.size} at a time, {best.target_tokens_per_second:.0f} tokens/s")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "batches.png").write_bytes(to_png(batch_curves(curves)))
    (options.out / "cost.png").write_bytes(to_png(cost_bars(table(found))))


if __name__ == "__main__":
    main()
