"""`model.report()` and `attriflow inspect`: what they say is so."""

from __future__ import annotations

import dataclasses
import io
import json

import pytest
import torch
from architectures import build
from rich.console import Console

import attriflow
from attriflow.cli import main
from attriflow.engine import Engine, Scores
from attriflow.measuring.inspection import COMPARED, ModelReport
from attriflow.registry import methods
from attriflow.views.inspection import model_report


@pytest.fixture(scope="module", params=["demo/recall", "demo/translate"])
def report(request) -> ModelReport:
    return attriflow.load_model(request.param, device="cpu").report()


def text_of(report: ModelReport) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(model_report(report))
    return console.export_text()


def test_every_method_is_exact_on_the_demo_models(report):
    assert [m.name for m in report.methods] == methods.names()
    assert {m.name: m.detail for m in report.methods if m.state != "exact"} == {}
    assert {m.detail for m in report.methods} == set(COMPARED) == set(report.compared)
    assert all(m.difference < 1e-3 for m in report.methods) and report.seconds < 60


def test_facts_are_those_of_the_model(report):
    model = attriflow.load_model(report.name, device="cpu")
    assert report.architecture == type(model.model).__name__
    assert report.precision == {"float32": sum(p.numel() for p in model.model.parameters())}
    assert report.devices == ("cpu",) and report.kind.startswith("encoder" if model.is_encoder_decoder else "decoder")
    found = report.tokenizer
    assert (found.kind, found.size, found.embeddings) == ("WordLevel", len(model.tokenizer), model.wrapped.vocab_size)
    assert found.special["unk"] == found.absent == (model.tokenizer.unk_token, model.tokenizer.unk_token_id)
    assert found.adds == ({"after": (model.tokenizer.eos_token,)} if model.is_encoder_decoder else {})
    assert {f.state for f in report.check} == {"ok"}


def test_what_is_printed_names_all_of_it(report):
    text = text_of(report)
    for word in (report.name, report.architecture, *methods.names(), *(f.name for f in report.check), *COMPARED):
        assert word in text, word


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_model_is_named_and_exact(backend):
    tiny = build("causal:llama")
    torch._dynamo.reset()
    found = attriflow.load_model(torch.compile(tiny.model, backend=backend), tokenizer=tiny.tokenizer, device="cpu")
    report = found.report()
    assert report.architecture == "LlamaForCausalLM in torch.compile"
    faults = {m.name: m for m in report.methods if m.state in ("differs", "error")}
    assert not faults and report.counts["exact"] >= len(report.methods) - 3


def test_what_cannot_be_done_has_its_reason():
    tiny = build("causal:mamba")
    report = attriflow.load_model(tiny.model, tokenizer=tiny.tokenizer, device="cpu").report()
    states = {m.name: m for m in report.methods}
    assert states["attention"].state == "refused" and "attention" in states["attention"].detail
    assert states["saliency"].state == states["occlusion"].state == "exact"
    assert states["attention"].detail in " ".join(text_of(report).split())


def test_a_model_that_is_refused_is_reported_all_the_same():
    tiny = build("causal:bert")
    tiny.model.config.is_decoder = False
    for module in tiny.model.modules():
        if hasattr(module, "is_decoder"):
            module.is_decoder = module.is_causal = False
    report = attriflow.load_model(tiny.model, tokenizer=tiny.tokenizer, device="cpu").report()
    assert "refused" in {f.state for f in report.check if f.name == "causality"}
    assert report.counts == {"refused": len(report.methods)}


def test_a_method_that_is_wrong_is_told_from_one_that_is_right():
    """A stranger's method that looks at the whole text, and one that breaks."""

    @dataclasses.dataclass(frozen=True)
    class Peeking:
        """Scores that depend on how many steps there are."""

        def __call__(self, engine: Engine) -> Scores:
            n = engine.batch.n_steps
            return Scores({b: engine.visible(b) * float(n) for b in engine.blocks})

    @dataclasses.dataclass(frozen=True)
    class Breaking:
        """An error of a stranger."""

        def __call__(self, engine: Engine) -> Scores:
            raise ZeroDivisionError("no")

    facts = {"family": "control", "cost": "nothing", "axes": "step, input", "deterministic": True, "signed": False}
    attriflow.register_method(identifier="peeking", **facts)(Peeking)
    attriflow.register_method(identifier="breaking", **facts)(Breaking)
    states = {m.name: m for m in attriflow.load_model("demo/recall", device="cpu").report().methods}
    assert (states["peeking"].state, states["peeking"].difference) == ("differs", 2.0)
    assert (states["breaking"].state, states["breaking"].detail) == ("error", "ZeroDivisionError: no")


def test_json_of_the_command_is_that_of_the_report(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["inspect", "demo/recall", "--device", "cpu", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert not stop.value.code
    assert set(found) == {f.name for f in dataclasses.fields(ModelReport)}
    assert {m["name"]: m["state"] for m in found["methods"]} == dict.fromkeys(methods.names(), "exact")
    assert found["tokenizer"]["special"]["unk"] == ["<unk>", 2] and found["check"][0]["state"] == "ok"


def test_a_model_that_is_not_there_is_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["inspect", "demo/recal"])
    assert stop.value.code == 1 and len(capsys.readouterr().err.strip().splitlines()) == 1
