"""What `attriflow benchmark` does: a model, data, every method measured, a file, an MLflow run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attriflow.evaluation.data import EvaluationData, encoded
from attriflow.io import write_content
from attriflow.measuring import benchmark
from attriflow.measuring.benchmark import BenchmarkSettings, MethodBenchmark
from attriflow.measuring.cost import memory_kind
from attriflow.texts.target_spans import with_spans
from attriflow.tracking.data import checked, read_data

if TYPE_CHECKING:
    import pandas as pd

    from attriflow.tracking.run_logger import LoggedRun


def measure(
    model: str,
    data: str,
    config: Mapping[str, Any],
    *,
    split: str = "train",
    dataset_config: str | None = None,
    targets: str | None = None,
    dtype: str | None = None,
    **settings: Any,
) -> Measured:
    """Measure methods on a model and data.

    Args:
        model, data, split, dataset_config, targets: What `evaluate` takes.
        config: Those settings of `EvaluationConfig` that say what is explained, and with which methods.
        dtype: Precision of the model.
        **settings: Those of `BenchmarkSettings` that say how it is measured.
    """
    frame = read_data(data, split, dataset_config)
    features, chosen = checked(frame, {**config, "metrics": [], "step_functions": []}, targets)
    chosen = replace(chosen, contrast_target=None, contrast_source=None)  # nothing is compared with them here
    rows = EvaluationData.from_frame(features, chosen, None if targets is None else frame[targets].tolist())
    how = BenchmarkSettings(
        methods=tuple(chosen.methods),
        method_options=chosen.method_options,
        batch_size=chosen.explicit_batch_size,
        seed=chosen.seed,
        **settings,
    )
    from attriflow.model import load_model
    from attriflow.tracking.quiet import quiet

    with quiet():
        loaded = load_model(
            model,
            device=chosen.explicit_device or "auto",
            dtype=dtype,
            device_map=chosen.device_map,
            max_memory=chosen.max_memory,
        )
    examples, rows = encoded(
        loaded,
        rows,
        generation_args=dict(chosen.generation_args),
        batch_size=chosen.explicit_batch_size,
        seed=chosen.seed,
    )
    if chosen.target_spans is not None:
        examples = [with_spans(example, chosen.target_spans, chosen.span_value) for example in examples]
    return Measured(
        methods=tuple(benchmark.benchmark(loaded, examples, how)),
        about={"model": model, "data": data},
        counts={"n_examples": len(examples), "n_tokens": sum(e.n_tokens for e in examples)},
        surroundings=benchmark.surroundings(loaded.device, loaded.dtype, *loaded.wrapped.devices),
        memory=memory_kind(*loaded.wrapped.devices),
        architecture=type(loaded.model).__name__,
        rows=rows,
    )


@dataclass(frozen=True)
class Measured:
    """What methods cost on a model and data.

    Attributes:
        methods: One entry per method.
        about: Names of the model and the data.
        counts: Of examples and tokens.
        surroundings: Device, precision, versions.
        architecture: Class of the model.
        memory: What the peaks of memory count.
        rows: What was explained, and the rows that failed.
    """

    methods: tuple[MethodBenchmark, ...]
    about: Mapping[str, str]
    counts: Mapping[str, int]
    surroundings: Mapping[str, Any]
    architecture: str
    memory: str
    rows: EvaluationData

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per method, the cheapest first."""
        return benchmark.table(self.methods)

    @cached_property
    def document(self) -> str:
        """JSON of pytest-benchmark's form, which `attriflow check` reads."""
        return json.dumps(benchmark.document(self.methods, self.surroundings, **self.about), indent=1)

    def write(self, path: Path, *, overwrite: bool = False) -> None:
        """Write that document."""
        write_content(f"{self.document}\n", path, overwrite=overwrite)

    def log(self, tracking_uri: str | None = None, experiment: str | None = None) -> LoggedRun:
        """Log numbers, table, plots and the document to a new run; metrics are named as in an evaluation."""
        from attriflow.tracking.quiet import quiet
        from attriflow.tracking.run_logger import RunLogger, new_run
        from attriflow.views.evaluations.throughput import batch_curves, cost_bars
        from attriflow.views.figures import to_png

        measured = {m.name: m.throughput.numbers() for m in self.methods if m.throughput}
        largest = {m.name: m.largest for m in self.methods if m.largest}
        with quiet(), new_run(tracking_uri, experiment) as logged:
            run = RunLogger(logged.run_id)
            run.params({f"attriflow.{k}": v for k, v in {**self.about, **self.counts, **self.surroundings}.items()})
            run.tags({"attriflow.benchmark": "throughput", "attriflow.model": self.architecture})
            if self.rows.failed:
                run.tags({"attriflow.failed_rows": self.rows.failed})
            run.metrics({f"{name}/{k}": v for name, numbers in measured.items() for k, v in numbers.items()})
            run.metrics({f"{name}/largest_batch": float(found.size) for name, found in largest.items()})
            run.table("throughput.json", self.table)
            run.artifact("benchmark.json", self.document)
            curves = {n: [(b.size, b.target_tokens_per_second) for b in found.tried] for n, found in largest.items()}
            for name, figure in {"cost": cost_bars(self.table), "batches": batch_curves(curves)}.items():
                run.artifact(f"plots/{name}.png", to_png(figure))
        return logged
