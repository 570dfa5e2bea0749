"""Models whose weights accelerate keeps elsewhere between forwards: every method gives the plain model's numbers."""

import functools

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from models import build
from words import PROMPT, SOURCE, TARGET, TEXT, word_tokenizer

import attriflow
from attriflow.errors import InputError
from attriflow.models.offload import device_of, weight_of
from attriflow.registry import methods

METHODS = [name for name in methods.names() if methods.info(name).meta["runs_model"] and not name.startswith("ferret")]


@functools.lru_cache
def models(name):
    """The same weights in memory and offloaded."""
    plain, away = build(name), cpu_offload(build(name), torch.device("cpu"))
    assert any(p.is_meta for p in away.parameters())
    return [attriflow.load_model(hf, tokenizer=word_tokenizer(), device="cpu") for hf in (plain, away)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["llama-gqa", "bart"])
def test_numbers_are_those_of_the_plain_model(name, method):
    texts = (SOURCE, TARGET) if name == "bart" else (PROMPT, TEXT)
    options = {"attribute_target": True} if name == "bart" else {}
    trial = methods.info(method).meta["trial"]
    found = [m.attribute(*texts, method=method, show_progress=False, **options, **trial)[0] for m in models(name)]
    torch.testing.assert_close(found[1].scores, found[0].scores, atol=1e-9, rtol=0, equal_nan=True)


def test_the_model_is_left_as_it_came():
    hf = models("llama-gqa")[1].model
    state = [(name, p.is_meta, p.requires_grad) for name, p in hf.named_parameters()]
    assert all(meta and grad for _, meta, grad in state)
    models("llama-gqa")[1].attribute(PROMPT, TEXT, method="saliency", show_progress=False)
    assert [(name, p.is_meta, p.requires_grad) for name, p in hf.named_parameters()] == state


def test_from_disk(tmp_path):
    plain, away = build("gpt2"), disk_offload(build("gpt2"), str(tmp_path), torch.device("cpu"))
    table = away.get_input_embeddings()
    assert table.weight.is_meta and device_of(table) == torch.device("cpu")
    assert torch.equal(weight_of(table), plain.get_input_embeddings().weight)
    assert table.weight.is_meta
    both = [attriflow.load_model(hf, tokenizer=word_tokenizer()) for hf in (plain, away)]
    found = [m.attribute(PROMPT, TEXT, method="value_norm", show_progress=False)[0].scores for m in both]
    torch.testing.assert_close(found[1], found[0], atol=1e-9, rtol=0, equal_nan=True)


def test_another_type_has_to_be_asked_for_where_it_is_loaded():
    with pytest.raises(InputError, match="partly offloaded"):
        attriflow.load_model(models("llama-gqa")[1].model, tokenizer=word_tokenizer(), dtype="float32")
