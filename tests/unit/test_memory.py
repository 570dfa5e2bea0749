"""What tensors leave behind is given back to the system after long work, and only then."""

import os
import subprocess
import sys

import pytest
import torch

import attriflow
from attriflow.engine import job, memory
from attriflow.errors import OutOfMemoryError, out_of_memory

glibc = pytest.mark.skipif(memory._trim() is None, reason="not on glibc")


# A process of its own, in which all tensors come from the heap and glibc gives nothing back unasked: in one that
# has run other tests, what is free already decides what is measured.
GIVEN_BACK = """
import psutil, torch
from attriflow.engine import memory
MIB = 2**20
many = [torch.ones(2 * MIB) for _ in range(40)]  # 8 MiB each
above = torch.ones(2 * MIB)  # what is used above them holds them back
del many[:]
before = psutil.Process().memory_info().rss
assert memory.give_back()
print((before - psutil.Process().memory_info().rss) // MIB)
assert above.sum() == 2 * MIB
"""


@glibc
def test_free_memory_goes_back_to_the_system():
    heap = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**34), "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, "-c", GIVEN_BACK]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | heap)
    assert int(done.stdout) > 200  # of the 320 that are free


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


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (MemoryError(), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB, other allocations: 1 GB)"), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory"),
            True,
        ),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
        (OutOfMemoryError("out of memory with a single example"), False),  # has been tried with less already
    ],
)
def test_what_running_out_of_memory_is(error, wanted):
    assert out_of_memory(error) is wanted


def test_a_part_that_the_allocator_refuses_is_halved():
    """What a real allocator raises, for more than a machine can address."""
    sizes = []

    def work(start, stop):
        sizes.append(stop - start)
        torch.empty((stop - start) * 2**45 if stop - start > 2 else 1)
        return stop - start

    assert sum(memory.Halving("one").parts(9, 8, work)) == 9
    assert sizes == [8, 4, 2, 2, 2, 2, 1]
    with pytest.raises(OutOfMemoryError, match="out of memory with one"):
        memory.Halving("one").each(1, 1, lambda _start, _stop: torch.empty(2**50))
    with pytest.raises(ZeroDivisionError):
        memory.Halving("one").each(2, 2, lambda _start, _stop: 1 / 0)


def no_more_than(model, rows, monkeypatch):
    """A model that finds memory for so many rows only."""
    forward = type(model.model).forward

    def small(self, *args, **kwargs):
        given = next(v for k in ("input_ids", "inputs_embeds") if (v := kwargs.get(k)) is not None)
        if len(given) > rows:
            torch.empty(2**50)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(model.model), "forward", small)


def test_generation_and_step_scores_go_on_with_fewer_texts(monkeypatch):
    model = attriflow.load_model("demo/recall")
    texts = [f"{name} has a red hat . what color is the hat ?" for name in ("anna", "ben", "paul", "nina", "peter")]
    wanted = model.generate(texts, max_new_tokens=2)
    examples = model.encode(texts, wanted)
    scores = model.score_steps(examples, {"probability": {}})
    no_more_than(model, 2, monkeypatch)
    assert model.generate(texts, max_new_tokens=2) == wanted
    for one, other in zip(model.score_steps(examples, {"probability": {}}), scores, strict=True):
        torch.testing.assert_close(one, other)
    model.teacher_forced(examples)
    no_more_than(model, 0, monkeypatch)
    with pytest.raises(OutOfMemoryError, match="out of memory in generation after 12 tokens"):
        model.generate(texts, max_new_tokens=2)
    with pytest.raises(OutOfMemoryError, match="out of memory with a single example on cpu"):
        model.score_steps(examples, {"probability": {}})
