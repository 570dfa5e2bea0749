"""Options, models and the summary of the suites."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from dataclasses import dataclass

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from scales import OPTIONS, SCALES, Case, Scale
from summary import summary

import attriflow
from attriflow.kernels.devices import best, empty_cache
from attriflow.measuring.benchmark import record, surroundings
from attriflow.measuring.floors import Work
from attriflow.measuring.throughput import Interleaved, rotate, rounds_for
from attriflow.model import AttributionModel
from attriflow.models.loading import check_device, check_dtype
from attriflow.registry import methods, metrics, step_functions
from attriflow.types import Example

DEMO_ROWS = 32


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("attriflow benchmarks")
    group.addoption("--device", default="auto", help="auto, cpu, cuda, ...")
    group.addoption("--dtype", default="float32", help="precision of the models: float32, bfloat16, ...")
    group.addoption("--scale", default="default", choices=sorted(SCALES), help="which models and sizes")
    group.addoption("--threads", type=int, default=None, help="threads on a CPU; the scale's choice when not given")


def pytest_configure(config: pytest.Config) -> None:
    threads = config.getoption("--threads") or scale_of(config).threads
    if threads:
        torch.set_num_threads(threads)


def scale_of(config: pytest.Config) -> Scale:
    return SCALES[config.getoption("--scale")]


def device_of(config: pytest.Config) -> torch.device:
    found = check_device(config.getoption("--device"))
    return found or best()


def dtype_of(config: pytest.Config) -> torch.dtype:
    found = check_dtype(config.getoption("--dtype"))
    return found if isinstance(found, torch.dtype) else torch.float32


def cases_of(config: pytest.Config) -> tuple[Case, ...]:
    scale = scale_of(config)
    return scale.cases if device_of(config).type == "cpu" else (*scale.cases, *scale.accelerated)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What an argument of a benchmark goes over: the cases of the scale, and the registries."""
    config, names = metafunc.config, metafunc.fixturenames
    if "method" in names:
        pairs = [(c, m) for c in cases_of(config) for m in c.methods or methods.names()]
        metafunc.parametrize(("case", "method"), pairs, ids=[f"{c}-{m}" for c, m in pairs])
    elif "case" in names:
        kind = {"step_function": step_functions.names, "metric": ferret_metrics}
        (argument,) = (a for a in kind if a in names)
        pairs = [(c, n) for c in scale_of(config).step_functions for n in kind[argument]()]
        metafunc.parametrize(("case", argument), pairs, ids=[f"{c}-{n}" for c, n in pairs])


def ferret_metrics() -> list[str]:
    return [n for n in metrics.names() if metrics.info(n).meta["extra"] == "ferret"]


@pytest.fixture
def wide(request: pytest.FixtureRequest) -> None:
    """For benchmarks that only some scales have."""
    if not scale_of(request.config).surroundings:
        pytest.skip("not at this scale")


@dataclass
class Loaded:
    """A model, its count of multiply-adds, and batches without end."""

    model: AttributionModel
    work: Work | None
    batches: Iterator[list[Example]]


class Models:
    """Loads what a case asks for, and keeps only the last one: large models would not fit side by side."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self.case: Case | None = None
        self.loaded: Loaded | None = None

    def get(self, case: Case) -> Loaded:
        if self.loaded is None or case != self.case:
            self.loaded = None
            gc.collect()
            empty_cache()
            self.case, self.loaded = case, self._load(case)
        return self.loaded

    def _load(self, case: Case) -> Loaded:
        if case.model.startswith("demo/"):
            from attriflow.demo import load_demo_dataset

            dtype = str(self.dtype).removeprefix("torch.")
            model = attriflow.load_model(case.model, device=str(self.device), dtype=dtype)
            rows = load_demo_dataset(case.model.removeprefix("demo/")).head(DEMO_ROWS)
            examples = model.encode(rows["input"].tolist(), rows["target"].tolist(), continuation=True)
            return Loaded(model, Work.of_model(model), rotate(examples, case.batch))
        from random_models import SHAPES, random_examples, random_model

        shape = SHAPES[case.model]
        model = random_model(shape, case.model, str(self.device), self.dtype)
        return Loaded(model, Work.of_model(model), random_examples(shape, case.prompt, case.target, case.batch))


@pytest.fixture(scope="session")
def models(request: pytest.FixtureRequest) -> Models:
    return Models(device_of(request.config), dtype_of(request.config))


@pytest.fixture
def timed_rounds(benchmark, request):
    """Run warmed-up, interleaved rounds under pytest-benchmark; returns what the warm-up round returned."""
    scale = scale_of(request.config)

    def run(measured: Interleaved, group: str):
        benchmark.group = group
        found, seconds = measured.warm_up()
        benchmark.pedantic(
            measured.run,
            setup=lambda: ((measured.prepare(),), {}),
            teardown=lambda _examples: measured.close(),
            rounds=rounds_for(seconds, scale.seconds, *scale.rounds),
        )
        return found

    return run


@pytest.fixture
def noted(benchmark):
    """Put a measurement into `extra_info`."""

    def note(throughput, **about):
        benchmark.extra_info.update(record(throughput), **about)

    return note


@pytest.fixture
def method_options():
    return {part.name: OPTIONS.get(part.name, part.meta["trial"]) for part in methods}


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict) -> None:
    machine_info.update(surroundings(device_of(config), dtype_of(config)), scale=config.getoption("--scale"))


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    """All numbers in one table."""
    session = getattr(config, "_benchmarksession", None)
    rows = [(b.group or "", b.name, b.extra_info) for b in getattr(session, "benchmarks", ())]
    if rows:
        terminalreporter.section("benchmarks")
        terminalreporter.write_line(summary(rows))
