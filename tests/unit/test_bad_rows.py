"""One bad row is one failed row with its number and its reason; nothing of the others is lost."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from typing import Any

import pandas as pd
import pytest

import attriflow
from attriflow.datasets import open_dataset
from attriflow.errors import InputError
from attriflow.evaluation.config import EvaluationConfig
from attriflow.evaluation.data import EvaluationData
from attriflow.evaluation.runner import Evaluation
from attriflow.tracking.data import checked, read_data

QUESTIONS = ["anna has a red hat . what color is the hat ?", "tom has a blue car . what color is the car ?"]
LOOK_LIKE_NUMBERS = ["42", "007", "None", "NA", "1e5", "nan", "true", "1.10", "null", "-", "2024-01-01"]


@pytest.fixture(scope="module")
def recall():
    return attriflow.load_model("demo/recall", device="cpu")


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".parquet"])
def test_texts_stay_texts(tmp_path, suffix):
    rows = [{"input": f"question {i}", "target": text} for i, text in enumerate(LOOK_LIKE_NUMBERS)]
    path = tmp_path / f"d{suffix}"
    if suffix == ".csv":
        with path.open("w", newline="") as f:
            writer = csv.DictWriter(f, ["input", "target"])
            writer.writeheader()
            writer.writerows(rows)
    elif suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        path.write_text(json.dumps(rows) if suffix == ".json" else "".join(f"{json.dumps(r)}\n" for r in rows))
    frame = read_data(str(path))
    assert frame["target"].tolist() == LOOK_LIKE_NUMBERS
    assert [row["target"] for row in open_dataset(str(path)).read()] == LOOK_LIKE_NUMBERS
    features, config = checked(frame, {}, "target")
    assert EvaluationData.from_frame(features, config, frame["target"].tolist()).targets == tuple(LOOK_LIKE_NUMBERS)


def poisoned(path):
    """Six rows, of which 0 and 5 are good."""
    good = [json.dumps({"input": q, "target": "red"}) for q in QUESTIONS]
    lines = [
        good[0].encode(), b'{"input": "cut off', b'{"input": "\xff\xfe", "target": "red"}',
        json.dumps({"input": "a \ud800 b", "target": "red"}).encode(), b'{"input": "x", "target": NaN}',
        good[1].encode(),
    ]  # fmt: skip
    path.write_bytes(b"\n".join(lines) + b"\n")
    return str(path)


def test_poisoned_lines_fail_alone(tmp_path):
    frame = read_data(poisoned(tmp_path / "d.jsonl"))
    features, config = checked(frame, {"methods": "saliency"}, "target")
    found = EvaluationData.from_frame(features, config, frame["target"].tolist())
    assert found.inputs == tuple(QUESTIONS) and found.numbers == (0, 5)
    assert list(found.failed) == [1, 2, 3, 4]
    assert found.failed[1].startswith("not JSON") and found.failed[2] == "not UTF-8 text: byte 0xff"
    assert found.failed[3].startswith("not valid Unicode") and "nan" in found.failed[4]
    assert [isinstance(r, Mapping) for r in open_dataset(str(tmp_path / "d.jsonl")).read()][:3] == [True, False, False]


def test_a_csv_row_that_is_not_utf_8_fails_alone(tmp_path):
    (tmp_path / "d.csv").write_bytes(b"input,target\na,b\nc,\xe9\ne,f\n")
    rows = list(open_dataset(str(tmp_path / "d.csv")).read())
    assert rows[0] == {"input": "a", "target": "b"} and rows[2] == {"input": "e", "target": "f"}
    assert str(rows[1]) == "not UTF-8 text: byte 0xe9"


def test_missing_cells_of_pandas_fail_alone():
    frame = pd.DataFrame({"input": pd.array(["a", pd.NA, "b"], dtype="string"), "rationale": [None, None, pd.NA]})
    config = EvaluationConfig.from_dict({"inputs": "input", "rationale": "rationale"}, columns=["input", "rationale"])
    found = EvaluationData.from_frame(frame, config, ["42", "x", float("nan")])
    assert (found.inputs, found.targets, found.rationales, found.numbers) == (("a",), ("42",), (None,), (0,))
    assert list(found.failed) == [1, 2]
    with pytest.raises(InputError, match="none of the 3 rows can be explained; row 0: the target"):
        EvaluationData.from_frame(frame, config, [1, 2, 3])


def evaluated(model: Any, data: EvaluationData, **settings: Any) -> Evaluation:
    given = {"methods": "saliency", "metrics": "aopc_compr", "step_functions": "probability", "throughput": False}
    evaluation = Evaluation(model, data, EvaluationConfig.from_dict({**given, **settings}))
    for _ in evaluation.run():
        pass
    return evaluation


def test_a_row_that_is_too_long_leaves_the_values_of_the_others(golden_model):
    gpt2 = golden_model("gpt2", "float32")
    alone = evaluated(gpt2, EvaluationData(inputs=tuple(QUESTIONS), targets=("red", "blue")))
    rows = (QUESTIONS[0], " ".join(QUESTIONS * 60), QUESTIONS[1])
    found = evaluated(gpt2, EvaluationData(inputs=rows, targets=("red", "red", "blue")))
    assert list(found.data.failed) == [1] and "too long" in found.data.failed[1]
    assert found.data.numbers == (0, 2)
    values = found.results[0].metrics
    assert values["aopc_compr"] == alone.results[0].metrics["aopc_compr"]
    assert [a.input_text for a in found.results[0].attributions] == QUESTIONS
    with pytest.raises(InputError, match=r"row 1: .*too long"):
        evaluated(gpt2, EvaluationData(inputs=rows, targets=("red", "red", "blue")), fail_fast=True)


def test_generated_targets_with_a_row_that_is_too_long(golden_model):
    gpt2, settings = golden_model("gpt2", "float32"), {"generation_args": {"max_new_tokens": 1}, "metrics": []}
    rows = (QUESTIONS[0], " ".join(QUESTIONS * 60), QUESTIONS[1])
    found = evaluated(gpt2, EvaluationData(inputs=rows), **settings)
    alone = evaluated(gpt2, EvaluationData(inputs=(rows[0], rows[2])), **settings)
    assert list(found.data.failed) == [1]
    assert [e.target for e in found.examples] == [e.target for e in alone.examples]


def test_rows_without_numbers_fail_alone(recall):
    """A token whose embedding is NaN spoils the rows that have it, and no other."""
    spoiled = next(t.id for t in recall.encode(QUESTIONS[1:], ["blue"], continuation=True)[0].target if "tom" in t.text)

    def spoil(_module, given, out):
        return out.masked_fill((given[0] == spoiled)[..., None], float("nan"))

    rows = (QUESTIONS[0], QUESTIONS[1], QUESTIONS[0].replace("anna", "mary"))
    hook = recall.model.get_input_embeddings().register_forward_hook(spoil)
    try:
        found = evaluated(recall, EvaluationData(inputs=rows, targets=("red", "blue", "red")))
    finally:
        hook.remove()
    assert list(found.data.failed) == [1] and "NaN" in found.data.failed[1]
    assert len(found.results[0].attributions) == 2 and found.results[0].metrics["aopc_compr"] is not None
    assert len(found.step_scores[0].values) == 2
