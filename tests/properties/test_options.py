"""Options of every part: what its annotation does not allow is an error, before any model runs."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union

import numpy as np
import pytest
import torch

from attriflow import register_method, registry
from attriflow.datasets import open_dataset
from attriflow.errors import AttriflowError, InputError, OptionError, OptionValueError, UnknownNameError
from attriflow.evaluation.config import EvaluationConfig
from attriflow.registry import PartInfo, aggregation_functions, aggregators, methods, metrics, step_functions
from attriflow.streaming import attribute_dataset

REGISTRIES = (methods, step_functions, aggregators, aggregation_functions, metrics)
PARTS = [part for r in REGISTRIES for part in r if part.obj.__module__.startswith("attriflow")]
OPTIONS = [(part, option) for part in PARTS for option in part.options]
TEXTS = ("False", "5", "0.5", "none", "quite something else")


def each(hint: Any) -> Iterator[Any]:
    """The alternatives of an annotation."""
    if typing.get_origin(hint) in (Union, UnionType):
        for alternative in typing.get_args(hint):
            yield from each(alternative)
    else:
        yield hint


def takes_text(hint: Any) -> bool:
    """Whether any text is allowed: names that another check looks up, regular expressions, folders."""
    return str in each(hint)


def wrong(hint: Any) -> Iterator[Any]:
    """Values of types and names that an annotation does not allow."""
    kinds = list(each(hint))
    origins = [typing.get_origin(kind) for kind in kinds]
    if not takes_text(hint):
        yield from TEXTS
    if bool not in kinds:
        yield True
    if float not in kinds:
        yield 5.0
        if int not in kinds:
            yield 5
    if type(None) not in kinds:
        yield None
    yield float("nan")
    yield {"a": object()}
    yield object()
    if not any(o in (tuple, list, Sequence) or str(o).endswith("Sequence'>") for o in origins):
        yield [1]
        yield ()


@pytest.mark.parametrize(("part", "option"), OPTIONS, ids=[f"{p.name}.{o}" for p, o in OPTIONS])
def test_wrong_values_are_named(part: PartInfo, option: str) -> None:
    hint = part.hints[option]  # every option has an annotation that can be resolved
    values = list(wrong(hint))
    assert values
    for value in values:
        with pytest.raises((OptionValueError, UnknownNameError)) as caught:
            part.build(**{option: value})
        message = str(caught.value)
        assert message.startswith(f"option '{option}' of {part.kind} '{part.name}' must be "), message
        assert "\n" not in message
        assert repr(value) in message


@pytest.mark.parametrize(("part", "option"), OPTIONS, ids=[f"{p.name}.{o}" for p, o in OPTIONS])
def test_names_that_no_branch_knows_are_met_with_the_nearest(part: PartInfo, option: str) -> None:
    literals = [kind for kind in each(part.hints[option]) if typing.get_origin(kind) is Literal]
    names = [name for kind in literals for name in typing.get_args(kind)]
    for name in names:
        with pytest.raises(UnknownNameError) as caught:
            part.build(**{option: f"{name}x"})
        assert all(repr(n) in str(caught.value) for n in names)
        assert f"did you mean '{name}'?" in str(caught.value)


@pytest.mark.parametrize("part", PARTS, ids=lambda p: p.name)
def test_defaults_and_trials_are_allowed(part: PartInfo) -> None:
    defaults = {o: v for o, v in part.options.items() if v is not registry._REQUIRED}
    copies = {o: type(v)(v) if isinstance(v, (float, str, tuple)) else v for o, v in defaults.items()}
    for options in (copies, part.meta.get("trial", {}), part.meta.get("demo", {})):
        assert {**part.checked(options)} == {**options}
    if len(defaults) == len(part.options) and not part.meta.get("requires"):
        part.build(**defaults)


def test_numpy_and_json_values_become_what_is_asked_for() -> None:
    built = methods.build("integrated_gradients", n_steps=np.int64(7), multiply_by_inputs=np.bool_(False))
    assert (built.n_steps, built.multiply_by_inputs) == (7, False)
    assert type(built.n_steps) is int
    assert type(built.multiply_by_inputs) is bool
    assert metrics.build("log_odds", fractions=[0.1, 0.5]).fractions == (0.1, 0.5)
    zeroing = methods.build("value_zeroing", decoder_zeroed_units_indices={"1": [0]})
    assert zeroing.decoder_zeroed_units_indices == {1: [0]}


class TestWhereverAPartIsBuilt:
    """The same error from every door; no weights run."""

    WRONG = r"option 'multiply_by_inputs' of attribution method 'integrated_gradients' must be bool, not 'False'"

    @pytest.fixture
    def model(self, golden_model: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
        m = golden_model("gpt2")
        monkeypatch.setattr(m.model, "forward", lambda *_, **__: pytest.fail("the model ran"))
        return m

    def test_attribute(self, model: Any) -> None:
        with pytest.raises(InputError, match=self.WRONG):
            model.attribute("a b c", method="integrated_gradients", multiply_by_inputs="False")

    @pytest.mark.parametrize(
        "flag",
        ["attribute_target", "include_eos_baseline", "granular", "contrast_force_inputs", "skip_special_tokens"],
    )
    def test_settings_of_the_call(self, model: Any, flag: str) -> None:
        with pytest.raises(InputError, match=f"^{flag} must be bool, not 'False'"):
            model.attribute("a b c", method="saliency", **{flag: "False"})

    @pytest.mark.parametrize("setting", [{"seed": True}, {"seed": 1.5}, {"attr_pos_start": "3"}, {"attr_pos_end": 3.5}])
    def test_numbers_of_the_call(self, model: Any, setting: dict[str, Any]) -> None:
        with pytest.raises(InputError, match=f"^{next(iter(setting))} must be int"):
            model.attribute("a b c", method="saliency", **setting)

    def test_attribute_examples(self, model: Any) -> None:
        with pytest.raises(InputError, match=self.WRONG):
            model.attribute_examples([], "integrated_gradients", multiply_by_inputs="False")

    @pytest.mark.parametrize("where", ["attributed_fn_args", "step_scores_args"])
    def test_step_functions(self, model: Any, where: str) -> None:
        with pytest.raises(InputError, match=r"'logprob' of step function 'probability' must be bool, not 'False'"):
            model.attribute("a b c", method="saliency", step_scores="probability", **{where: {"logprob": "False"}})
        with pytest.raises(InputError, match=r"'top_p' of step function 'top_p_size' must be float, not '0\.5'"):
            model.attribute("a b c", method="occlusion", step_scores="top_p_size", top_p="0.5")

    def test_evaluation(self) -> None:
        setting = {"methods": ["integrated_gradients"], "method_options": {"integrated_gradients": {"n_steps": 5.0}}}
        with pytest.raises(InputError, match=r"'n_steps' of attribution method .* must be int \| 'auto', not 5\.0"):
            EvaluationConfig.from_dict(setting, columns=["input"], text_columns=["input"], targets=None)

    def test_aggregate(self, golden_model: Any) -> None:
        out = golden_model("gpt2").attribute("a b c", "a b c d", method="dummy", show_progress=False)
        with pytest.raises(InputError, match="'rescale' of aggregator 'scores' must be bool, not 'False'"):
            out.aggregate("scores", rescale="False")
        with pytest.raises(UnknownNameError, match="'split_mode' of aggregator 'split' must be 'single'"):
            out.aggregate("split", split_pattern=" ", split_mode="singel")


def test_parts_from_elsewhere_are_checked_by_their_annotations() -> None:
    @register_method
    def stranger(engine: Any, *, size: int = 1, anything=None, mode: Literal["fast", "slow"] = "fast"):
        return engine

    assert methods.build("stranger", anything="x", size=2, mode="slow")(3) == 3
    cases = (({"size": "2"}, InputError), ({"mode": "fsat"}, UnknownNameError), ({"b": 1}, OptionError))
    for options, error in cases:
        with pytest.raises(error, match="'stranger'"):
            methods.build("stranger", **options)


def test_a_wrong_option_is_no_failure_of_a_row(golden_model: Any, tmp_path: Path) -> None:
    explain = partial(golden_model("gpt2").attribute, method="integrated_gradients", n_steps="50", show_progress=False)
    (tmp_path / "d.csv").write_text("text\nki nakol\n")
    with pytest.raises((OptionError, UnknownNameError), match="'n_steps'"):
        attribute_dataset(open_dataset(str(tmp_path / "d.csv")), lambda: explain, show_progress=False)


def test_a_module_is_a_target_layer() -> None:
    layer = torch.nn.Linear(2, 2)
    assert methods.build("layer_deeplift", target_layer=[layer]).target_layer == [layer]
    with pytest.raises(AttriflowError, match="target_layer"):
        methods.build("layer_deeplift", target_layer=3)
