"""Models logged by attriflow are ordinary MLflow models, and load back as they were."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from server_support import ModelServer

import attriflow
from attriflow.errors import InputError, UnsupportedModelError
from attriflow.tracking.loading import hf_parts, resolve_uri

pytestmark = pytest.mark.usefixtures("store")
FEW = {"generation_args": json.dumps({"max_new_tokens": 4})}


@pytest.fixture(params=["causal", "seq2seq"])
def folder(request: pytest.FixtureRequest, causal_folder: Path, seq2seq_folder: Path) -> Path:
    return causal_folder if request.param == "causal" else seq2seq_folder


def test_predict_is_generate(folder: Path) -> None:
    info = attriflow.log_model(folder)
    pyfunc = mlflow.pyfunc.load_model(info.model_uri)
    texts = ["the red cat", "a big dog sat on"]
    model = attriflow.load_model(folder, device="cpu")
    expected = []
    for text in texts:
        full = model.generate(text, max_new_tokens=4)[0]
        expected.append(full if model.is_encoder_decoder else full[len(text) :].strip())
    frame = pd.DataFrame({"id": [1, 2], "input": texts})
    by_name = ({"input": texts}, [{"input": text} for text in texts], frame["input"], frame["input"].to_numpy())
    for given in (frame, frame[["input"]], texts, pd.DataFrame({"anything": texts}), *by_name):
        assert pyfunc.predict(given, params=FEW) == expected
    assert pyfunc.predict(texts, params={**FEW, "batch_size": 1}) == expected
    assert pyfunc.predict("the red cat", params=FEW) == expected[:1]
    for wrong, why in [
        (["a", None], "row 1 has no value"),
        (pd.DataFrame({"input": ["a", float("nan")]}), "row 1 has no value"),
        (pd.DataFrame({"input": [1.5]}), "row 0 has 1.5"),
        ([3], "row 0 has 3"),
        (None, "row 0 has no value"),
        (frame.rename(columns={"input": "text"}), "expected texts in the column 'input'; there are id, text"),
    ]:
        with pytest.raises(mlflow.MlflowException, match=why) as error:
            pyfunc.predict(wrong, params=FEW)
        assert "\n" not in str(error.value)
    assert pyfunc.predict(np.array("the red cat"), params=FEW) == expected[:1]
    for given, why in [
        ({"generation_args": "{max_new_tokens: 1}"}, "generation_args must be a JSON object"),
        ({"generation_args": '{"max_new_tokenz": 1}'}, 'generate does not take {"max_new_tokenz": 1}: .*tokenz'),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
    ]:
        with pytest.raises(mlflow.MlflowException, match=why) as error:
            pyfunc.predict(texts, params=given)
        assert "\n" not in str(error.value)
    if not model.is_encoder_decoder:  # its tokenizer adds nothing of its own
        with pytest.raises(mlflow.MlflowException, match="row 1 has a text without a token: ' '"):
            pyfunc.predict(["a", " "], params=FEW)
    # a length that counts the prompt is each text's own, in whatever company
    length = {"generation_args": json.dumps({"max_length": 8})}
    alone = [pyfunc.predict([text], params=length)[0] for text in texts]
    assert pyfunc.predict(texts, params=length) == alone


def test_a_model_object_comes_back_with_the_same_weights(folder: Path) -> None:
    original = attriflow.load_model(folder, device="cpu")
    info = attriflow.log_model(original.model, original.tokenizer)
    model, tokenizer = resolve_uri(info.model_uri)
    assert type(model) is type(original.model)
    assert tokenizer.get_vocab() == original.tokenizer.get_vocab()
    for (name, a), (_, b) in zip(model.named_parameters(), original.model.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    assert attriflow.log_model(original).model_uri != info.model_uri  # an attriflow model brings its tokenizer


def test_uris_load(folder: Path, tmp_path: Path) -> None:
    with mlflow.start_run() as run:
        info = attriflow.log_model(folder, name="mine", registered_model_name="registered")
    for uri in (info.model_uri, f"runs:/{run.info.run_id}/mine", "models:/registered/1"):
        assert attriflow.load_model(uri, device="cpu").generate("the red cat", max_new_tokens=2)
    local = mlflow.artifacts.download_artifacts(info.model_uri, dst_path=str(tmp_path / "local"))
    assert attriflow.load_model(local, device="cpu").generate("the red cat", max_new_tokens=2)


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["causal", pytest.param("seq2seq", marks=pytest.mark.sweep)], indirect=True)
def test_loading_reads_no_weights_and_needs_no_attriflow(folder: Path, store: str) -> None:
    info = attriflow.log_model(folder)
    script = f"""
