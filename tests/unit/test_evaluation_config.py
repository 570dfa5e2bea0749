"""Settings are checked as a whole, with one error that names what is wrong and what is allowed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from attriflow.errors import AttriflowError, InputError, MissingExtraError, UnknownNameError
from attriflow.evaluation.config import EvaluationConfig
from attriflow.registry import methods, metrics, step_functions

COLUMNS = {"columns": ["input", "other", "evidence"], "text_columns": ["input", "other"], "targets": "target"}

BAD = [
    ({"method": "all"}, "unknown option of evaluator_config 'method'; did you mean 'methods'"),
    ({"methods": "salincy"}, "did you mean 'saliency'"),
    ({"methods": ["saliency", "nope"]}, "'methods': unknown attribution method 'nope'"),
    ({"methods": []}, "'methods' is empty"),
    ({"methods": 3}, "'methods' must be 'all', a list of names or a comma-separated string"),
    ({"metrics": "aopc_comp"}, "did you mean 'aopc_compr'"),
    ({"step_functions": "entropi"}, "did you mean 'entropy'"),
    ({"attributed_fn": "probabilty"}, "'attributed_fn': unknown step function 'probabilty'; did you mean"),
    ({"attributed_fn": 3}, "'attributed_fn' must be str | "),
    ({"attributed_fn_args": {"log": True}}, "unknown option of step function 'probability' 'log'"),
    ({"attributed_fn_args": {"logprob": "yes"}}, "option 'logprob' of step function 'probability' must be bool"),
    ({"method_options": {"integrated_gradients": {"n_step": 3}}}, "did you mean 'n_steps'"),
    ({"method_options": {"integrated_gradients": {"n_steps": "many"}}}, "must be int | 'auto', not 'many'"),
    ({"method_options": {"integrated_gradients": {"n_steps": 0}}}, "n_steps"),
    ({"method_options": {"nope": {}}}, "'method_options': unknown attribution method 'nope'"),
    ({"method_options": {"saliency": 3}}, "'method_options' must be a dictionary"),
    ({"methods": "random", "method_options": {"saliency": {}}}, "'saliency'. Allowed: random"),
    ({"metric_options": {"aopc_compr": {"perturbation": "burn"}}}, "perturbation"),
    ({"metric_options": {"aopc_compr": {"how": "burn"}}}, "perturbation"),
    ({"metric_options": {"aopc_compr": {"perturbation": True}}}, "perturbation"),
    (
        {"metrics": "soft_nc", "metric_options": {"soft_nc": {"how": "mask"}}},
        "unknown option of metric 'soft_nc' 'how'",
    ),
    ({"batch_size": 0}, "'batch_size' must be at least 1, not 0"),
    ({"batch_size": "big"}, "'batch_size' must be int | 'auto', not 'big'"),
    ({"batch_size": True}, "'batch_size' must be int | 'auto', not True"),
    ({"max_examples": 0}, "'max_examples' must be at least 1"),
    ({"max_examples": 2.5}, "'max_examples' must be int | None"),
    ({"reexplain_examples": 0}, "'reexplain_examples' must be at least 1"),
    ({"report_examples": -1}, "'report_examples' must be at least 0"),
    ({"seed": -1}, "'seed' must be at least 0"),
    ({"seed": 2**32}, "'seed' must be less than 2**32"),
    ({"seed": "0"}, "'seed' must be int"),
    ({"throughput": "yes"}, "'throughput' must be bool"),
    ({"fail_fast": 1}, "'fail_fast' must be bool"),
    ({"device": "gpu"}, "'device': there is no device 'gpu' here; use auto, cpu"),
    ({"device": "cuda:99"}, "'device': there is no device 'cuda:99' here"),
    ({"inputs": "inptu"}, "unknown column in 'inputs' 'inptu'; did you mean 'input'"),
    ({"rationale": "evidenc"}, "did you mean 'evidence'"),
    ({"metrics": "auprc_plau"}, "name their column in 'rationale'"),
    ({"generation_args": {"max_new_tokens": 3}}, "'generation_args' has no effect when targets are given"),
]


@pytest.mark.parametrize(("settings", "fragment"), BAD, ids=[str(s)[:60] for s, _ in BAD])
def test_one_error_names_the_setting(settings: dict[str, Any], fragment: str) -> None:
    with pytest.raises(AttriflowError) as caught:
        EvaluationConfig.from_dict(settings, **COLUMNS)
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


def test_generation_arguments_are_checked_when_targets_are_generated() -> None:
    good = EvaluationConfig.from_dict({"generation_args": {"max_new_tokens": 3, "num_beams": 2}}, targets=None)
    assert good.generation_args == {"max_new_tokens": 3, "num_beams": 2}
    with pytest.raises(AttriflowError, match="did you mean 'max_new_tokens'"):
        EvaluationConfig.from_dict({"generation_args": {"max_new_token": 3}}, targets=None)


def test_all_is_everything_registered() -> None:
    config = EvaluationConfig.from_dict({"rationale": "evidence", "metrics": "all"}, **COLUMNS)
    by_norm = ("input_x_gradient.norm", "layer_gradient_x_activation.norm")
    assert config.methods == (*(p.name for p in methods if p.name != "dummy"), *by_norm)
    assert config.method_options == {name: {"reduction": "norm"} for name in by_norm}
    assert config.metrics == tuple(metrics.names())
    # functions that compare with a foil need one, which a data set does not give
    assert config.step_functions == tuple(p.name for p in step_functions if not p.meta.get("contrast"))
    assert set(config.left_out) == {"dummy", *(p.name for p in step_functions if p.meta.get("contrast"))}
    assert config.inputs == "input"


def test_metrics_by_default_are_ferrets() -> None:
    config = EvaluationConfig.from_dict({"rationale": "evidence"}, **COLUMNS)
    ferrets = {"aopc_compr", "aopc_suff", "taucorr_loo", "auprc_plau", "token_f1_plau", "token_iou_plau"}
    assert set(config.metrics) == ferrets
    assert EvaluationConfig.from_dict({"rationale": "evidence", "metrics": "default"}, **COLUMNS) == config


@pytest.mark.parametrize("given", ["saliency, random,saliency", ["saliency", "random"], ("saliency", "random")])
def test_names_as_text_or_list(given: Any) -> None:
    assert EvaluationConfig.from_dict({"methods": given}).methods == ("saliency", "random")


def test_an_alias_is_resolved_everywhere() -> None:
    config = EvaluationConfig.from_dict({"step_functions": "logit", "step_function_options": {"logit": {}}})
    assert config.step_functions == ("logits",)
    assert config.step_function_options == {"logits": {}}


def test_without_rationales_all_leaves_plausibility_out_and_says_so() -> None:
    config = EvaluationConfig.from_dict({"metrics": "all"}, **COLUMNS)
    plausibility = {p.name for p in metrics if "rationale" in p.meta["needs"]}
    assert plausibility and plausibility <= set(config.left_out)
    assert not plausibility & set(config.metrics)
    assert all("'rationale'" in config.left_out[name] for name in plausibility)


def test_contrastive_functions_are_left_out_of_all_and_refused_by_name() -> None:
    config = EvaluationConfig.from_dict({}, **COLUMNS)
    assert "foil" in config.left_out["contrast_prob_diff"]
    for given in ({"step_functions": "contrast_prob_diff"}, {"attributed_fn": "contrast_prob_diff"}):
        with pytest.raises(InputError, match="foil"):
            EvaluationConfig.from_dict(given, **COLUMNS)


def test_nothing_to_score_is_allowed() -> None:
    config = EvaluationConfig.from_dict({"metrics": [], "step_functions": []})
    assert config.metrics == () and config.step_functions == ()


def test_inputs_default_to_the_only_text_column() -> None:
    config = EvaluationConfig.from_dict({}, columns=["question", "n"], text_columns=["question"])
    assert config.inputs == "question"
    with pytest.raises(InputError, match=r"name the column of input texts in 'inputs'.*Columns: a, b"):
        EvaluationConfig.from_dict({}, columns=["a", "b"], text_columns=["a", "b"])
    with pytest.raises(InputError, match="0 text columns"):
        EvaluationConfig.from_dict({}, columns=["n"], text_columns=[])


def test_a_callable_can_be_attributed() -> None:
    def margin(forward: Any) -> Any:
        return forward.logits

    config = EvaluationConfig.from_dict({"attributed_fn": margin})
    assert config.attributed_fn is margin
    assert "margin" in config.as_dict()["attributed_fn"]


def test_as_dict_has_every_setting_as_plain_values() -> None:
    config = EvaluationConfig.from_dict({"methods": "random"})
    assert set(config.as_dict()) == set(EvaluationConfig.keys()) - {"engine", "workers", "ray_address"}
    assert config.as_dict()["methods"] == ["random"]
    assert EvaluationConfig.from_dict(config.as_dict()).as_dict() == config.as_dict()


def test_where_an_evaluation_is_done_is_no_part_of_it() -> None:
    config = EvaluationConfig.from_dict({"methods": "random", "engine": "processes", "workers": 3})
    assert (config.engine, config.workers, config.ray_address) == ("processes", 3, None)
    assert config.as_dict() == EvaluationConfig.from_dict({"methods": "random"}).as_dict()
    for wrong, told in (
        ({"engine": "procesess"}, "processes"),
        ({"workers": 2}, "engine 'local' is one worker, not 2"),
        ({"workers": 0, "engine": "processes"}, "workers"),
        ({"ray_address": "head:1"}, "no use for the address of a Ray cluster"),
        ({"engine": "processes", "multiverse": True}, "'multiverse' looks at all examples at once"),
    ):
        with pytest.raises(AttriflowError, match=told):
            EvaluationConfig.from_dict({"methods": "random", **wrong})


@pytest.fixture
def picky() -> Iterator[None]:
    """A metric whose package is missing, one that is not, and a method with an option that has no default."""

    @metrics.register(
        "test_missing", higher_is_better=True, default=True, requires=("no_such_package",), extra="ferret"
    )
    def missing(attribution: Any) -> float:
        return 0.0

    @methods.register("test_picky", family="test")
    @dataclasses.dataclass(frozen=True)
    class Picky:
        level: int

        def __call__(self, engine: Any) -> None: ...

    yield
    metrics.unregister("test_missing")
    methods.unregister("test_picky")


@pytest.mark.usefixtures("picky")
def test_a_missing_package_is_one_error_that_names_the_extra() -> None:
    with pytest.raises(MissingExtraError, match=r"test_missing.*no_such_package.*pip install 'attriflow\[ferret\]'"):
        EvaluationConfig.from_dict({"metrics": ["test_missing"]})
    assert "test_missing" in EvaluationConfig.from_dict({}).left_out


@pytest.mark.usefixtures("picky")
def test_with_every_metric_missing_all_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "names", lambda: ["test_missing"])
    with pytest.raises(MissingExtraError, match="no_such_package"):
        EvaluationConfig.from_dict({})


@pytest.mark.usefixtures("picky")
def test_a_part_that_needs_an_option_is_left_out_of_all_but_not_of_a_list() -> None:
    config = EvaluationConfig.from_dict({})
    assert "test_picky" not in config.methods
    assert "needs the option 'level'" in config.left_out["test_picky"]
    assert "test_picky" in EvaluationConfig.from_dict({"method_options": {"test_picky": {"level": 1}}}).methods
    with pytest.raises(AttriflowError, match="needs the option 'level'"):
        EvaluationConfig.from_dict({"methods": ["test_picky"]})


def test_unhashable_names_are_an_error_not_a_crash() -> None:
    with pytest.raises((UnknownNameError, InputError)):
        EvaluationConfig.from_dict({"methods": [["saliency"]]})


def test_the_former_name_of_perturbation():
    found = EvaluationConfig.from_dict(
        {"metric_options": {"aopc_compr": {"how": "mask", "only_pos": False}}}, **COLUMNS
    )
    assert found.metric_options["aopc_compr"] == {"perturbation": "mask", "only_pos": False}


def test_a_method_in_several_rows():
    """A row is a method with a label: its options are the method's, and its own on top."""
    given = {
        "methods": "integrated_gradients, integrated_gradients.pad, saliency.sum",
        "method_options": {"integrated_gradients": {"n_steps": 7}, "integrated_gradients.pad": {"baseline": "pad"}},
    }
    found = EvaluationConfig.from_dict(given, **COLUMNS)
    assert found.methods == ("integrated_gradients", "integrated_gradients.pad", "saliency.sum")
    assert found.method_options == {
        "integrated_gradients": {"n_steps": 7},
        "integrated_gradients.pad": {"n_steps": 7, "baseline": "pad"},
        "saliency.sum": {"reduction": "sum"},
    }
    # what is chosen for the method itself is its only row with "all"
    chosen = EvaluationConfig.from_dict({"method_options": {"input_x_gradient": {"reduction": "norm"}}}, **COLUMNS)
    assert "input_x_gradient.norm" not in chosen.methods and "layer_gradient_x_activation.norm" in chosen.methods


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": "salincy.norm"}, "did you mean 'saliency'"),
        ({"methods": "saliency.few"}, "the row 'saliency.few' needs options: name them in 'method_options'"),
        ({"methods": "attention.norm"}, "the row 'attention.norm' needs options"),
        ({"methods": "saliency.a b"}, "a row is a method and a label of letters and digits"),
        (
            {"methods": "saliency.few", "method_options": {"saliency.few": {"reductio": "sum"}}},
            "did you mean 'reduction'",
        ),
        ({"metrics": "aopc_compr.mask"}, "unknown metric 'aopc_compr.mask'"),
    ],
)
def test_rows_are_checked(settings, message):
    with pytest.raises(AttriflowError) as caught:
        EvaluationConfig.from_dict(settings, **COLUMNS)
    assert message in str(caught.value)
