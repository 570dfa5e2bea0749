"""Scorers of explanations in `mlflow.genai.evaluate`, on a demo model and a local store."""

from __future__ import annotations

import mlflow
import pandas as pd
import pytest
from fresh import run_fresh

import attriflow
from attriflow.demo import load_demo_dataset
from attriflow.errors import AttriflowError
from attriflow.tracking import genai
from attriflow_metrics.ferret import ferret_available

pytest.importorskip("mlflow.genai.scorers", reason="this MLflow has no mlflow.genai")
pytestmark = pytest.mark.skipif(not ferret_available(), reason="ferret is not installed")


@pytest.fixture(scope="module")
def model():
    return attriflow.load_model("demo/recall")


@pytest.fixture
def rows():
    return load_demo_dataset("recall").head(3)


def evaluated(rows, scorer, **options):
    """The result table of `mlflow.genai.evaluate`, or a skip where this MLflow evaluates on Databricks only."""
    try:
        return mlflow.genai.evaluate(data=rows, scorers=[scorer], **options)
    except (ImportError, mlflow.MlflowException) as error:
        if "databricks" in str(error).lower():
            pytest.skip(f"mlflow {mlflow.__version__}: {error}")
        raise


def evaluator_means(model, rows, method, metrics):
    """What the evaluator plugin's own machinery says about the same rows: metric -> mean per example."""
    from attriflow.evaluation.config import EvaluationConfig
    from attriflow.evaluation.data import EvaluationData
    from attriflow.evaluation.runner import Evaluation

    features = rows[["input", "rationale"]]
    config = EvaluationConfig.from_dict(
        {"methods": [method], "metrics": metrics, "step_functions": [], "rationale": "rationale", "throughput": False},
        columns=list(features), targets="target",
    )  # fmt: skip
    evaluation = Evaluation(model, EvaluationData.from_frame(features, config, list(rows["target"])), config)
    for _ in evaluation.run():
        pass
    return {name: [v.mean for v in values] for name, values in evaluation.results[0].values.items()}


def test_one_line_and_a_model_that_others_may_use(model, rows, capfd):
    hf, seen = model.model, []
    before = {name: (id(p), p.requires_grad) for name, p in hf.named_parameters()}
    scorer = genai.evidence(model, method="deeplift", metrics=["aopc_compr"])
    for module in hf.modules():
        module.register_forward_pre_hook(lambda *_: seen.append(1))
    hooks = [(module, handle) for module in hf.modules() for handle in module._forward_pre_hooks.values()]
    try:
        for text, answer in zip(rows["input"], rows["target"], strict=True):
            scorer(inputs={"question": text}, outputs=answer)
    finally:
        for module, _ in hooks:
            module._forward_pre_hooks.clear()
    assert not seen  # no pass goes through the user's modules
    assert {name: (id(p), p.requires_grad) for name, p in hf.named_parameters()} == before
    said = [line for line in capfd.readouterr().err.splitlines() if "explains" in line or "plan" in line]
    assert said == ["deeplift: deeplift explains every output, judged by aopc_compr"]


def test_generation_and_scores_end_to_end(model, rows, store):
    data = [
        {"inputs": {"question": text}, "expectations": {"rationale": spans}}
        for text, spans in zip(rows["input"], rows["rationale"], strict=True)
    ]
    metrics = ["aopc_compr", "auprc_plau"]
    scorer = genai.evidence(model, method="occlusion", metrics=metrics, top=2)
    result = evaluated(data, scorer, predict_fn=genai.generator(model, prompt="question"))
    wanted = evaluator_means(model, rows, "occlusion", metrics)  # the model answers all three as the data do
    for metric in metrics:
        logged = result.metrics[f"occlusion/{metric}/mean"]
        assert logged == pytest.approx(sum(wanted[metric]) / 3)
        assert mlflow.get_run(result.run_id).data.metrics[f"occlusion/{metric}/mean"] == pytest.approx(logged)
    traces = mlflow.search_traces(return_type="list")
    by_question = {}
    for trace in traces:
        found = {a.name: a for a in trace.info.assessments}
        if "occlusion/aopc_compr" in found:
            by_question[trace.data.request] = found
    assert len(by_question) == 3
    for i, row in enumerate(rows.to_dict("records")):
        found = next(v for k, v in by_question.items() if row["input"] in k)
        for metric in metrics:
            assert found[f"occlusion/{metric}"].value == pytest.approx(wanted[metric][i])
        judged = found["occlusion/aopc_compr"]
        assert int(judged.metadata["n_tokens"]) == len(row["target"].split())
        lines = judged.rationale.splitlines()
        assert [line.split(":")[0] for line in lines] == row["target"].split()
        assert all(line.count(",") == 1 for line in lines)


def test_given_outputs_and_a_bad_explanation(model, rows, store):
    """Random scores name worse evidence than occlusion does, and the scorer says so."""
    data = pd.DataFrame({"inputs": [{"q": t} for t in rows["input"]], "outputs": list(rows["target"])})
    means = {}
    for method in ("occlusion", "random"):
        result = evaluated(data, genai.evidence(model, method=method, metrics="aopc_compr", name=f"by_{method}"))
        means[method] = result.metrics[f"by_{method}/aopc_compr/mean"]
    assert means["occlusion"] > means["random"] + 0.1


