"""`mlflow.models.evaluate(..., evaluators="attriflow")` on real models and a real store."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import mlflow_support
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from mlflow.models.evaluation.base import EvaluationResult

import attriflow
from attriflow.registry import step_functions
from attriflow.statistics.agreement import agreement_table

# functions that compare with a foil are left out: the data set has none
PLAIN = {p.name for p in step_functions if not p.meta.get("contrast")}
DATA = pd.DataFrame(
    {
        "input": ["the red cat", "a big dog sat on the hat", "the blue bird"],
        "target": ["il gatto", "cane", "uccello blu"],
        "rationale": [[[[0, 3]], [[8, 11]]], [[[6, 9]]], [[[9, 13]], [[4, 8]]]],
    }
)
METHODS = ["occlusion", "random", "saliency"]
COSTS = ["seconds", "target_tokens_per_second", "forward_equivalents", "peak_memory_mb"]
FERRET = ["aopc_compr", "aopc_suff", "taucorr_loo", "auprc_plau", "token_f1_plau", "token_iou_plau"]


@dataclass
class Evaluated:
    """An evaluation that is over, and its store."""

    result: EvaluationResult
    run_id: str
    model_id: str
    folder: Path
    client: MlflowClient

    def children(self) -> dict[str, Any]:
        """Nested runs by name."""
        run = self.client.get_run(self.run_id)
        found = self.client.search_runs(
            [run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{self.run_id}'", max_results=100
        )
        return {r.info.run_name: r for r in found}


@pytest.fixture(scope="module", params=["causal", "seq2seq"])
def evaluated(
    request: pytest.FixtureRequest,
    empty_store: Path,
    tmp_path_factory: pytest.TempPathFactory,
    causal_folder: Path,
    seq2seq_folder: Path,
) -> Iterator[Evaluated]:
    """Everything evaluated once per architecture."""
    folder = tmp_path_factory.mktemp("evaluated")
    mlflow_support.register_evaluator()
    shutil.copy(empty_store, folder / "mlflow.db")
    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else ""
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    mlflow.set_tracking_uri(uri)
    mlflow_support.hide_mlflow_state()
    mlflow.create_experiment("module", artifact_location=(folder / "mlartifacts").as_uri())
    mlflow.set_experiment("module")
    info = attriflow.log_model(causal_folder if request.param == "causal" else seq2seq_folder, name="model")
    with mlflow.start_run() as run:
        result = mlflow.models.evaluate(
            info.model_uri,
            DATA,
            targets="target",
            model_type="text-attribution",
            evaluators="attriflow",
            evaluator_config={
                "inputs": "input",
                "rationale": "rationale",
                "methods": METHODS,
                "method_options": {"occlusion": {"window": 1}},
                "report_examples": 2,
            },
        )
    yield Evaluated(result, run.info.run_id, info.model_id, folder, MlflowClient(uri))
    mlflow_support.hide_mlflow_state()
    mlflow.set_tracking_uri(before)


def test_metrics_are_complete_finite_python_floats(evaluated: Evaluated) -> None:
    metrics = evaluated.result.metrics
    expected = {f"{m}/{k}" for m in METHODS for k in [*FERRET, *COSTS]}
    expected |= {f"step_scores/{f}/mean" for f in PLAIN}
    assert expected <= set(metrics)
    assert all(type(v) is float and math.isfinite(v) for v in metrics.values())
    assert all(metrics[f"{m}/{c}"] > 0 for m in METHODS for c in COSTS[:3])


def test_every_metric_is_in_the_run_once(evaluated: Evaluated) -> None:
    run = evaluated.client.get_run(evaluated.run_id)
    assert run.data.metrics == pytest.approx(evaluated.result.metrics)
    for info, data in [(r.info, r.data) for r in [run, *evaluated.children().values()]]:
        for key in data.metrics:
            assert len(evaluated.client.get_metric_history(info.run_id, key)) == 1, (info.run_name, key)


def test_the_logged_model_has_the_metrics_too(evaluated: Evaluated) -> None:
    logged = {m.key for m in evaluated.client.get_logged_model(evaluated.model_id).metrics}
    assert set(evaluated.result.metrics) == logged


def test_one_nested_run_per_method_with_unprefixed_metrics(evaluated: Evaluated) -> None:
    children = evaluated.children()
    assert sorted(children) == METHODS
    for name, run in children.items():
        assert run.info.status == "FINISHED"
        for key in [*FERRET, *COSTS]:
            assert run.data.metrics[key] == pytest.approx(evaluated.result.metrics[f"{name}/{key}"])
        assert run.data.tags["attriflow.method"] == name
        assert run.data.metrics["forward_seconds"] > 0
        assert run.data.metrics["aopc_compr_skipped_steps"] >= 0
        for key in FERRET:  # no mean without an n, and an interval where there are two examples
            assert run.data.metrics[f"{key}_n"] in (2, 3)
            assert run.data.metrics[f"{key}_low"] <= run.data.metrics[key] <= run.data.metrics[f"{key}_high"]
    assert children["occlusion"].data.params["window"] == "1"


def test_settings_versions_device_seed_and_data_are_logged(evaluated: Evaluated) -> None:
    run = evaluated.client.get_run(evaluated.run_id)
    assert run.data.params["attriflow.seed"] == "0"
    assert json.loads(run.data.params["attriflow.methods"]) == METHODS
    assert run.data.params["attriflow.attributed_fn"] == "probability"
    tags = run.data.tags
    assert tags["attriflow.version.attriflow"] == attriflow.__version__
    assert tags["attriflow.version.torch"] == torch.__version__
    assert tags["attriflow.device"] == "cpu" or tags["attriflow.device"].startswith("cuda")
    assert tags["attriflow.dtype"] == "float32"
    assert tags["attriflow.n_examples"] == "3"
    assert tags["attriflow.plan"].startswith("plan: ") and "forward passes" in tags["attriflow.plan"]
    seconds = json.loads(tags["attriflow.seconds"])
    assert seconds["explaining"] > 0 and seconds["scoring changed inputs"] > 0
    assert json.loads(tags["attriflow.metric_options_used"])["token_f1_plau"]["top_k"] >= 1
    assert len(run.inputs.dataset_inputs) == 1
    assert run.inputs.model_inputs[0].model_id == evaluated.model_id


def test_artifacts_lie_at_the_root_and_can_be_read_back(evaluated: Evaluated) -> None:
    paths = {a.path for a in evaluated.client.list_artifacts(evaluated.run_id)}
    assert {"leaderboard.json", "scores.parquet", "step_scores.json", "report.html", "attributions", "plots"} <= paths
    assert {"cards.json", "summary.json", "comparisons.parquet", "agreement.json"} <= paths
    plots = {a.path for a in evaluated.client.list_artifacts(evaluated.run_id, "plots")}
    assert plots == {
        f"plots/{n}.png"
        for n in (
            "agreement",
            "metric_correlations",
            "metric_heatmap",
            "metric_distributions",
            "quality_cost",
            "step_scores",
        )
    }
    local = Path(evaluated.client.download_artifacts(evaluated.run_id, "attributions", str(evaluated.folder)))
    assert sorted(p.stem for p in local.iterdir()) == METHODS
    output = attriflow.load(local / "saliency.safetensors")
    assert len(output) == 3
    assert set(output[0].step_scores) == set(PLAIN)


def test_tables_are_read_back_through_mlflow(evaluated: Evaluated) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{evaluated.folder / 'mlflow.db'}")
    mlflow.set_experiment("module")
    found = evaluated.result.tables
    assert {"leaderboard", "scores", "step_scores"} <= set(found)
    board = found["leaderboard"].set_index("method")
    assert sorted(board.index) == METHODS
    assert set(board["status"]) == {"ok"}
    assert "aopc_suff: lower" in board["directions"].iloc[0]
    for method in METHODS:
        assert board.loc[method, "aopc_compr"] == pytest.approx(evaluated.result.metrics[f"{method}/aopc_compr"])
    scores = found["scores"]
    means = scores.groupby(["method", "metric", "example"])["value"].mean().groupby(["method", "metric"]).mean()
    for (method, metric), value in means.dropna().items():
        assert value == pytest.approx(evaluated.result.metrics[f"{method}/{metric}"])
    assert scores["value"].isna().equals(scores["skipped"].notna())
    assert set(found["step_scores"]["step_function"]) == set(PLAIN)


def test_means_come_with_intervals_and_differences_with_tests(evaluated: Evaluated) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{evaluated.folder / 'mlflow.db'}")
    mlflow.set_experiment("module")
    found, children = evaluated.result.tables, evaluated.children()
    names = set(found["scores"]["metric"])
    assert set(FERRET) <= names and len(found["summary"]) == len(METHODS) * len(names)
    for row in found["summary"].to_dict("records"):
        logged = children[row["method"]].data.metrics
        assert row["n"] == logged[f"{row['metric']}_n"]
        assert row["skipped_steps"] == logged[f"{row['metric']}_skipped_steps"]
        if row["n"] > 1:
            wanted = [logged[row["metric"] + suffix] for suffix in ("", "_low", "_high")]
            assert [row["mean"], row["low"], row["high"]] == pytest.approx(wanted)
    pairs = found["comparisons"]
    assert len(pairs) == len(names) * 3 and set(pairs["metric"]) == names
    for row in pairs.to_dict("records"):
        assert row["n"] <= 3 and row["better"] is None and f"(n={row['n']})" in row["note"]  # 3 examples tell nothing


def test_agreement_is_that_of_the_logged_attributions(evaluated: Evaluated) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{evaluated.folder / 'mlflow.db'}")
    mlflow.set_experiment("module")
    logged = evaluated.result.artifacts["attributions"].content
    wanted = agreement_table({name: list(logged[name]) for name in METHODS})
    pd.testing.assert_frame_equal(evaluated.result.tables["agreement"], wanted, rtol=1e-5)
    assert "How far methods agree" in evaluated.result.artifacts["report"].content


def test_the_result_survives_saving(evaluated: Evaluated, tmp_path: Path) -> None:
    evaluated.result.save(str(tmp_path / "saved"))
    loaded = EvaluationResult.load(str(tmp_path / "saved"))
    assert loaded.metrics == pytest.approx(evaluated.result.metrics)
    assert loaded.artifacts["leaderboard"].content["method"].tolist() == (
        evaluated.result.artifacts["leaderboard"].content["method"].tolist()
    )
    assert loaded.artifacts["report"].content == evaluated.result.artifacts["report"].content
    assert sorted(loaded.artifacts["attributions"].content) == METHODS
    assert loaded.artifacts["plots"].content.keys() == evaluated.result.artifacts["plots"].content.keys()


def test_the_report_is_one_self_contained_page(evaluated: Evaluated) -> None:
    page = evaluated.result.artifacts["report"].content
    for method in METHODS:
        assert method in page
    assert "default-src 'none'" in page  # the page itself forbids every network access
    loaded = re.findall(r"""\s(?:src|href)=["']?([^"'\s>]+)""", page)
    assert loaded and all(target.startswith(("data:", "#")) for target in loaded)
    assert "data:image/png;base64," in page


def test_attributions_are_those_of_a_direct_call(evaluated: Evaluated) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{evaluated.folder / 'mlflow.db'}")
    model = attriflow.load_model(f"models:/{evaluated.model_id}")
    targets = DATA["target"].tolist()
    if not model.is_encoder_decoder:
        targets = [f"{i} {t}" for i, t in zip(DATA["input"], targets, strict=True)]
    direct = model.attribute(DATA["input"].tolist(), targets, method="saliency", show_progress=False)
    logged = evaluated.result.artifacts["attributions"].content["saliency"]
    for a, b in zip(direct, logged, strict=True):
        torch.testing.assert_close(a.scores, b.scores, equal_nan=True)


# -- other ways in ------------------------------------------------------------------------------

QUICK: dict[str, Any] = {"methods": "random", "metrics": [], "step_functions": "entropy", "throughput": False}


def evaluate(model: Any, data: Any = DATA, config: dict[str, Any] | None = None, **options: Any) -> EvaluationResult:
    """Evaluate with the quickest settings."""
    arguments = {"targets": "target", "model_type": "text-attribution", "evaluators": "attriflow", **options}
    return mlflow.models.evaluate(model, data, evaluator_config={**QUICK, **(config or {})}, **arguments)


def points(key: str, run_id: str | None = None) -> int:
    """How often a metric was logged to the only parent run."""
    client = MlflowClient()
    run = mlflow.last_active_run() if run_id is None else client.get_run(run_id)
    assert run is not None
    return len(client.get_metric_history(run.info.run_id, key))


@pytest.mark.usefixtures("store")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_deprecated_entry_works_too(causal_folder: Path) -> None:
    info = attriflow.log_model(causal_folder)
    result = mlflow.evaluate(
        info.model_uri,
        DATA,
        targets="target",
        model_type="text-attribution",
        evaluators="attriflow",
        evaluator_config={**QUICK, "inputs": "input"},
    )
    assert result.metrics["random/seconds"] > 0
    assert points("random/seconds") == 1


@pytest.mark.usefixtures("store")
def test_without_a_model_id_metrics_are_logged_once_as_well(causal_folder: Path, tmp_path: Path) -> None:
    class Plain(mlflow.pyfunc.PythonModel):
        """A pyfunc that nobody logged."""

        def load_context(self, context: Any) -> None:
            loaded = attriflow.load_model(causal_folder, device="cpu")
            self.model, self.tokenizer = loaded.model, loaded.tokenizer

        def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> list[str]:
            return []

    mlflow.pyfunc.save_model(tmp_path / "plain", python_model=Plain(), pip_requirements=[])
    result = evaluate(str(tmp_path / "plain"))
    assert mlflow.pyfunc.load_model(str(tmp_path / "plain")).model_id is None
    assert result.metrics["random/seconds"] > 0
    assert points("random/seconds") == 1
    assert points("step_scores/entropy/mean") == 1


@pytest.mark.usefixtures("store")
@pytest.mark.filterwarnings("ignore")
def test_a_model_of_the_transformers_flavor(causal_folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    info = mlflow.transformers.log_model(
        {
            "model": AutoModelForCausalLM.from_pretrained(causal_folder),
            "tokenizer": AutoTokenizer.from_pretrained(causal_folder),
        },
        name="flavor",
        task="text-generation",
        pip_requirements=["torch", "transformers"],
    )
    assert evaluate(info.model_uri).metrics["random/seconds"] > 0


@pytest.mark.usefixtures("store")
def test_without_targets_they_are_generated(seq2seq_folder: Path) -> None:
    info = attriflow.log_model(seq2seq_folder)
    config = {"generation_args": {"max_new_tokens": 4}, "metrics": "aopc_compr"}
    result = evaluate(info.model_uri, DATA[["input"]], config, targets=None)
    attributions = result.artifacts["attributions"].content["random"]
    assert all(1 <= len(a.targets) <= 4 for a in attributions)
    assert all(a.provenance.generated for a in attributions)


@pytest.mark.usefixtures("store")
def test_the_target_prefix_can_get_credit_and_any_function_can_be_explained(seq2seq_folder: Path) -> None:
    def margin(forward: Any) -> Any:
        first, second = forward.logits.topk(2, dim=-1).values.unbind(-1)
        return first - second

    info = attriflow.log_model(seq2seq_folder)
    config = {
        "attribute_target": True,
        "attributed_fn": margin,
        "methods": ["saliency", "occlusion"],
        "rationale": "rationale",
        "metrics": ["aopc_compr", "taucorr_loo", "auprc_plau"],
    }
    result = evaluate(info.model_uri, config=config)
    assert {f"saliency/{m}" for m in config["metrics"]} <= set(result.metrics)
    attribution = result.artifacts["attributions"].content["saliency"][0]
    assert any(t.segment == "generated" for t in attribution.inputs)
    assert attribution.provenance.attributed_fn == "margin"
    run = mlflow.last_active_run()
    assert run is not None and "margin" in run.data.params["attriflow.attributed_fn"]


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("model_type", ["text", "text-attribution", "something else"])
def test_asked_for_by_name_the_model_type_does_not_matter(causal_folder: Path, model_type: str) -> None:
    info = attriflow.log_model(causal_folder)
    result = evaluate(info.model_uri, model_type=model_type)
    assert result.metrics["random/seconds"] > 0


@pytest.mark.usefixtures("store")
def test_by_model_type_alone_and_with_nested_settings(causal_folder: Path) -> None:
    info = attriflow.log_model(causal_folder)
    options = {"targets": "target", "model_type": "text-attribution"}
    alone = mlflow.models.evaluate(info.model_uri, DATA, evaluator_config=QUICK, **options)
    nested = mlflow.models.evaluate(
        info.model_uri, DATA, evaluators=["attriflow"], evaluator_config={"attriflow": QUICK}, **options
    )
    assert alone.metrics.keys() == nested.metrics.keys()


@pytest.mark.usefixtures("store")
def test_a_data_set_object_and_a_list_of_texts(causal_folder: Path) -> None:
    info = attriflow.log_model(causal_folder)
    data = mlflow.data.from_pandas(DATA, targets="target", name="named")
    assert evaluate(info.model_uri, data, targets=None).metrics["random/seconds"] > 0
    run = mlflow.last_active_run()
    assert run is not None and run.inputs.dataset_inputs[0].dataset.name == "named"
    plain = evaluate(info.model_uri, DATA["input"].tolist(), targets=DATA["target"].tolist())
    assert plain.metrics["random/seconds"] > 0


@pytest.mark.usefixtures("store")
def test_two_evaluations_in_one_run_do_not_collide(causal_folder: Path) -> None:
    info = attriflow.log_model(causal_folder)
    with mlflow.start_run():
        mlflow.log_param("seed", 42)  # somebody else's
        evaluate(info.model_uri)
        second = evaluate(info.model_uri, config={"seed": 1, "methods": "saliency"})
        board = second.tables["leaderboard"]
    assert board["method"].tolist() == ["saliency"]  # replaced, not appended to


# -- what cannot be evaluated ------------------------------------------------------------------------------


@pytest.mark.usefixtures("store")
def test_a_model_without_hugging_face_parts_is_a_clear_error() -> None:
    with pytest.raises(mlflow.MlflowException, match=r"found no model and tokenizer.*attriflow\.log_model") as caught:
        evaluate(lambda texts: texts)
    assert caught.value.error_code == "INVALID_PARAMETER_VALUE"


@pytest.mark.usefixtures("store")
def test_no_model_at_all_is_a_clear_error() -> None:
    with pytest.raises(mlflow.MlflowException, match="there is no model to explain"):
        evaluate(None)


BAD = [
    ({"method": "all"}, "did you mean 'methods'"),
    ({"methods": ["salincy"]}, "did you mean 'saliency'"),
    ({"metrics": ["aopc"]}, "unknown metric 'aopc'; did you mean"),
    ({"method_options": {"random": {"seeds": 1}}}, "unknown option of attribution method 'random' 'seeds'"),
    ({"inputs": "inptu"}, "did you mean 'input'"),
    ({"rationale": "why"}, "unknown column in 'rationale' 'why'"),
    ({"batch_size": -1}, "'batch_size' must be at least 1, not -1"),
    ({"device": "tpu"}, "there is no device 'tpu' here"),
    ({"seed": "zero"}, "'seed' must be int, not 'zero'"),
    ({"metrics": ["auprc_plau"]}, "name their column in 'rationale'"),
    ({"generation_args": {"num_beams": 2}}, "no effect when targets are given"),
    ({"rationale": "target"}, "unknown column in 'rationale' 'target'"),
    ({"rationale": "input"}, "row 0: rationale: not JSON"),
]


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(("config", "fragment"), BAD, ids=[str(c) for c, _ in BAD])
def test_wrong_settings_are_one_mlflow_exception_and_no_model_is_loaded(
    causal_folder: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], fragment: str
) -> None:
    from attriflow.tracking import loading

    def forbidden(model: Any) -> Any:
        raise AssertionError("the model was touched")

    monkeypatch.setattr(loading, "hf_parts", forbidden)
    info = attriflow.log_model(causal_folder)
    with pytest.raises(mlflow.MlflowException) as caught:
        evaluate(info.model_uri, config=config)
    assert fragment in str(caught.value)
    assert caught.value.error_code == "INVALID_PARAMETER_VALUE"


@pytest.mark.usefixtures("store")
def test_too_long_inputs_are_an_mlflow_exception(causal_folder: Path) -> None:
    info = attriflow.log_model(causal_folder)
    with pytest.raises(mlflow.MlflowException, match="too long"):
        evaluate(info.model_uri, pd.DataFrame({"input": ["cat " * 100], "target": ["dog"]}))
