"""Digests that say whether two evaluations are the same."""

from __future__ import annotations

import copy

import torch
from evaluation_fakes import causal_example

from attriflow.evaluation.data import EvaluationData, Foil
from attriflow.evaluation.identity import SAMPLE, data_digests, same_rows, weights_digest


def test_weights_are_told_apart_by_one_value_and_not_by_their_place():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    digest = weights_digest(model)
    other = copy.deepcopy(model)
    assert weights_digest(other) == digest
    other[1].bias.data[1] += 1e-3
    assert weights_digest(other) != digest


def test_of_large_tensors_a_sample_is_read():
    layer = torch.nn.Linear(4, SAMPLE)
    digest = weights_digest(layer)
    layer.weight.data[0, 1] += 1  # every fourth value is looked at
    assert weights_digest(layer) == digest
    layer.weight.data += 1e-3
    assert weights_digest(layer) != digest


def test_rows_are_told_apart_by_each_of_their_parts():
    examples = [causal_example("a b", "c d")]
    rows = {"inputs": ("a b",), "targets": ("c d",), "rationales": ([[0, 1]],), "foils": (Foil(target="e f"),)}
    base = data_digests(EvaluationData(**rows), examples)
    others = {"inputs": ("a c",), "targets": ("c e",), "rationales": ([[0, 2]],), "foils": (None,)}
    parts = {"inputs": "inputs", "targets": "targets", "rationales": "evidence", "foils": "foils"}
    for name, value in others.items():
        found = data_digests(EvaluationData(**{**rows, name: value}), examples)
        assert {k for k in base if base[k] != found[k]} == {parts[name]}


def test_generated_targets_are_those_written_and_compared_between_models_by_their_inputs():
    data = EvaluationData(inputs=("a b",))
    first, second = (data_digests(data, [causal_example("a b", text)]) for text in ("c d", "eee f"))
    assert first["targets"] != second["targets"] and same_rows(first) == same_rows(second)
    given = data_digests(EvaluationData(inputs=("a b",), targets=("c d",)), [])
    assert same_rows(given) != same_rows(first)