import sys
sys.modules["attriflow"] = None  # an import would fail
import mlflow
mlflow.set_tracking_uri({store!r})
model = mlflow.pyfunc.load_model({info.model_uri!r})
assert "torch" not in sys.modules and "transformers" not in sys.modules
assert len(model.predict(["the red cat"])) == 1
"""
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert out.returncode == 0, out.stderr[-2000:]


@pytest.mark.sweep
def test_served(folder: Path, tmp_path: Path) -> None:
    info = attriflow.log_model(folder)
    local = Path(mlflow.artifacts.download_artifacts(info.model_uri, dst_path=str(tmp_path / "logged")))
    texts = ["the red cat", "a big dog sat on"]
    wanted = {"predictions": mlflow.pyfunc.load_model(str(local)).predict(texts, params=FEW)}
    server = ModelServer(tmp_path, local)
    try:
        server.start()
        table = {"columns": ["id", "input"], "data": [[1, texts[0]], [2, texts[1]]]}
        for given in ({"dataframe_split": table}, {"inputs": texts}, {"inputs": {"input": texts}}):
            assert server.ask(**given, params=FEW) == (200, wanted)
        for rows, why in [
            ([{"input": "a"}, {"input": None}], "expected texts, but row 1 has no value"),
            ([{"input": 3}], "expected texts, but row 0 has 3"),
            ([{"id": 1, "text": "a"}], "expected texts in the column 'input'; there are id, text"),
        ]:
            status, answer = server.ask(dataframe_records=rows)
            assert status == 400 and str(answer["message"]).splitlines()[-1] == f"Error: {why}"
            assert "stack_trace" not in answer
    finally:
        server.stop()


def test_requirements_and_signature_are_explicit(folder: Path) -> None:
    info = attriflow.log_model(folder)
    local = Path(mlflow.artifacts.download_artifacts(info.model_uri))
    requirements = (local / "requirements.txt").read_text().split()
    assert {r.split("==")[0] for r in requirements} >= {"mlflow", "torch", "transformers"}
    assert not any("+" in r for r in requirements)  # no index knows 2.6.0+cpu
    assert info.signature.inputs is None and info.signature.outputs.to_dict() == [{"type": "string", "required": True}]
    assert not list(local.rglob("*.pkl"))
    assert "x==1" in _requirements(attriflow.log_model(folder, pip_requirements=["x==1"]))
    both = _requirements(attriflow.log_model(folder, extra_pip_requirements=["x==1"]))
    assert "x==1" in both.split() and "torch==" in both
    info = attriflow.log_model(folder, conda_env={"name": "own", "dependencies": ["pip", {"pip": ["mlflow", "y==2"]}]})
    assert _requirements(info).split() == ["mlflow", "y==2"]
    with pytest.raises(InputError, match="not both"):
        attriflow.log_model(folder, conda_env={}, extra_pip_requirements=["x==1"])


def test_by_reference(causal_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = shutil.copytree(causal_folder, tmp_path / "weights")
    monkeypatch.chdir(tmp_path)
    info = attriflow.log_model("weights", reference=True)
    local = Path(mlflow.artifacts.download_artifacts(info.model_uri))
    assert not list(local.rglob("*.safetensors")) and info.flavors["python_function"]["config"]["reference"] == str(
        copy
    )
    monkeypatch.chdir("/")
    loaded, whole = mlflow.pyfunc.load_model(info.model_uri), attriflow.log_model(causal_folder)
    assert loaded.predict(["the red cat"]) == mlflow.pyfunc.load_model(whole.model_uri).predict(["the red cat"])
    copy.rename(tmp_path / "moved")
    with pytest.raises(mlflow.MlflowException, match=r"by reference to .*weights, which is not there"):
        mlflow.pyfunc.load_model(info.model_uri)
    with pytest.raises(InputError, match="no model of that name on the hub can be reached"):
        attriflow.log_model("nobody/nothing-of-this-name", reference=True)
    with pytest.raises(InputError, match="needs the folder or the name"):
        attriflow.log_model(attriflow.load_model(causal_folder), reference=True)


def test_adapters_come_back(folder: Path) -> None:
    peft = pytest.importorskip("peft")
    model = attriflow.load_model(folder, device="cpu")
    names = ["q_proj"] if model.is_encoder_decoder else ["c_attn"]
    texts = ["the red cat", "a big dog sat on"]
    for name, config in [
        ("default", peft.LoraConfig(target_modules=names, r=2, init_lora_weights=False, modules_to_save=["lm_head"])),
        ("own", peft.LoraConfig(target_modules=names, r=2, init_lora_weights=False)),
    ]:
        hf = attriflow.load_model(folder, device="cpu").model
        tuned = attriflow.load_model(peft.get_peft_model(hf, config, adapter_name=name), tokenizer=model.tokenizer)
        info = attriflow.log_model(tuned)
        assert "peft==" in _requirements(info)
        back = attriflow.load_model(info.model_uri, device="cpu")
        for key, value in tuned.model.state_dict().items():
            found = back.model.state_dict()[key.replace(f".{name}.", ".default.")]
            assert torch.equal(value, found), key
        assert back.generate(texts, max_new_tokens=4) == tuned.generate(texts, max_new_tokens=4)
    tuned.model.merge_adapter()
    with pytest.raises(InputError, match="call merge_and_unload"):
        attriflow.log_model(tuned)


def _requirements(info: Any) -> str:
    return (Path(mlflow.artifacts.download_artifacts(info.model_uri)) / "requirements.txt").read_text()


def test_logging_is_quiet(folder: Path, recwarn: pytest.WarningsRecorder, capfd: pytest.CaptureFixture[str]) -> None:
    attriflow.log_model(folder)
    assert [str(w.message) for w in recwarn if issubclass(w.category, UserWarning)] == []
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("nowhere",), "not a folder with a saved model"),
        ((3,), "cannot log a int"),
        ((torch.nn.Linear(1, 1),), "cannot log a Linear"),
    ],
)
def test_what_cannot_be_logged(arguments: tuple[Any, ...], fragment: str) -> None:
    with pytest.raises(InputError, match=fragment):
        attriflow.log_model(*arguments)


def test_a_tokenizer_is_needed_once(folder: Path) -> None:
    loaded = attriflow.load_model(folder, device="cpu")
    with pytest.raises(InputError, match="a tokenizer is needed"):
        attriflow.log_model(loaded.model)
    with pytest.raises(InputError, match="not a mixture"):
        attriflow.log_model(folder, loaded.tokenizer)


def test_models_that_do_not_generate_are_refused() -> None:
    class Holder:
        model = torch.nn.Linear(1, 1)
        tokenizer = len

    class Wrapper:
        metadata = None

        def unwrap_python_model(self) -> Holder:
            return Holder()

    with pytest.raises(UnsupportedModelError, match="Linear is not a Hugging Face model that generates"):
        hf_parts(Wrapper())
    with pytest.raises(UnsupportedModelError, match="there is no model"):
        hf_parts(None)
    with pytest.raises(UnsupportedModelError, match="found no model and tokenizer in a str"):
        hf_parts("something")