def test_a_scorer_alone(model, rows):
    score = genai.evidence(model, method="occlusion", metrics=["aopc_compr", "auprc_plau"])
    text, target = rows["input"][0], rows["target"][0]
    compr, plausibility = score(inputs={"q": text}, outputs=target)
    assert compr.name == "occlusion/aopc_compr" and 0 < compr.value <= 1
    assert plausibility.value is None and "no rationale" in plausibility.error.error_message
    nested = genai.evidence(
        model, method="occlusion", metrics="aopc_compr", prompt=lambda inputs: inputs["messages"][0], answer="text"
    )
    (same,) = nested(inputs={"messages": [text]}, outputs={"text": target, "tone": "calm"})
    assert same.value == pytest.approx(compr.value)


def test_chats_and_spans_have_the_numbers_of_their_texts(model, rows, monkeypatch):
    monkeypatch.setattr(model.tokenizer, "chat_template", "{% for m in messages %}{{ m['content'] }}{% endfor %}")
    text, spans = rows["input"][0], rows["rationale"][0]
    chat = [{"role": "user", "content": [{"type": "text", "text": text}]}]
    reply = {"role": "assistant", "content": "blue"}
    score = genai.evidence(model, method="occlusion", metrics=["deletion_auc", "pointing_game"])
    given = {"expectations": {"rationale": spans}}
    wanted = [f.value for f in score(inputs={"q": text}, outputs=" blue", **given)]
    for inputs in ({"messages": chat}, {"messages": chat, "id": "7"}):
        for outputs in (" blue", {"choices": [{"message": {**reply, "content": " blue"}}]}):
            assert [f.value for f in score(inputs=inputs, outputs=outputs, **given)] == pytest.approx(wanted)
    assert genai.generator(model, max_new_tokens=1)(messages=chat) == genai.generator(model, max_new_tokens=1)(q=text)
    whole = genai.evidence(model, method="occlusion", metrics="deletion_auc", target_spans="all")
    (one,) = whole(inputs={"q": text}, outputs="blue is blue .")
    assert one.metadata["n_tokens"] == "1" and one.rationale.startswith("blue is blue .: ")


def registered_scorer(rows, monkeypatch):
    """The feedback of a scorer, which is registered under another name."""
    if not hasattr(mlflow.genai.scorers.Scorer, "register"):
        pytest.skip(f"mlflow {mlflow.__version__} registers no scorers")
    monkeypatch.setenv("MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS", "true")
    made = genai.evidence("demo/recall", method="lime", metrics="deletion_auc", method_options={"n_samples": 4}, top=1)
    assert made.register(name="kept").name == "kept"
    (feedback,) = made(inputs={"q": rows["input"][0]}, outputs=rows["target"][0])
    return feedback


def test_a_registered_scorer_comes_back(rows, store, monkeypatch, model):
    wanted = registered_scorer(rows, monkeypatch)
    opened, load = [], attriflow.load_model
    monkeypatch.setattr("attriflow.model.load_model", lambda *a, **k: opened.append(a[0]) or load(*a, **k))
    back = mlflow.genai.scorers.get_scorer(name="kept")
    assert not opened
    for _ in range(2):
        (found,) = back.run(inputs={"q": rows["input"][0]}, outputs=rows["target"][0])
        assert (found.name, found.value) == ("kept/deletion_auc", pytest.approx(wanted.value))
        assert found.rationale == wanted.rationale
    assert opened == ["demo/recall"]  # once
    for what, made in {
        "model": genai.evidence(model, method="saliency"),
        "prompt": genai.evidence("demo/recall", prompt=lambda inputs: inputs["q"]),
    }.items():
        with pytest.raises(AttriflowError, match=f"cannot register a scorer whose {what} only this process has"):
            made.register()


@pytest.mark.sweep
def test_a_registered_scorer_comes_back_in_another_process(rows, store, monkeypatch, tmp_path):
    wanted = registered_scorer(rows, monkeypatch)
    experiment = mlflow.get_experiment_by_name("test").experiment_id
    script = f"""
import os
os.environ["MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS"] = "true"
import mlflow
mlflow.set_tracking_uri({store!r})
scorer = mlflow.genai.scorers.get_scorer(name="kept", experiment_id={experiment!r})
(found,) = scorer.run(inputs={{"q": {rows["input"][0]!r}}}, outputs={rows["target"][0]!r})
print(found.name, found.value)
"""
    done = run_fresh(script, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    name, value = done.stdout.split()[-2:]
    assert (name, float(value)) == ("kept/deletion_auc", pytest.approx(wanted.value))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: genai.evidence(m, method="oclusion"), "did you mean 'occlusion'"),
        (lambda m: genai.evidence(m, metrics="aopc"), "unknown metric 'aopc'"),
        (lambda m: genai.evidence(m, method="lime", method_options={"n": 3}), "unknown option"),
        (lambda m: genai.evidence(m, top=-1), "top must be at least 0"),
        (lambda m: genai.evidence(m)(inputs={"a": "x", "b": "y"}, outputs="z"), "inputs has 2 texts.*a, b"),
        (lambda m: genai.evidence(m, prompt="c")(inputs={"a": "x"}, outputs="z"), "no 'c' in inputs; there are a"),
        (lambda m: genai.evidence(m)(inputs={"a": "x"}, outputs=3), "the answer in outputs must be a text.*not 3"),
        (lambda m: genai.evidence(m)(inputs={"a": "who ?"}, outputs=" "), "must be a text that is not empty"),
    ],
)
def test_mistakes_are_named(model, call, message):
    with pytest.raises(AttriflowError, match=message):
        call(model)
