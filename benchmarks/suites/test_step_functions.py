"""Every registered step function: values of all steps of a batch, with a foil where one is compared with."""

from __future__ import annotations

from random_models import with_foil

from attriflow.measuring.throughput import Interleaved


def test_step_function(case, step_function, models, timed_rounds, noted):
    loaded = models.get(case)
    batches = ([with_foil(e, next(loaded.batches)[i]) for i, e in enumerate(batch)] for batch in loaded.batches)
    measured = Interleaved(
        work=lambda examples: loaded.model.score_steps(examples, {step_function: {}}, batch_size=case.batch),
        forward=lambda examples: loaded.model.teacher_forced(examples, batch_size=case.batch),
        batches=batches,
        places=loaded.model.wrapped.devices,
    )
    found = timed_rounds(measured, f"step functions, {case}")
    assert found[0][step_function].shape == (case.target,)
    noted(measured.throughput(), model=case.model, step_function=step_function)
