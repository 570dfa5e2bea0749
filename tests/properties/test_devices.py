"""Models on an accelerator, on two, and half offloaded: the numbers are those of the CPU, and no more is computed.

Where there is no accelerator, two stand in for it in ordinary memory (see `second_device`). They must be there before
the first gradient of a process, so these tests have one to themselves, which `test_second_device.py` starts; the whole
matrix: SECOND_DEVICE=1 pytest tests/properties/test_devices.py
"""

from __future__ import annotations

import functools
import os

import pytest
import second_device
import torch
from models import ENCODER_DECODERS, build
from words import PROMPT, SOURCE, TARGET, TEXT, word_tokenizer

import attriflow
from attriflow.errors import InputError, UnsupportedModelError
from attriflow.evaluation.config import EvaluationConfig
from attriflow.kernels import devices
from attriflow.measuring.batch_search import free_memory
from attriflow.measuring.cost import PeakMemory, memory_kind
from attriflow.registry import methods, step_functions

pytestmark = pytest.mark.skipif(
    os.environ.get("SECOND_DEVICE") != "1", reason="run by test_second_device.py in a process of its own"
)
METHODS = [name for name in methods.names() if methods.info(name).meta["runs_model"] and not name.startswith("ferret")]
STEPS = step_functions.names()
LAYOUTS = {
    "one": lambda hf: hf.to("sim:1"),
    "two": lambda hf: second_device.laid_over(hf, "sim:0", "sim:1"),
    "swapped": lambda hf: second_device.laid_over(hf, "sim:1", "sim:0"),
    "half": lambda hf: second_device.laid_over(hf, "sim:0", "cpu"),
}
QUICK = {("gpt2", "two"), ("bart", "two")}
MATRIX = [
    pytest.param(kind, layout, marks=() if (kind, layout) in QUICK else pytest.mark.slow)
    for kind in ("gpt2", "llama-gqa", "bart", "t5")
    for layout in LAYOUTS
]


@pytest.fixture(scope="module", autouse=True)
def device():
    try:
        second_device.registered()
    except second_device.UnavailableError as error:
        pytest.skip(str(error))
    with second_device.present() as extension:
        yield extension


@functools.cache
def wrapped(kind: str, layout: str | None = None):
    hf = build(kind) if layout is None else LAYOUTS[layout](build(kind))
    model = attriflow.load_model(hf, tokenizer=word_tokenizer())
    # what is found out once per model, by passes that count
    model.attribute(*texts(kind), method="sequential_integrated_gradients", n_steps=2, show_progress=False)
    return model


def texts(kind: str):
    long = [TEXT, "the old man and the cat in a blue house on a red dog was in the house and old . the cat"]
    if kind in ENCODER_DECODERS:
        return [SOURCE, PROMPT], [TARGET, "el gato"]
    return [PROMPT, "the old man and the cat in a blue house on a red dog was"], long


def agree(kind, layout, **options):
    expected, found = (
        wrapped(kind, place).attribute(*texts(kind), show_progress=False, **options) for place in (None, layout)
    )
    for one, other in zip(expected, found, strict=True):
        assert other.scores.device.type == "cpu"
        torch.testing.assert_close(other.scores, one.scores, atol=1e-9, rtol=0, equal_nan=True)
        assert set(one.step_scores) == set(other.step_scores)
        for name, values in one.step_scores.items():
            torch.testing.assert_close(other.step_scores[name], values, atol=1e-9, rtol=0, equal_nan=True)
        for passes in ("forward_rows", "backward_rows"):  # no shortcut that only works in one place
            assert getattr(other.provenance, passes) == getattr(one.provenance, passes), passes


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("kind", "layout"), MATRIX)
def test_methods(kind, layout, method):
    target = {"attribute_target": True} if kind in ENCODER_DECODERS else {}
    agree(kind, layout, method=method, **target, **methods.info(method).meta["trial"])


@pytest.mark.parametrize(("kind", "layout"), MATRIX)
def test_step_functions(kind, layout):
    foils = {"contrast_targets": [t.replace("old", "red").replace("gato", "casa") for t in texts(kind)[1]]}
    agree(kind, layout, method="dummy", step_scores=[s for s in STEPS if s != "in_context_pvi"], **foils)
    agree(kind, layout, method="saliency", attributed_fn="contrast_prob_diff", contrast_force_inputs=True, **foils)


@pytest.mark.parametrize(("kind", "layout"), MATRIX)
def test_generated_and_sampled_targets(kind, layout):
    for arguments in ({"max_new_tokens": 4}, {"max_new_tokens": 8, "do_sample": True}, {"num_beams": 2}):
        one, other = (
            wrapped(kind, place).attribute(
                texts(kind)[0], method="dummy", seed=5, show_progress=False, generation_args=arguments
            )
            for place in (None, layout)
        )
        assert [[t.id for t in a.targets] for a in one] == [[t.id for t in a.targets] for a in other]


