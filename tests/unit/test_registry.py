"""One registry class: names without imports, suggestions, options, third-party parts."""

from __future__ import annotations

import importlib
import subprocess
import sys
from dataclasses import dataclass, is_dataclass
from pathlib import Path

import pytest

from attriflow.errors import AttriflowError, OptionError, UnknownNameError
from attriflow.registry import Registry, aggregation_functions, aggregators, methods, metrics, step_functions

REGISTRIES = [methods, step_functions, aggregators, aggregation_functions, metrics]
PACKAGE = Path(__file__).parents[1] / "ext_package"


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda r: r.kind)
def test_every_part_is_documented_and_typed(registry):
    assert registry.names() == sorted(set(registry.names()))
    for info in registry:
        assert info.summary.endswith("."), info.name
        assert is_dataclass(info.obj) or callable(info.obj)
        if is_dataclass(info.obj):
            assert info.obj.__dataclass_params__.frozen, info.name


def test_file_stem_is_the_name():
    for registry in (methods, metrics, aggregators):
        for name in registry.modules():
            module = importlib.import_module(f"{registry.package}.{name}")  # noqa: TID251 - a test
            assert name in registry
            assert registry.get(name).__module__ == module.__name__


def test_a_mistyped_name_gets_a_suggestion_and_the_list():
    with pytest.raises(
        UnknownNameError, match=r"unknown attribution method 'salincy'; did you mean 'saliency'\?"
    ) as error:
        methods.info("salincy")
    assert "integrated_gradients" in str(error.value)
    with pytest.raises(UnknownNameError, match="Allowed"):
        methods.info(None)  # type: ignore[arg-type]


def test_a_mistyped_option_gets_a_suggestion():
    with pytest.raises(OptionError, match=r"n_step.*did you mean 'n_steps'"):
        methods.build("integrated_gradients", n_step=3)
    with pytest.raises(OptionError, match=r"logprobs.*did you mean 'logprob'"):
        step_functions.build("probability", logprobs=True)


def test_register_twice_needs_overwrite():
    registry = Registry("thing", "attriflow.nothing", "attriflow.nothing")
    registry.register("a")(lambda forward: 1)
    with pytest.raises(AttriflowError, match="already registered"):

        @registry.register("a")
        def other(forward):
            return 2

    registry.register("a", overwrite=True)(lambda forward: 3)
    assert registry.get("a")(None) == 3


def test_required_options_are_asked_for():
    registry = Registry("thing", "attriflow.nothing", "attriflow.nothing")

    @registry.register("needs")
    @dataclass(frozen=True)
    class Needs:
        """Needs an option."""

        size: int

    with pytest.raises(AttriflowError, match="needs the option 'size'"):
        registry.build("needs")
    assert registry.build("needs", size=2).size == 2


def test_listing_imports_nothing_heavy():
    code = (
        "import sys\nfrom attriflow import registry as r\n"
        "[x.names() for x in (r.methods, r.step_functions, r.metrics, r.aggregators, r.aggregation_functions)]\n"
        "print([m for m in ('torch', 'transformers', 'ferret', 'mlflow', 'matplotlib', 'pandas') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_a_strangers_parts_are_found(tmp_path):
    """A distribution with entry points, installed the way pip leaves it: found by name, usable, in the lists."""
    wheel = tmp_path / "site"
    wheel.mkdir()
    for source in PACKAGE.rglob("*"):
        if source.is_file() and "__pycache__" not in source.parts:
            target = wheel / source.relative_to(PACKAGE)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    code = (
        "import attriflow, torch\n"
        "assert 'first_token' in attriflow.list_feature_attribution_methods()\n"
        "assert 'double_logit' in attriflow.list_step_functions()\n"
        "assert 'mean_score' in attriflow.list_metrics()\n"
        "from attriflow.registry import methods, metrics\n"
        "m = attriflow.load_model(MODEL)\n"
        "out = m.attribute('ki nakol', 'ki nakol temo', method='first_token', step_scores=['double_logit', 'logits'])\n"
        "s = out[0].step_scores\n"
        "assert torch.allclose(s['double_logit'], 2 * s['logits'])\n"
        "assert out[0].scores[0, 0] == 1\n"
        "print(metrics.build('mean_score')(out[0], None, None))\n"
    )
    model = Path(__file__).parents[1] / "data" / "golden" / "models" / "gpt2"
    code = code.replace("MODEL", repr(str(model)))
    import os

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(wheel), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0
