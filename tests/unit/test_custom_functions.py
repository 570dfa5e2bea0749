"""Step functions of the user's own: registered, decorated, given as objects, or named by module or file."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import torch

import attriflow
from attriflow.errors import AttriflowError, UnknownNameError
from attriflow.registry import methods, step_functions

PROMPT, FULL = "ki nakol temo", "ki nakol temo pari mitemi kana"
SOURCE = '''
"""A file of my own."""
import attriflow

def confidence(forward, *, power: float = 1.0):
    """Largest probability."""
    return forward.log_probs().exp().amax(-1) ** power

@attriflow.register_step_function(identifier="my_gap", unit="logit", span="mean", stepwise=True)
def gap(forward):
    """Target minus mean logit."""
    return forward.of_target(forward.logits) - forward.logits.mean(-1)

NOT_A_FUNCTION = 3
'''


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my_functions.py"
    path.write_text(SOURCE)
    return path


def explain(m, fn, method="saliency", **options):
    return m.attribute(PROMPT, FULL, method=method, attributed_fn=fn, show_progress=False, **options)[0]


def test_registered(golden_model):
    def half(forward, *, factor: float = 0.5):
        """Part of the probability."""
        return factor * forward.of_target(forward.log_probs()).exp()

    m = golden_model("gpt2")
    assert attriflow.register_step_function(half, "half", unit="probability") is half
    assert "half" in attriflow.list_step_functions()
    plain = explain(m, "probability").scores
    torch.testing.assert_close(explain(m, "half").scores, plain / 2, equal_nan=True)
    torch.testing.assert_close(explain(m, "half", factor=0.25).scores, plain / 4, equal_nan=True)
    torch.testing.assert_close(explain(m, half).scores, plain / 2, equal_nan=True)
    out = explain(m, "probability", step_scores=["half", "probability"], step_scores_args={"factor": 0.1})
    torch.testing.assert_close(out.step_scores["half"], out.step_scores["probability"] / 10)
    with pytest.raises(AttriflowError, match="already registered"):
        attriflow.register_step_function(lambda forward: forward.logits, "half")
    attriflow.register_step_function(lambda forward: forward.of_target(forward.logits), "half", overwrite=True)
    torch.testing.assert_close(explain(m, "half").scores, explain(m, "logits").scores, equal_nan=True)


def test_decorated(golden_model):
    @attriflow.register_step_function(identifier="second", aggregate_map={"spans": "max"}, stepwise=True)
    def second(forward):
        """Probability of the second likeliest token."""
        return forward.log_probs().exp().topk(2).values[..., 1]

    @attriflow.register_step_function()
    def third(forward):
        return forward.log_probs().exp().topk(3).values[..., 2]

    info = step_functions.info("second")
    assert info.summary == "Probability of the second likeliest token."
    assert info.meta["aggregate_map"] == {"spans": "max"}
    m = golden_model("gpt2")
    out = explain(m, "second", step_scores=["second", "third"])
    assert (out.step_scores["second"] >= out.step_scores["third"]).all()
    assert out.scores.nan_to_num().abs().max() > 0


@pytest.mark.parametrize("method", ["saliency", "integrated_gradients", "occlusion", "deeplift", "kernel_shap"])
def test_every_kind_of_method(golden_model, method):
    """As a plain callable: no promise is made about it, and the numbers are those of the built-in function."""
    options = {k: 5 for k in ("n_steps", "n_samples") if k in methods.info(method).options}
    m = golden_model("bart")
    call = {"method": method, "show_progress": False, "attribute_target": True, **options}

    def own(forward):
        return forward.of_target(forward.logits)

    mine = m.attribute(PROMPT, "pari mitemi", attributed_fn=own, **call)[0].scores
    torch.testing.assert_close(
        mine, m.attribute(PROMPT, "pari mitemi", attributed_fn="logits", **call)[0].scores,
        equal_nan=True, atol=1e-10, rtol=1e-8,
    )  # fmt: skip


def test_named_by_file(golden_model, file):
    m = golden_model("gpt2")
    name = f"{file}:confidence"
    out = explain(m, name, step_scores=[name, "probability"], power=2.0)
    assert out.provenance.attributed_fn == "confidence"
    assert out.scores.nan_to_num().abs().max() > 0
    assert (out.step_scores[name] > 0).all()
    assert {"confidence", "my_gap"} <= set(attriflow.list_step_functions())
    # what the file registers keeps its name and metadata
    assert step_functions.info(f"{file}:gap").name == "my_gap"
    assert step_functions.info(f"{file}:gap").meta["unit"] == "logit"


def test_a_name_that_is_taken(golden_model, tmp_path):
    path = tmp_path / "own.py"
    path.write_text("def entropy(forward):\n    return 0 * forward.of_target(forward.logits)\n")
    out = explain(golden_model("gpt2"), "entropy", step_scores=[f"{path}:entropy", "entropy"])
    assert (out.step_scores["entropy"] > 0).all()
    assert (out.step_scores[f"{path}:entropy"] == 0).all()
    assert step_functions.info(f"{path}:entropy").name == "own.entropy"


def test_named_by_module(golden_model, file, monkeypatch):
    monkeypatch.syspath_prepend(str(file.parent))
    out = explain(golden_model("gpt2"), "my_functions:confidence")
    assert out.scores.nan_to_num().abs().max() > 0
    sys.modules.pop("my_functions", None)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("{file}:nothing", "cannot be loaded \\(AttributeError"),
        ("{folder}/none.py:f", "cannot be loaded \\(FileNotFoundError"),
        ("no_such_module:f", "cannot be loaded \\(ModuleNotFoundError"),
        ("{file}:NOT_A_FUNCTION", "is a int, not a function"),
        ("{broken}:f", "cannot be loaded \\(SyntaxError"),
    ],
)
def test_wrong_references(golden_model, file, reference, message):
    broken = file.with_name("broken.py")
    broken.write_text("def f(:")
    with pytest.raises(UnknownNameError, match=message):
        explain(golden_model("gpt2"), reference.format(file=file, folder=file.parent, broken=broken))


def test_a_wrong_shape_is_named(golden_model):
    with pytest.raises(AttriflowError, match=r"returned shape .*expected \[batch, step\]"):
        explain(golden_model("gpt2"), lambda forward: forward.logits)


@pytest.mark.slow
def test_in_the_evaluator_and_the_command_line(tmp_path, file):
    """A fresh process that knows the function by its file only."""
    (tmp_path / "d.csv").write_text("input,target\nanna has a red hat . what color is the hat ?,red\n")
    script = textwrap.dedent(f"""
        import pandas as pd
        from attriflow import load_model
        from attriflow.evaluation.config import EvaluationConfig
        from attriflow.evaluation.data import EvaluationData
        from attriflow.evaluation.runner import Evaluation

        name = {str(file)!r} + ":confidence"
        frame = pd.read_csv({str(tmp_path / "d.csv")!r})
        config = EvaluationConfig.from_dict(
            dict(methods="saliency", step_functions=[name, "entropy"], attributed_fn=name, metrics=[]),
            columns=["input"], text_columns=["input"], targets="target",
        )
        data = EvaluationData.from_frame(frame, config, frame["target"].tolist())
        run = Evaluation(load_model("demo/recall"), data, config)
        for _ in run.run():
            pass
        assert run.results[0].ok, run.results[0].reason
        assert run.step_scores[0].name == "confidence" and run.step_scores[0].values[0][0] > 0.9
    """)
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300)
