"""Every registered method on the models and sizes of the scale."""

from __future__ import annotations

import pytest

from attriflow.errors import UnsupportedModelError
from attriflow.measuring.throughput import interleaved_method, method_throughput


def test_method(case, method, models, method_options, timed_rounds, noted):
    loaded, options = models.get(case), method_options.get(method, {})
    measured = interleaved_method(loaded.model, method, options, loaded.batches, batch_size=case.batch)
    try:
        found = timed_rounds(measured, f"methods, {case}")
    except UnsupportedModelError as error:
        pytest.skip(str(error))
    assert len(found) == case.batch
    noted(
        method_throughput(loaded.model, method, options, measured, found, loaded.work),
        model=case.model,
        method=method,
        options=dict(options),
    )
