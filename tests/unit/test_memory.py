"""What tensors leave behind is given back to the system after long work, and only then."""

import psutil
import pytest
import torch

from attriflow import explain, memory

glibc = pytest.mark.skipif(memory._trim() is None, reason="not on glibc")
MIB = 2**20


def resident():
    return psutil.Process().memory_info().rss


@glibc
def test_free_memory_goes_back_to_the_system():
    del (first := [torch.ones(4 * MIB)])[:]  # from now on glibc keeps blocks of this size
    many = [torch.ones(2 * MIB) for _ in range(40)]  # 8 MiB each
    above = torch.ones(2 * MIB)  # what is used above them holds them back
    del many[:]
    before = resident()
    assert not memory.give_back(0.5)
    assert resident() > before - 50 * MIB
    assert memory.give_back(9.0)
    assert resident() < before - 200 * MIB
    assert above.sum() == 2 * MIB
    assert not first


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(memory, "_trim", lambda: None)
    assert not memory.give_back(10.0)


def test_after_every_batch(golden_model, monkeypatch):
    took = []
    monkeypatch.setattr(explain, "give_back", took.append)
    out = golden_model("gpt2").attribute(["ki te", "te"], ["ki te ki", "te te"], method="saliency", batch_size=1)
    assert took == [a.provenance.seconds for a in out]
