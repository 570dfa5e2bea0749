"""One registry class: names without imports, suggestions, options, third-party parts."""

from __future__ import annotations

import importlib
import subprocess
import sys
from dataclasses import dataclass, is_dataclass

import pytest

import attriflow
from attriflow.errors import AttriflowError, OptionError, UnknownNameError
from attriflow.registry import Registry, aggregation_functions, aggregators, methods, metrics, step_functions

REGISTRIES = [methods, step_functions, aggregators, aggregation_functions, metrics]


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


@pytest.mark.parametrize("register", [attriflow.register_method, attriflow.register_metric])
def test_parts_are_registered_by_decorator_and_by_call(register):
    registry, kind = (methods, {}) if register is attriflow.register_method else (metrics, {"higher_is_better": True})
    try:

        @register(family="mine", **kind)
        def my_part(one, *, power=2.0):
            """A part."""

        assert registry.info("my_part").options == {"power": 2.0}
        assert registry.info("my_part").meta["family"] == "mine"
        with pytest.raises(AttriflowError, match="already registered"):
            register(lambda one: None, "my_part", **kind)
        register(lambda one: None, "my_part", overwrite=True, **kind)
        assert registry.info("my_part").meta["family"] == "other"
        assert registry.info("my_part").options == {}
        register(dataclass(frozen=True)(type("Other", (), {"__call__": lambda self, one: None})), "other_part", **kind)
        assert {"my_part", "other_part"} <= set(registry.names())
    finally:
        registry.unregister("my_part")
        registry.unregister("other_part")


def test_what_a_registration_does_not_say_has_one_value_everywhere():
    for registry in (methods, metrics):
        for info in registry:
            assert set(info.meta) == set(registry.meta)
    with pytest.raises(OptionError, match=r"'determinstic'; did you mean 'deterministic'\?"):
        attriflow.register_method(lambda engine: None, "mine", determinstic=True)
    assert "mine" not in methods


def test_plain_objects_that_nobody_registered(tmp_path):
    """A reference to a function: a step function promises nothing, and a metric without a direction is not ranked."""
    file = tmp_path / "plain.py"
    file.write_text("def score(forward):\n    return 0\n\ndef quality(attribution):\n    return 0.0\n")
    try:
        assert step_functions.info(f"{file}:score").meta["stepwise"] is False
        info = metrics.info(f"{file}:quality")
        assert info.meta["higher_is_better"] is None and info.meta["needs"] == ()
        assert methods.info(f"{file}:score").meta["axes"] == "step, input"
    finally:
        step_functions.unregister("score")
        methods.unregister("score")
        metrics.unregister("quality")


@pytest.fixture
def points(tmp_path, monkeypatch):
    """Installs packages of one module each: `points(group, distribution, {name: value}, source)`."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(group, distribution, offered, source=""):
        module = distribution.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        lines = "\n".join(f"{name} = {value}" for name, value in offered.items())
        (info / "entry_points.txt").write_text(f"[{group}]\n{lines}\n")

    return install


def things():
    return Registry("thing", "attriflow.nothing", "attriflow.things")


BROKEN = {"gone": "no_such_module:x", "lost": "bad_one:no_such_name", "zero": "bad_two"}


def test_an_entry_point_that_cannot_be_loaded_is_left_out(points, caplog):
    """One broken package of somebody's does not take the lists and evaluations of all others away."""
    points("attriflow.things", "bad-one", {"gone": BROKEN["gone"], "lost": BROKEN["lost"]})
    points("attriflow.things", "bad-two", {"zero": BROKEN["zero"]}, "1 / 0\n")
    points("attriflow.things", "good", {"fine": "good:fine"}, "def fine(x):\n    return x\n")
    registry = things()
    assert [info.name for info in registry] == [info.name for info in registry] == ["fine"]
    assert len(caplog.messages) == 3
    for name, value in BROKEN.items():
        (message,) = [m for m in caplog.messages if f"thing '{name}' (entry point {value} of bad-" in m]
        with pytest.raises(AttriflowError) as error:
            registry.info(name)
        assert str(error.value) in message and "\n" not in message
    assert "ZeroDivisionError: division by zero" in str(error.value)


