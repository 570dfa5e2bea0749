"""Models whose weights accelerate keeps elsewhere between forwards: every method gives the plain model's numbers."""

import functools

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from models import build
from words import PROMPT, SOURCE, TARGET, TEXT, word_tokenizer

import attriflow
from attriflow.errors import InputError
from attriflow.evaluation.changes import random_parameters, stages
from attriflow.methods._neighbours import neighbours
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


def places(kind, tmp_path):
    """Models with the same weights in different places; the table of tokens is also that of the head."""
    parts = ("transformer.wte", "transformer.wpe", "transformer.drop", "transformer.h.0", "lm_head")
    laid = {**dict.fromkeys(parts, "cpu"), "transformer.h.1": "disk", "transformer.ln_f": "disk"}
    if kind == "memory":
        return cpu_offload(build("gpt2"), torch.device("cpu"))
    if kind == "disk":
        return disk_offload(build("gpt2"), str(tmp_path), torch.device("cpu"))
    return dispatch_model(build("gpt2"), laid, main_device="cpu", offload_dir=str(tmp_path), force_hooks=True)


@pytest.mark.parametrize("kind", ["memory", "disk", "parts"])
def test_weights_are_drawn_anew_wherever_they_are(kind, tmp_path):
    """The same weights once each, tied ones together; afterwards the model is what it was."""
    plain, away = build("gpt2"), places(kind, tmp_path)
    attriflow.load_model(away, tokenizer=word_tokenizer())
    names = [[[w.name for w in stage] for stage in stages(hf)] for hf in (plain, away)]
    assert names[0] == names[1]
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        before = plain(ids).logits
        for share in (0.3, 0.6, 1.0):
            with random_parameters(plain, share, 0), random_parameters(away, share, 0):
                drawn = plain(ids).logits
                torch.testing.assert_close(away(ids).logits, drawn)
                assert not torch.allclose(drawn, before, atol=1e-2)
            torch.testing.assert_close(away(ids).logits, before)


def test_what_nothing_is_known_of_cannot_be_drawn_anew():
    lost = torch.nn.Linear(2, 2, device="meta")
    message = "'weight' cannot be randomised: it is not in memory"
    with pytest.raises(InputError, match=message), random_parameters(lost, 1.0, 0):
        pass


def test_weights_from_disk_are_not_taken_for_shared_ones(tmp_path):
    """accelerate knows these by their address, where by then another may lie."""
    away = places("parts", tmp_path)
    attriflow.load_model(away, tokenizer=word_tokenizer())
    hooks = [h for m in away.modules() if (h := getattr(m, "_hf_hook", None)) is not None and h.offload]
    assert hooks and all(h.tied_params_map is None and not h.tied_params_names for h in hooks)


def test_neighbours_are_those_of_the_table_that_is_brought():
    model = models("llama-gqa")[1].wrapped
    ids, again = torch.tensor([5, 6, 7]), []
    again.append(neighbours(model, "target", ids, 5))
    with random_parameters(model.hf, 1.0, 0):
        again.append(neighbours(model, "target", ids, 5))
    again.append(neighbours(model, "target", ids, 5))
    assert torch.equal(again[0], again[2]) and not torch.equal(again[0], again[1])
