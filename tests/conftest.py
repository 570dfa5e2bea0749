"""Shared fixtures: offline by default, the reference models, the demo models."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")

import pytest

DATA = Path(__file__).parent / "data"
sys.path.insert(0, str(DATA / "golden"))
sys.path.insert(0, str(Path(__file__).parent / "oracles"))
sys.path.insert(0, str(Path(__file__).parent / "toys"))


@pytest.fixture(scope="session", autouse=True)
def _one_thread_per_worker() -> None:
    """Parallel test workers share the cores; more threads than cores only get in each other's way."""
    if os.environ.get("PYTEST_XDIST_WORKER"):
        import torch

        torch.set_num_threads(1)


def own_parts_only():
    """What is registered in between is gone afterwards; built-in parts, which register when they are imported, stay."""
    from attriflow import registry

    every = [r for r in vars(registry).values() if isinstance(r, registry.Registry)]
    before = [(set(r._parts), dict(r._aliases)) for r in every]
    yield
    for one, (names, aliases) in zip(every, before, strict=True):
        for name in set(one._parts) - names:
            module = str(getattr(one._parts[name].obj, "__module__", ""))
            if not module.startswith(("attriflow.", "attriflow_metrics")):
                one.unregister(name)
        one._aliases = {alias: name for alias, name in one._aliases.items() if alias in aliases or ":" not in alias}


@pytest.fixture(autouse=True)
def _own_parts_of_a_test():
    yield from own_parts_only()


@pytest.fixture(scope="module", autouse=True)
def _own_parts_of_a_module():
    """What fixtures register that several tests share."""
    yield from own_parts_only()


@pytest.fixture(scope="session")
def golden_model():
    """`golden_model("gpt2" | "bart", dtype)`: a wrapped reference model, loaded once per session."""
    import attriflow

    loaded = {}

    def get(name: str, dtype: str = "float64"):
        if (name, dtype) not in loaded:
            loaded[name, dtype] = attriflow.load_model(
                str(DATA / "golden" / "models" / name), dtype=dtype, device="cpu"
            )
        return loaded[name, dtype]

    return get


@pytest.fixture(scope="session")
def tokenizers():
    """The two reference tokenizers: byte-level BPE without pad token, and one with all special tokens."""
    from transformers import AutoTokenizer

    return {n: AutoTokenizer.from_pretrained(DATA / "golden" / "models" / n) for n in ("gpt2", "bart")}
