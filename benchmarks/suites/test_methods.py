"""Every registered method on the demo models: seconds, forward-pass equivalents, target tokens per second."""

from __future__ import annotations

import os
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest

import attriflow
from attriflow.demo import MODELS, load_demo_dataset
from attriflow.registry import methods

EXAMPLES = 16
OPTIONS = {"integrated_gradients": {"n_steps": 20}}


@pytest.fixture(scope="module", params=MODELS)
def task(request):
    """A demo model with encoded examples."""
    model = attriflow.load_model(f"demo/{request.param}")
    data = load_demo_dataset(request.param).head(EXAMPLES)
    return model, model.encode(data["input"].tolist(), data["target"].tolist(), continuation=True)


@pytest.mark.parametrize("method", methods.names())
def test_method(benchmark, task, method):
    model, examples = task
    forwards: list[float] = []

    def forward_beside() -> None:
        # a forward of the same batches right before every round: the ratio survives a noisy machine
        begin = time.perf_counter()
        model.teacher_forced(examples)
        forwards.append(time.perf_counter() - begin)

    model.teacher_forced(examples)
    out = benchmark.pedantic(
        lambda: model.attribute_examples(examples, method, **OPTIONS.get(method, {})),
        setup=forward_beside,
        rounds=5,
        warmup_rounds=1,
    )
    seconds, forward = min(benchmark.stats.stats.data), min(forwards)
    tokens = sum(e.n_steps for e in examples)
    benchmark.extra_info.update(
        forward_equivalents=seconds / forward,
        target_tokens_per_second=tokens / seconds,
        forward_rows=sum(a.provenance.forward_rows for a in out),
        backward_rows=sum(a.provenance.backward_rows for a in out),
        device=str(model.device),
    )
    assert len(out) == len(examples)
