"""ferret's scores of explanations that are there already."""

from __future__ import annotations

import pytest
import torch

from attriflow.evaluation.rescoring import VariantScorer
from attriflow.evaluation.results import MethodResult
from attriflow.evaluation.scoring import MetricRunner
from attriflow.measuring.throughput import Interleaved
from attriflow.registry import metrics

pytest.importorskip("ferret")


def test_metric(case, metric, models, timed_rounds, noted):
    loaded = models.get(case)
    explained = {}

    def explaining():
        for examples in loaded.batches:
            explained["last"] = loaded.model.attribute_examples(examples, "saliency", show_progress=False)
            yield examples

    def score(examples):
        attributions = explained["last"]
        evidence = [torch.arange(a.scores.shape[1]).expand(a.scores.shape[:2]) % 4 == 1 for a in attributions]
        result = MethodResult(name="saliency", attributions=attributions)
        scorer = VariantScorer(loaded.model, examples, batch_size=None)
        MetricRunner([metrics.info(metric)], {}, scorer, evidence, fail_fast=True).score(result)
        return result

    measured = Interleaved(
        work=score,
        forward=lambda examples: loaded.model.teacher_forced(examples, batch_size=case.batch),
        batches=explaining(),
        places=loaded.model.wrapped.devices,
    )
    result = timed_rounds(measured, f"scoring, {case}")
    assert not result.problems and len(result.values[metric]) == case.batch
    noted(measured.throughput(), model=case.model, metric=metric)
