"""Models on an accelerator, on two, and offloaded: the numbers are those of the CPU, and no more is computed.

Wherever there are real accelerators, these tests run on them. Where there are none, two stand in for them in ordinary
memory, in a process that `test_second_device.py` starts; by hand:

    SECOND_DEVICE=1 pytest tests/properties/test_devices.py tests/properties/test_devices_evaluated.py
"""

from __future__ import annotations

import functools

import pytest
import torch
from models import ENCODER_DECODERS, build
from places import CLOSE, LAYOUTS, foils, needed, present, simulated, texts, wrapped
from words import PROMPT, TEXT, word_tokenizer

import attriflow
from attriflow.engine import gradients
from attriflow.errors import InputError, UnsupportedModelError
from attriflow.evaluation.config import EvaluationConfig
from attriflow.kernels import devices
from attriflow.kernels.devices import free_memory
from attriflow.measuring.batch_search import largest_batch
from attriflow.measuring.cost import PeakMemory, memory_kind
from attriflow.registry import methods, step_functions

pytestmark = needed
METHODS = [name for name in methods.names() if methods.info(name).meta["runs_model"] and not name.startswith("ferret")]
STEPS = [name for name in step_functions.names() if name != "in_context_pvi"]
KINDS = ("gpt2", "llama-gqa", "bart", "t5")
QUICK = {("gpt2", "two"), ("llama-gqa", "half"), ("bart", "swapped"), ("t5", "disk")}
MATRIX = [
    pytest.param(kind, layout, marks=() if (kind, layout) in QUICK else pytest.mark.slow)
    for kind in KINDS
    for layout in LAYOUTS
]


@pytest.fixture(scope="module", autouse=True)
def device():
    with present() as extension:
        yield extension


@functools.cache
def explained(kind, layout, method, fn="probability", steps=()):
    """Each method once per place; with a step function of two texts, and others that are recorded."""
    options = dict(methods.info(method).meta["trial"])
    if kind in ENCODER_DECODERS:
        options["attribute_target"] = True
    if fn != "probability" or steps:
        options["contrast_targets"] = foils(kind)
    model = wrapped(kind, layout)
    return model.attribute(
        *texts(kind), method=method, attributed_fn=fn, step_scores=list(steps), show_progress=False, **options
    )


def agree(kind, layout, *call, **options):
    expected, found = (explained(kind, place, *call, **options) for place in (None, layout))
    for one, other in zip(expected, found, strict=True):
        assert other.scores.device.type == "cpu"
        torch.testing.assert_close(other.scores, one.scores, atol=CLOSE, rtol=CLOSE, equal_nan=True)
        assert set(one.step_scores) == set(other.step_scores)
        for name, values in one.step_scores.items():
            torch.testing.assert_close(other.step_scores[name], values, atol=CLOSE, rtol=CLOSE, equal_nan=True)
        for passes in ("forward_rows", "backward_rows"):  # no shortcut that only works in one place
            assert getattr(other.provenance, passes) == getattr(one.provenance, passes), passes


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("kind", "layout"), MATRIX)
def test_methods(kind, layout, method):
    agree(kind, layout, method)


@pytest.mark.parametrize("layout", ["half", pytest.param("disk", marks=pytest.mark.slow)])
def test_graphs_of_one_block(layout, monkeypatch):
    """Stretches lie where their blocks do."""
    expected = explained("llama-gqa", None, "saliency")
    monkeypatch.setattr(gradients, "blocks_at_once", lambda *_: 1)
    model = wrapped("llama-gqa", layout)
    found = model.attribute(*texts("llama-gqa"), method="saliency", show_progress=False)
    assert model.wrapped.stack_is_chain is True
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other.scores, one.scores, atol=CLOSE, rtol=CLOSE, equal_nan=True)


@pytest.mark.parametrize(("kind", "layout"), MATRIX)
def test_step_functions(kind, layout):
    agree(kind, layout, "dummy", steps=tuple(STEPS))
    agree(kind, layout, "saliency", fn="contrast_prob_diff")


