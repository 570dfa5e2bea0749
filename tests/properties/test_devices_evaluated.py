"""Evaluations, contexts, data sets and commands on models over devices: the CPU's values (see `test_devices`)."""

from __future__ import annotations

import dataclasses
import functools
import json

import mlflow
import pandas as pd
import pytest
from models import ENCODER_DECODERS
from places import LAYOUTS, alike, foils, made, needed, present, simulated, texts, wrapped
from words import word_tokenizer

import attriflow
from attriflow import io
from attriflow.cli import main
from attriflow.context import attribute_context
from attriflow.datasets import open_dataset
from attriflow.evaluation.config import EvaluationConfig
from attriflow.evaluation.data import EvaluationData
from attriflow.evaluation.runner import Evaluation
from attriflow.registry import metrics
from attriflow.streaming import Fields, attribute_dataset

pytestmark = needed
METRICS = [name for name in metrics.names() if not name.startswith("ferret")]
QUICK = {("gpt2", "half"), ("bart", "two")}
MATRIX = [
    pytest.param(kind, layout, marks=() if (kind, layout) in QUICK else pytest.mark.slow)
    for kind in ("gpt2", "llama-gqa", "bart", "t5")
    for layout in LAYOUTS
]


@pytest.fixture(scope="module", autouse=True)
def device():
    with present() as extension:
        yield extension


def rows(kind):
    """Two short rows with evidence and foils, and their targets."""
    if kind in ENCODER_DECODERS:
        inputs, targets, others = ["the red house", "the cat"], ["la casa", "el gato"], ["la gato", "el casa"]
    else:
        inputs, targets, others = ["the red cat", "the old man"], ["was old .", "in a"], ["was red .", "on a"]
    return pd.DataFrame({"input": inputs, "rationale": ["[[4, 7]]"] * 2, "contrast_target": others}), targets


@functools.cache
def evaluated(kind, layout=None, *, generated=False):
    """Values by method and metric, of all metrics; of targets that are generated with few."""
    frame, targets = rows(kind)
    names = ["aopc_compr", "soft_nc", "parameter_randomisation"] if generated else METRICS
    settings = {"methods": ["saliency", "occlusion"], "metrics": names, "rationale": "rationale", "throughput": False}
    settings["step_functions"] = ["probability", "kl_divergence"]
    if generated:
        settings["generation_args"] = {"max_new_tokens": 3, "do_sample": True}
    columns = list(frame.columns)
    config = EvaluationConfig.from_dict(
        settings, columns=columns, text_columns=columns, targets=None if generated else "target"
    )
    data = EvaluationData.from_frame(frame, config, None if generated else targets)
    found = Evaluation(wrapped(kind, layout), data, config)
    for _ in found.run():
        pass
    out = {f"step/{s.name}": s.values or s.reason for s in found.step_scores}
    for result in found.results:
        assert result.ok, result.reason
        out |= {f"{result.name}/{name}": [v.values for v in values] for name, values in result.values.items()}
        out |= {f"{result.name}/{name}: why not": why for name, why in result.problems.items()}
    return out


@pytest.mark.parametrize(("kind", "layout"), MATRIX)
def test_every_metric(kind, layout):
    expected = evaluated(kind)
    assert {key.partition("/")[2] for key in expected if "why" not in key} >= set(METRICS)
    assert not any("randomise" in str(value) for value in expected.values())
    alike(evaluated(kind, layout), expected)
    alike(evaluated(kind, layout, generated=True), evaluated(kind, generated=True))


@functools.cache
def in_context(kind, layout=None, **options):
    if kind in ENCODER_DECODERS:
        given = ("the red house", "the old man")
        options |= {"output_current_text": "la casa", "output_context_text": "el gato"}
    else:
        given = ("the red cat in", "the old man .")
        options |= {"output_current_text": "the house"}
    found = attribute_context(
        wrapped(kind, layout), *given, context_sensitivity_topk=2, attribution_topk=2, show_progress=False, **options
    )
    return [{k: v for k, v in dataclasses.asdict(one).items() if k != "info"} for one in found]