def test_a_broken_package_costs_an_evaluation_nothing(points, monkeypatch):
    from attriflow.evaluation.config import EvaluationConfig

    for registry in (methods, metrics):
        points(registry.group, f"bad-{registry.group.split('.')[1]}", {"zero": "no_such_module"})
        monkeypatch.setattr(registry, "_points", None)
    config = EvaluationConfig.from_dict({"metrics": "all"})
    assert "zero" not in (*config.methods, *config.metrics) and "saliency" in config.methods
    with pytest.raises(AttriflowError, match=r"'zero' .* cannot be loaded: ModuleNotFoundError"):
        EvaluationConfig.from_dict({"methods": ["zero"]})


@pytest.mark.parametrize(
    ("register", "name"),
    [("register_method", "saliency"), ("register_metric", "mrr"), ("register_step_function", "entropy"),
     ("register_aggregation_function", "mean")],
)  # fmt: skip
def test_a_built_in_that_was_not_imported_yet_is_not_replaced_by_accident(register, name):
    meta = "higher_is_better=True" if register == "register_metric" else ""
    registry = {"register_method": "methods", "register_metric": "metrics", "register_step_function": "step_functions"}
    code = (
        "import attriflow\nfrom attriflow import registry\n"
        "def mine(x): return x\n"
        f"try: attriflow.{register}(mine, {name!r}, {meta})\n"
        "except attriflow.AttriflowError as error: print(error)\n"
        f"attriflow.{register}(mine, {name!r}, overwrite=True, {meta})\n"
        f"parts = registry.{registry.get(register, 'aggregation_functions')}\n"
        f"list(parts); print(parts.get({name!r}).__name__)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"'{name}' is already registered; pass overwrite=True" in out.stdout
    assert out.stdout.endswith("mine\n")


def test_two_packages_with_one_name(points, caplog):
    points("attriflow.things", "one-pack", {"same": "one_pack:f", "other": "one_pack:f"}, "def f(x): return 1\n")
    points("attriflow.things", "two-pack", {"same": "two_pack:f", "third": "two_pack:f"}, "def f(x): return 2\n")
    registry = things()
    assert registry.names() == ["other", "same", "third"]
    assert {registry.get("other")(0), registry.get("third")(0)} == {1, 2}
    (message,) = caplog.messages
    assert "one_pack:f of one-pack" in message and "two_pack:f of two-pack" in message
    first = message.partition(", as ")[2]
    assert registry.get("same")(0) == (1 if "one-pack" in first else 2)


@pytest.mark.parametrize(("registry", "name"), [(methods, "saliency"), (step_functions, "entropy")])
def test_an_entry_point_named_like_a_built_in_is_ignored(points, monkeypatch, caplog, registry, name):
    points(registry.group, "copycat", {name: "copycat:f"}, "def f(x): return 1\n")
    monkeypatch.setattr(registry, "_points", None)
    assert name in registry.names() and registry.get(name).__module__.startswith(registry.package)
    (message,) = caplog.messages
    assert "copycat:f of copycat" in message and "built-in" in message


@pytest.mark.parametrize("order", [0, 1])
def test_one_part_referred_to_by_path_and_by_module(tmp_path, monkeypatch, order):
    monkeypatch.syspath_prepend(str(tmp_path))
    stem = f"my_parts_{order}"
    file = tmp_path / f"{stem}.py"
    file.write_text(
        "import attriflow\n@attriflow.register_metric(higher_is_better=True)\ndef mine(a):\n    return 1.0\n"
    )
    for reference in [f"{file}:mine", f"{stem}:mine"][:: -1 if order else 1]:
        assert metrics.info(reference).name == "mine"
