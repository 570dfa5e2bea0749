"""attriflow, and the yardsticks measured beside it: a plain forward of the same batch and a matrix product."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import torch
from protocol import measured, serve

import attriflow
from attriflow.registry import methods

state: dict[str, Any] = {}


def load(folder: str) -> dict[str, Any]:
    import transformers

    state.update(model=attriflow.load_model(folder))
    versions = {
        "attriflow": attriflow.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    return {"versions": versions, "methods": methods.names(), "threads": torch.get_num_threads()}


def prepare(method: str, options: dict[str, Any]) -> dict[str, Any]:
    """Build the part, so that a wrong option is known before anything is measured."""
    methods.info(method).build(**{k: v for k, v in options.items() if k in methods.info(method).options})
    return {}


def run(
    method: str, options: dict[str, Any], texts: list[str], targets: list[str], save: str | None = None
) -> dict[str, Any]:
    out, cost = measured(
        lambda: state["model"].attribute(texts, targets, method=method, show_progress=False, **options)
    )
    first = out[0]
    if save:
        arrays = {}
        for block, segment in (("source", True), ("target", False)):
            index = [i for i, t in enumerate(first.inputs) if (t.segment == "source") == segment]
            if index:
                arrays[f"{block}.scores"] = first.scores[:, index].numpy()
                if first.norms is not None:
                    arrays[f"{block}.norms"] = first.norms[:, index].numpy()
        np.savez(save, **arrays)
    (example,) = state["model"].encode(texts[:1], targets[:1])
    p = first.provenance
    counts = {"forward_rows": p.forward_rows, "forward_calls": p.forward_calls, "backward_rows": p.backward_rows}
    return {**cost, **counts, "ids": {"source": example.source_ids, "target": example.target_ids}}


def yardsticks(texts: list[str], targets: list[str], repeats: int = 3) -> dict[str, Any]:
    """Seconds of one teacher-forced forward of the batch, and multiply-adds per second of a 1024-cubed product."""
    examples = state["model"].encode(texts, targets)
    forwards, rates = [], []
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    state["model"].teacher_forced(examples)
    torch.mm(a, b)
    for _ in range(repeats):
        begin = time.perf_counter()
        state["model"].teacher_forced(examples)
        forwards.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        torch.mm(a, b)
        rates.append(1024**3 / (time.perf_counter() - begin))
    return {"forward": statistics.median(forwards), "rate": statistics.median(rates)}


if __name__ == "__main__":
    serve({"load": load, "prepare": prepare, "run": run, "yardsticks": yardsticks})