@pytest.mark.parametrize(("kind", "layout"), MATRIX)
def test_contexts(kind, layout):
    for options in ({}, {"attribution_method": "integrated_gradients", "attributed_fn": "contrast_prob_diff"}):
        alike(in_context(kind, layout, **options), in_context(kind, **options))


@pytest.mark.parametrize(("kind", "layout"), MATRIX)
def test_data_sets_and_aggregation(kind, layout, tmp_path):
    data, found = tmp_path / "data.jsonl", []
    lines = zip(*texts(kind), foils(kind), strict=True)
    data.write_text("".join(json.dumps(dict(zip("itf", line, strict=True))) + "\n" for line in lines))
    fields = Fields(inputs="i", targets="t", contrast_targets="f")
    for n, place in enumerate((None, layout)):
        explain = functools.partial(
            wrapped(kind, place).attribute, method="occlusion", attributed_fn="contrast_prob_diff", show_progress=False
        )
        out = tmp_path / f"{n}.jsonl"
        attribute_dataset(open_dataset(str(data)), lambda explain=explain: explain, output=out, window=1, fields=fields)
        read = io.load(out)
        found.append([[a.scores.tolist(), a.aggregate("subwords").scores.tolist()] for a in read])
    alike(found[1], found[0])


# -- MLflow and the command line --------------------------------------------------------------------------------------

MAP = {"model.embed_tokens": 1, "model.rotary_emb": 1, "model.layers": 0, "model.norm": "cpu", "lm_head": 1}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@simulated
def test_a_logged_model_is_laid_over_devices_and_put_back(store):
    mlflow.set_tracking_uri(store)
    with mlflow.start_run():
        uri = attriflow.log_model(made("llama-gqa"), word_tokenizer()).model_uri
    frame, targets = rows("llama-gqa")
    model = mlflow.pyfunc.load_model(uri)
    with mlflow.start_run() as run:
        done = mlflow.models.evaluate(
            model,
            frame[["input"]].assign(target=targets),
            targets="target",
            model_type="text-attribution",
            evaluators="attriflow",
            evaluator_config={
                "methods": ["saliency"],
                "metrics": ["aopc_compr"],
                "step_functions": ["probability"],
                "device_map": MAP,
                "max_memory": {0: "1GB", 1: "1GB", "cpu": "1GB"},
                "throughput": False,
            },
        )
    expected = [sum(values) / len(values) for values in evaluated("llama-gqa")["saliency/aopc_compr"]]
    alike(done.metrics["saliency/aopc_compr"], sum(expected) / len(expected))
    hf = model.unwrap_python_model().model
    assert {str(p.device) for p in hf.parameters()} == {"cpu"} and not hasattr(hf, "hf_device_map")
    logged = mlflow.get_run(run.info.run_id).data
    assert logged.tags["attriflow.device"] == "sim:1, sim:0"
    assert json.loads(logged.params["attriflow.device_map"]) == MAP
    loaded = attriflow.load_model(uri, device_map=MAP)
    assert loaded.attribute("the", "the cat", method="saliency")[0].provenance.device == "sim:1, sim:0, offloaded: cpu"


@simulated
def test_commands(store, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def shown(*arguments):
        with pytest.raises(SystemExit) as done:
            main(list(arguments))
        assert not done.value.code
        return " ".join(capsys.readouterr().out.split())

    data = ["demo/recall", "--targets", "target", "--methods", "saliency", "--max-examples", "2"]
    where = ["--device", "sim:1", "--tracking-uri", store]
    assert "peak" in shown("evaluate", "demo/recall", *data, "--metrics", "aopc_compr", *where)
    options = ["--seconds", "0.1", "--batch-seconds", "0.1", "--largest-batch", "2", "--no-log", "--output", "b.json"]
    over = ["--device-map", json.dumps({**MAP, "model.norm": 0})]
    table = shown("benchmark", "-m", "demo/recall", "-d", *data, *over, *options)
    assert "sim:1, sim:0" in table and "sum of 2 devices" in table
    (entry,) = json.loads((tmp_path / "b.json").read_text())["benchmarks"]
    assert set(entry["extra_info"]["peak_memory_mb_by_device"]) == {"sim:0", "sim:1"}