@pytest.mark.slow
@pytest.mark.parametrize("fn", STEPS)
@pytest.mark.parametrize(("kind", "layout"), MATRIX)
def test_explained_step_functions(kind, layout, fn):
    method = "saliency" if step_functions.info(fn).meta.get("differentiable", True) else "occlusion"
    agree(kind, layout, method, fn=fn)


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


@pytest.mark.parametrize(
    "layout", [pytest.param(name, marks=() if name == "two" else pytest.mark.slow) for name in LAYOUTS]
)
def test_batches_of_one_and_single_values(layout):
    """The same texts one by one, and every embedding dimension."""
    for options in (
        {"method": "gradient_shap", "batch_size": 1, "n_samples": 3},
        {"method": "saliency", "granular": True},
    ):
        one, other = (
            wrapped("llama-gqa", place).attribute(*texts("llama-gqa"), seed=2, show_progress=False, **options)
            for place in (None, layout)
        )
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(b.scores, a.scores, atol=CLOSE, rtol=CLOSE, equal_nan=True)


@simulated
def test_what_mixes_devices_fails_here_too():
    with pytest.raises(RuntimeError, match="same device"):
        torch.ones(2, device="sim:0") + torch.ones(2, device="sim:1")


@simulated
def test_two_devices_have_the_parts_that_they_were_given():
    hf = wrapped("gpt2", "two").model
    assert {str(p.device) for p in hf.transformer.h[1].parameters()} == {"sim:1"}
    assert {str(p.device) for p in hf.transformer.h[0].parameters()} == {"sim:0"}
    assert [str(d) for d in wrapped("gpt2", "two").wrapped.devices] == ["sim:0", "sim:1"]
    assert [str(d) for d in wrapped("gpt2", "half").wrapped.devices] == ["sim:0"]
    explained_half = explained("gpt2", "half", "saliency")
    assert explained_half[0].provenance.device == "sim:0, offloaded: cpu"


@simulated
@pytest.mark.slow
def test_the_report_says_where_a_model_is():
    assert wrapped("gpt2", "two").report().devices == ("sim:0", "sim:1")
    report = wrapped("bart", "half").report()
    assert report.devices == ("sim:0", "offloaded: cpu")
    assert set(report.counts) <= {"exact", "refused"}


@simulated
def test_a_device_is_right_when_a_tensor_can_be_made_there():
    assert devices.named("sim:1") == torch.device("sim:1")
    assert devices.best() == devices.accelerator() == torch.device("sim")
    for wrong in ("sim:2", "gpu", "meta", "hpu"):
        with pytest.raises(InputError, match=f"no device '{wrong}' here; use auto, cpu, sim, sim:0, sim:1"):
            devices.named(wrong)
    settings = {"methods": ["saliency"], "device": "sim"}
    assert EvaluationConfig.from_dict(settings, columns=["input"], text_columns=["input"], targets="t").device == "sim"


@simulated
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


@simulated
@pytest.mark.parametrize(
    "layout", ["two", *(pytest.param(x, marks=pytest.mark.slow) for x in ("one", "swapped", "half"))]
)
def test_little_memory_is_worked_within(device, layout):
    """Weights, and little more than one example needs, on every device: batches are halved, the numbers stay."""
    model = wrapped("gpt2", layout)
    prompts, full = ([t[0]] * 8 for t in texts("gpt2"))
    run = functools.partial(
        model.attribute, prompts, full, method="integrated_gradients", n_steps=20, show_progress=False
    )
    expected = run()
    places = model.wrapped.devices
    with PeakMemory(*places) as memory:
        run()
    held = {place: devices.reset_peak(place) for place in places}
    device.limit(int(max(held[place] + 0.4 * memory.by_device[str(place)] * 2**20 for place in places)))
    try:
        found = run()
    finally:
        device.limit(16 << 30)
    assert found[0].provenance.forward_calls > expected[0].provenance.forward_calls
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other.scores, one.scores, atol=1e-9, rtol=0, equal_nan=True)


