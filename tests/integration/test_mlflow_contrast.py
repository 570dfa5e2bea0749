"""Foils in a data set: contrastive step functions per row, the other rows scored with them."""

from __future__ import annotations

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

import attriflow
from attriflow.registry import step_functions

CONTRASTIVE = sorted(p.name for p in step_functions if p.meta.get("contrast"))
DATA = pd.DataFrame(
    {
        "input": ["the red cat", "a big dog sat on the hat", "the blue bird"],
        "target": ["il gatto", "cane", "uccello blu"],
        "contrast_target": ["il cane", None, "uccello rosso"],
    }
)


def evaluate(folder, data, **config):
    info = attriflow.log_model(folder, name="model")
    with mlflow.start_run() as run:
        result = mlflow.models.evaluate(
            info.model_uri, data, targets="target" if "target" in data else None, model_type="text-attribution",
            evaluators="attriflow", evaluator_config={"methods": ["saliency"], "metrics": [], **config},
        )  # fmt: skip
    return result, run.info.run_id


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_rows_with_and_without_foils(store, kind, causal_folder, seq2seq_folder):
    folder = causal_folder if kind == "causal" else seq2seq_folder
    result, run_id = evaluate(folder, DATA)
    table = result.tables["step_scores"]
    assert set(table.step_function) == set(step_functions.names()), "every step function is logged"
    assert set(table[table.step_function == "probability"].example) == {0, 1, 2}
    assert set(table[table.step_function == "kl_divergence"].example) == {0, 2}
    for name in CONTRASTIVE:
        assert f"step_scores/{name}/mean" in result.metrics
    logged = mlflow.MlflowClient().get_run(run_id).data.metrics
    assert {f"step_scores/{n}/mean" for n in step_functions.names()} <= set(logged)
    # the same numbers as of the model's own call
    model = attriflow.load_model(str(folder))
    row = table[(table.step_function == "contrast_prob_diff") & (table.example == 0)].value.tolist()
    texts = ("the red cat", "il gatto", "il cane")
    if kind == "causal":
        texts = ("the red cat", "the red cat il gatto", "the red cat il cane")
    own = model.attribute(
        texts[0], texts[1], method="dummy", contrast_targets=texts[2], step_scores="contrast_prob_diff",
        show_progress=False,
    )[0]  # fmt: skip
    np.testing.assert_allclose(row, own.step_scores["contrast_prob_diff"], atol=1e-6)


@pytest.mark.slow
def test_other_sources_and_prompts(store, causal_folder, seq2seq_folder):
    for folder in (causal_folder, seq2seq_folder):
        data = DATA.drop(columns="contrast_target").assign(other=["the blue cat", float("nan"), ""])
        result, _ = evaluate(folder, data, contrast_source="other", inputs="input", step_functions=["pcxmi", "entropy"])
        table = result.tables["step_scores"]
        assert set(table[table.step_function == "pcxmi"].example) == {0}
        assert set(table[table.step_function == "entropy"].example) == {0, 1, 2}


@pytest.mark.slow
def test_what_is_explained_may_be_contrastive(store, causal_folder):
    data = DATA.dropna()
    result, _ = evaluate(causal_folder, data, attributed_fn="contrast_prob_diff", contrast_targets_alignments="auto")
    assert result.tables["leaderboard"].status.tolist() == ["ok"]
    result, _ = evaluate(causal_folder, DATA, attributed_fn="contrast_prob_diff")
    failed = result.tables["failed_rows"]
    assert failed["row"].tolist() == [1] and failed["reason"].str.contains("it has no foil").all()


def test_generated_targets(store, causal_folder):
    """Another prompt for what the model writes itself."""
    data = DATA[["input"]].assign(contrast_source=["the blue cat", None, "a hat"])
    result, _ = evaluate(
        causal_folder, data, generation_args={"max_new_tokens": 2}, step_functions=["kl_divergence", "probability"]
    )
    table = result.tables["step_scores"]
    assert set(table[table.step_function == "kl_divergence"].example) == {0, 2}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"contrast_target": "contrast_targets"}, "did you mean 'contrast_target'"),
        ({"contrast_targets_alignments": "labse"}, "must be 'auto'"),
    ],
)
def test_wrong_settings(store, causal_folder, config, message):
    with pytest.raises(MlflowException, match=message):
        evaluate(causal_folder, DATA, **config)


def test_a_foil_that_is_no_text(store, causal_folder):
    result, _ = evaluate(causal_folder, DATA.assign(contrast_target=["il cane", None, 3]))
    failed = result.tables["failed_rows"]
    assert failed.to_dict("records") == [{"row": 2, "reason": "'contrast_target' must be a text or empty, not 3"}]
