"""A metric is called with what its own signature asks for; one that cannot be called is refused before any work."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from evaluation_fakes import FakeModel
from test_evaluation_runner import DATA, EXPLAIN

import attriflow
from attriflow.errors import AttriflowError, InputError
from attriflow.evaluation.config import EvaluationConfig
from attriflow.evaluation.runner import Evaluation
from attriflow.registry import methods, metric_call, metrics


def two(attribution, rescore):
    return float(rescore(attribution.token_scores() == 0)[0, 0])


def other_names(found, score):
    return float(score(found.token_scores() == 0)[0, 0])


def alone(attribution):
    return 1.0


def three(attribution, rescore, rationale):
    return float(rationale is None)


def by_name(attribution, *, rationale=None, power: float = 2.0):
    return power


def left_alone(attribution, threshold=0.5, rescore=None):
    return threshold if rescore is not None else -1.0


def wrapped(*args, **kwargs):
    return float(len(args))


def again(attribution, rescore, reexplain):
    return 0.0


def again_by_name(attribution, *, reexplain=None):
    return 0.0


@dataclass(frozen=True)
class Whole:
    """A class with an option."""

    level: float = 3.0

    def __call__(self, attribution, rescore=None, rationale=None, *, reexplain=None):
        return self.level


@pytest.mark.parametrize(
    ("metric", "in_order", "by_name", "needs"),
    [
        (two, ["attribution", "rescore"], {}, ("rescore",)),
        (other_names, ["attribution", "rescore"], {}, ("rescore",)),
        (alone, ["attribution"], {}, ()),
        (three, ["attribution", "rescore", "rationale"], {}, ("rescore", "rationale")),
        (by_name, ["attribution"], {"rationale": "rationale"}, ()),
        (left_alone, ["attribution"], {"rescore": "rescore"}, ()),
        (wrapped, ["attribution", "rescore"], {}, ("rescore",)),
        (again, ["attribution", "rescore", "reexplain"], {}, ("rescore", "reexplain")),
        (again_by_name, ["attribution"], {"reexplain": "reexplain"}, ("reexplain",)),
        (Whole, ["attribution", "rescore", "rationale"], {"reexplain": "reexplain"}, ("reexplain",)),
        (Whole(), ["attribution", "rescore", "rationale"], {"reexplain": "reexplain"}, ("reexplain",)),
        (
            functools.partial(three, rationale=None),
            ["attribution", "rescore"],
            {"rationale": "rationale"},
            ("rescore",),
        ),
        (lambda a, r, /: 0.0, ["attribution", "rescore"], {}, ("rescore",)),
    ],
)
def test_what_a_signature_asks_for(metric, in_order, by_name, needs):
    assert metric_call("m", metric) == (in_order, by_name, needs)


class NoCall:
    pass


@dataclass(frozen=True)
class NeedsMore:
    def __call__(self, attribution, rescore, *, model):
        return 0.0


@pytest.mark.parametrize(
    ("metric", "says"),
    [
        (lambda attribution, rescore, model: 0.0, "nobody fills in its parameter 'model'"),
        (lambda attribution, a, b: 0.0, "nobody fills in its parameter 'b'"),
        (NeedsMore, "nobody fills in its parameter 'model'"),
        (NoCall, "its class has no __call__"),
    ],
)
def test_what_cannot_be_called_is_refused_when_it_is_registered(metric, says):
    with pytest.raises(InputError, match=f"metric 'broken' cannot be called: .*({says})"):
        attriflow.register_metric(metric, "broken", higher_is_better=True)
    assert "broken" not in metrics


@pytest.mark.parametrize(("name", "meant"), [("rational", "rationale"), ("re_explain", "reexplain")])
def test_a_mistyped_second_parameter_is_not_given_rescore(name, meant):
    metric = eval(f"lambda attribution, {name}: 0.0")
    with pytest.raises(InputError, match=f"'{name}' would get rescore; did you mean '{meant}'"):
        attriflow.register_metric(metric, "broken", higher_is_better=True)


def test_an_option_without_default_must_be_given_and_is_asked_for_before_any_work():
    attriflow.register_metric(lambda attribution, *, k: k, "at_k", higher_is_better=True)
    with pytest.raises(AttriflowError, match="metric 'at_k' needs the option 'k'"):
        EvaluationConfig.from_dict({"methods": ["random"], "metrics": ["at_k"]})
    given = {"methods": ["random"], "metrics": ["at_k"], "metric_options": {"at_k": {"k": 2.0}}}
    assert EvaluationConfig.from_dict(given).metrics == ("at_k",)
    assert "at_k" not in EvaluationConfig.from_dict({"methods": ["random"], "metrics": "all"}).metrics


@dataclass(frozen=True)
class TakesTwo:
    def __call__(self, engine, other):
        return None


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (lambda: None, "with an engine alone: too many positional arguments"),
        (lambda engine, steps: None, "with an engine alone: missing a required argument: 'steps'"),
        (TakesTwo, "with an engine alone: missing a required argument: 'other'"),
        (NoCall, "its class has no __call__"),
    ],
)
def test_a_method_that_cannot_be_called_with_an_engine_is_refused(method, says):
    with pytest.raises(InputError, match=f"method 'broken' cannot be called.*{says}"):
        attriflow.register_method(method, "broken")
    assert "broken" not in methods


def test_methods_that_can():
    for method in (lambda engine, *, k: k, lambda *args: None, lambda e, power=2: None, functools.partial(two, None)):
        attriflow.register_method(method, "fine", overwrite=True)


def test_a_function_in_place_of_a_name_is_told_what_to_do():
    with pytest.raises(AttriflowError, match=r"method alone: register it with attriflow\.register_method, or"):
        methods.info(alone)
    with pytest.raises(AttriflowError, match=r"metric Whole: register it with attriflow\.register_metric"):
        metrics.info(Whole())


@pytest.fixture
def registered() -> Iterator[dict[str, Any]]:
    for name in EXPLAIN:
        methods.register(name)(lambda engine: None)
    parts = {f.__name__: f for f in (two, other_names, alone, by_name, left_alone, wrapped)} | {"three": three}
    for name, part in parts.items():
        attriflow.register_metric(part, name, higher_is_better=True, needs=())
    yield parts
    for name in EXPLAIN:
        methods.unregister(name)
    for name in parts:
        metrics.unregister(name)


def test_an_evaluation_calls_each_in_its_own_way(registered):
    config = EvaluationConfig.from_dict(
        {"methods": ["first"], "metrics": list(registered), "metric_options": {"by_name": {"power": 5.0}},
         "step_functions": [], "throughput": False}
    )  # fmt: skip
    evaluation = Evaluation(FakeModel(EXPLAIN), DATA, config)
    list(evaluation.run())
    (first,) = evaluation.results
    assert first.problems == {}
    assert first.metrics == {
        "two": first.metrics["two"], "other_names": first.metrics["two"], "alone": 1.0, "by_name": 5.0,
        "left_alone": 0.5, "wrapped": 2.0, "three": 1.0,
    }  # fmt: skip
    assert first.metrics["two"] < 0


def test_a_reference_that_cannot_be_called_is_refused_before_any_work(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def mine(attribution, rescore, tokenizer):\n    return 0.0\n")
    with pytest.raises(InputError, match="'mine' cannot be called: nobody fills in its parameter 'tokenizer'"):
        EvaluationConfig.from_dict({"methods": ["random"], "metrics": [f"{file}:mine"]})


def test_needs_that_the_signature_cannot_take_are_refused():
    with pytest.raises(InputError, match="says that it needs 'rationale', but has no parameter of that name"):
        attriflow.register_metric(two, "broken", higher_is_better=True, needs=("rationale",))


@pytest.mark.parametrize(
    ("meta", "error"),
    [
        ({}, "metric 'm' must be registered with higher_is_better="),
        ({"higher_is_better": "yes"}, "higher_is_better must be True or False"),
        ({"higher_is_better": True, "range": 1.0}, "range must be"),
        ({"higher_is_better": True, "famly": "sanity"}, "'famly'; did you mean 'family'"),
    ],
)
def test_what_a_registration_says_is_checked(meta, error):
    with pytest.raises(AttriflowError, match=error):
        attriflow.register_metric(two, "m", **meta)
    assert "m" not in metrics
