"""What methods plan to take of memory is what a device in ordinary memory counts, to a fifth.

Run by `test_second_device.py`; the lengths are those of a prompt and an answer.
"""

from __future__ import annotations

import gc
import os
import random

import pytest
import torch
import transformers
from places import present
from words import WORDS, word_tokenizer

import attriflow
from attriflow.engine.sizes import Sizes, least, planned
from attriflow.errors import OutOfMemoryError
from attriflow.registry import methods

pytestmark = pytest.mark.skipif(
    os.environ.get("SECOND_DEVICE") != "1", reason="run by test_second_device.py in a process of its own"
)
NAMES = sorted(m.name for m in methods if not m.name.startswith("ferret"))
SAMPLE = ("saliency", "kernel_shap", "value_zeroing", "deeplift")
ALL = [pytest.param(name, marks=() if name in SAMPLE else pytest.mark.sweep) for name in NAMES]
LENGTHS = ((60, 8), (140, 5))
SLACK = 2**16
"""Bytes of a call that no formula is for: ids, masks, scores."""
SHARED = {"vocab_size": 200, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
GPT2 = {"n_embd": 64, "n_layer": 4, "n_head": 4, "n_positions": 256}
LLAMA = {
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


@pytest.fixture(scope="module")
def device():
    with present() as extension:
        yield extension


@pytest.fixture(scope="module")
def shapes(device):
    """A shape with as many keys as heads and one with fewer and a gate, after what is found out once per model."""
    torch.manual_seed(0)
    hf = [
        transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2, **SHARED)),
        transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA, **SHARED)),
    ]
    made = [attriflow.load_model(one.eval().to("sim"), tokenizer=word_tokenizer()) for one in hf]
    for model in made:
        for method in ("saliency", "occlusion", "value_zeroing"):
            explain(model, method, 12, 3)
    return made


def texts(prompt, answer):
    draw = random.Random(1)
    words = [draw.choice(WORDS[4:]) for _ in range(prompt + answer)]
    return " ".join(words[:prompt]), " ".join(words)


def explain(model, method, prompt, answer, batch=1, **options):
    given, whole = texts(prompt, answer)
    return model.attribute(
        [given] * batch, [whole] * batch, method=method, batch_size=batch, show_progress=False, **options
    )


def peak(model, method, prompt, answer, batch=1, **options):
    place = torch.device("sim:0")
    gc.collect()
    torch.accelerator.reset_peak_memory_stats(place)
    before = torch.accelerator.memory_allocated(place)
    explain(model, method, prompt, answer, batch, **options)
    return torch.accelerator.max_memory_allocated(place) - before


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ALL)
def test_what_is_planned_is_what_is_counted(shapes, method):
    options = dict(methods.info(method).meta["trial"])
    if method == "context_cite":
        options["n_samples"] = 32
    for model in shapes:
        for prompt, answer in LENGTHS:
            counted = peak(model, method, prompt, answer, **options)
            sizes = Sizes.of_examples(model.wrapped, model.encode(*texts(prompt, answer)))
            wanted = planned(method, options, sizes)
            assert abs(wanted - counted) <= 0.2 * counted + SLACK, (type(model.model).__name__, prompt, wanted, counted)


@pytest.mark.filterwarnings("ignore")
def test_several_texts_and_small_chunks_are_planned_too(shapes, monkeypatch):
    model = shapes[0]
    for batch, chunk in ((3, 2**29), (2, 2**22)):
        monkeypatch.setattr("attriflow.engine.sizes.CHUNK_BYTES", chunk)
        examples = model.encode(*([text] * batch for text in texts(60, 8)))
        for method, options in (("integrated_gradients", {"n_steps": 6}), ("kernel_shap", {"n_samples": 24})):
            counted = peak(model, method, 60, 8, batch, **options)
            wanted = planned(method, options, Sizes.of_examples(model.wrapped, examples))
            assert 0.8 <= wanted / counted <= 1.25, (method, batch, wanted, counted)


@pytest.mark.filterwarnings("ignore")
def test_too_little_memory_is_said_before_any_work(shapes, device, monkeypatch):
    model, place = shapes[0], torch.device("sim:0")
    monkeypatch.setattr("attriflow.engine.memory.LOOKED_AT", 1)
    need = least("saliency", {}, Sizes.of_examples(model.wrapped, model.encode(*texts(140, 5))))
    held = torch.accelerator.memory_allocated(place)
    device.counts()
    device.limit(held + int(need / 2))
    try:
        with pytest.raises(
            OutOfMemoryError, match=r"'saliency' needs about .* GiB are free on sim:0: shorten"
        ) as error:
            explain(model, "saliency", 140, 5)
    finally:
        device.limit(16 << 30)
    assert "\n" not in str(error.value) and device.counts()[0] == 0
    device.limit(held + int(1.3 * need))
    try:
        explain(model, "saliency", 140, 5)
    finally:
        device.limit(16 << 30)