def test_what_mixes_devices_fails_here_too():
    with pytest.raises(RuntimeError, match="same device"):
        torch.ones(2, device="sim:0") + torch.ones(2, device="sim:1")


def test_two_devices_have_the_parts_that_they_were_given():
    hf = wrapped("gpt2", "two").model
    assert {str(p.device) for p in hf.transformer.h[1].parameters()} == {"sim:1"}
    assert {str(p.device) for p in hf.transformer.h[0].parameters()} == {"sim:0"}
    assert [str(d) for d in wrapped("gpt2", "two").wrapped.devices] == ["sim:0", "sim:1"]
    assert [str(d) for d in wrapped("gpt2", "half").wrapped.devices] == ["sim:0"]
    assert wrapped("gpt2", "two").report().devices == ("sim:0", "sim:1")


def test_a_device_is_right_when_a_tensor_can_be_made_there():
    assert devices.named("sim:1") == torch.device("sim:1")
    assert devices.best() == devices.accelerator() == torch.device("sim")
    for wrong in ("sim:2", "gpu", "meta", "hpu"):
        with pytest.raises(InputError, match=f"no device '{wrong}' here; use auto, cpu, sim, sim:0, sim:1"):
            devices.named(wrong)
    settings = {"methods": ["saliency"], "device": "sim"}
    assert EvaluationConfig.from_dict(settings, columns=["input"], text_columns=["input"], targets="t").device == "sim"


def test_memory_is_counted_on_every_device():
    places = torch.device("sim:0"), torch.device("sim:1")
    with PeakMemory(*places) as memory:
        made = [torch.ones(2**20, device=place) for place in places]
        del made
        torch.ones(2**19, device="sim:0")
    assert memory.by_device == {"sim:0": 4.0, "sim:1": 4.0}
    assert memory.megabytes == 8
    assert "sum of 2 devices" in memory_kind(*places)
    before = free_memory(places[1])
    held = torch.ones(2**20, device="sim:1")
    assert before - free_memory(places[1]) == 4 * held.numel()
    assert devices.about(places[0])["device_name"] == "a device in ordinary memory"


def test_little_memory_is_worked_within(device):
    """Weights, and little more than one example needs: batches are halved, the numbers stay."""
    model = wrapped("gpt2", "one")
    prompts, full = ([t[0]] * 16 for t in texts("gpt2"))
    run = functools.partial(model.attribute, prompts, full, method="integrated_gradients", show_progress=False)
    expected = run()
    place = torch.device("sim:1")
    held = devices.reset_peak(place)
    run()
    device.limit(held + int(0.4 * (devices.peak(place) - held)))
    try:
        found = run()
    finally:
        device.limit(16 << 30)
    assert found[0].provenance.forward_calls > expected[0].provenance.forward_calls
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other.scores, one.scores, atol=1e-9, rtol=0, equal_nan=True)


def test_generators_of_accelerators_are_left_alone():
    before = [torch.sim.get_rng_state(i) for i in range(2)] + [torch.get_rng_state()]
    wrapped("gpt2", "two").attribute(
        texts("gpt2")[0], method="dummy", show_progress=False, generation_args={"do_sample": True}
    )
    wrapped("gpt2", "two").attribute(
        *texts("gpt2"), method="dummy", step_scores=["mc_dropout_prob_avg"], show_progress=False
    )
    after = [torch.sim.get_rng_state(i) for i in range(2)] + [torch.get_rng_state()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_device_map():
    places = {"model.embed_tokens": 0, "model.rotary_emb": 0, "model.layers": 1, "model.norm": 1, "lm_head": "sim:0"}
    both = [attriflow.load_model("demo/recall", **where) for where in ({"device_map": places}, {"device": "cpu"})]
    found, expected = (m.attribute("the cat", "the cat sat", method="saliency", show_progress=False)[0] for m in both)
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-6, rtol=1e-5, equal_nan=True)
    assert (found.provenance.device, expected.provenance.device) == ("sim:0, sim:1", "cpu")
    assert attriflow.load_model("demo/recall", device_map="sim:1").device == torch.device("sim:1")  # not moved
    for wrong, message in (
        ({"device_map": "nonsense"}, "cannot load the model.*nonsense"),
        ({"device_map": {"": "gpu"}}, "cannot load the model"),
        ({"device_map": places, "device": "cpu"}, "both say where the model goes"),
    ):
        with pytest.raises(InputError, match=message):
            attriflow.load_model("demo/recall", **wrong)
    with pytest.raises(InputError, match="loaded already"):
        attriflow.load_model(both[0].model, tokenizer=word_tokenizer(), device_map="auto")


def test_a_model_that_fails_itself_is_named():
    hf = build("llama-gqa").to("sim:0")
    hf.model.layers[1].to("sim:1")  # and nothing that moves states there
    with pytest.raises(UnsupportedModelError, match="its forward on token ids fails"):
        attriflow.load_model(hf, tokenizer=word_tokenizer()).attribute(PROMPT, TEXT, method="saliency")
