"""What tensors leave behind is given back to the system after long work, and only then."""

import psutil
import pytest
import torch

from attriflow.engine import job, memory

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
    assert memory.give_back()
    assert resident() < before - 200 * MIB
    assert above.sum() == 2 * MIB
    assert not first


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(memory, "_trim", lambda: None)
    assert not memory.give_back()


@pytest.mark.parametrize(("long", "times"), [(0.0, 2), (60.0, 0)])
def test_after_batches_that_took_long(golden_model, monkeypatch, long, times):
    given = []
    monkeypatch.setattr(job, "LONG", long)
    monkeypatch.setattr(job, "give_back", lambda: given.append(1))
    golden_model("gpt2").attribute(["ki te", "te"], ["ki te ki", "te te"], method="saliency", batch_size=1)
    assert len(given) == times