@simulated
def test_the_largest_batch_is_that_of_the_fullest_device(device):
    model = wrapped("gpt2", "two")
    examples = model.encode(texts("gpt2")[0][:1], texts("gpt2")[1][:1])
    held = max(devices.reset_peak(place) for place in model.wrapped.devices)
    device.limit(held + (1 << 19))
    try:
        found = largest_batch(model, "saliency", {}, examples, most=32)
    finally:
        device.limit(16 << 30)
    assert found.stopped == "memory" and 1 <= found.size < 32


@simulated
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


PLACES = {"model.embed_tokens": 0, "model.rotary_emb": 0, "model.layers": 1, "model.norm": 1, "lm_head": "sim:0"}


@simulated
def test_a_device_map(tmp_path):
    cpu = attriflow.load_model("demo/recall", device="cpu")
    run = functools.partial(
        attriflow.AttributionModel.attribute,
        input_texts="the cat",
        generated_texts="the cat sat",
        method="saliency",
        show_progress=False,
    )
    expected = run(cpu)[0]
    small = {0: "1MB", 1: "1MB", "cpu": "1MB"}
    on_disk = {"device_map": "auto", "max_memory": small, "model_kwargs": {"offload_folder": str(tmp_path)}}
    own = attriflow.load_model("demo/recall", device="cpu").model  # laid over devices once it is loaded
    for source, where, place in (
        ("demo/recall", {"device_map": PLACES}, "sim:0, sim:1"),
        ("demo/recall", on_disk, "sim:0, sim:1, offloaded: disk"),
        (own, {"device_map": "balanced", "max_memory": {**small, "cpu": "9MB"}}, "sim:0, sim:1, offloaded: cpu"),
    ):
        model = attriflow.load_model(source, tokenizer=None if source is not own else cpu.tokenizer, **where)
        found = run(model)[0]
        torch.testing.assert_close(found.scores, expected.scores, atol=1e-6, rtol=1e-5, equal_nan=True)
        assert (found.provenance.device, expected.provenance.device) == (place, "cpu")
    assert attriflow.load_model("demo/recall", device_map="sim:1").device == torch.device("sim:1")  # not moved


@simulated
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"device_map": "nonsense"}, "device_map: there is no device 'nonsense' here; use auto, cpu, sim"),
        ({"device_map": {"": "gpu"}}, "device_map: there is no device 'gpu' here"),
        ({"device_map": {"": 7}}, "device_map: there is no device 'sim:7' here"),
        ({"device_map": [0, 1]}, r"module -> device, not \[0, 1\]"),
        ({"device_map": PLACES, "device": "cpu"}, "both say where the model goes"),
        ({"max_memory": {0: "1GB"}}, "pass that, too"),
        ({"device_map": "auto", "max_memory": {0: "much"}}, "`size` much is not in a valid format"),
        ({"device_map": "auto", "max_memory": {"gpu": "1GB"}}, "Device gpu is not recognized"),
    ],
)
def test_wrong_device_maps_are_one_line(wrong, message):
    own = build("llama-gqa")
    for source, tokenizer in (("demo/recall", None), (own, word_tokenizer())):
        with pytest.raises(InputError, match=message) as error:
            attriflow.load_model(source, tokenizer=tokenizer, **wrong)
        assert len(str(error.value).splitlines()) == 1
    with pytest.raises(InputError, match="over devices already"):
        attriflow.load_model(wrapped("llama-gqa", "two").model, tokenizer=word_tokenizer(), device_map="auto")


@simulated
def test_a_model_that_fails_itself_is_named():
    hf = build("llama-gqa").to("sim:0")
    hf.model.layers[1].to("sim:1")  # and nothing that moves states there
    with pytest.raises(UnsupportedModelError, match="its forward on token ids fails"):
        attriflow.load_model(hf, tokenizer=word_tokenizer()).attribute(PROMPT, TEXT, method="saliency")
