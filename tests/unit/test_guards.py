"""The guards of the architecture see what they are there for: each breach, put into a copy of the tree, is reported."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
ROOMS, ENGINE = "rooms import downwards", "inside the engine, imports point down"
PLUGIN = "attriflow does not know the metrics package"
WORKERS = "inside the workers, imports point down"
METRICS = "metrics import errors, registry, statistics and types, and nothing else"
DEMO = "the demo's data stands alone"
TYPES_ONLY = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    "
LAZY = "def later():\n    "

# contract -> what breaks it: a module of plugin/attriflow or metrics/attriflow_metrics, and what is written into it
BREACHES = {
    "context-tracking": (ROOMS, "context/split.py", "from attriflow.tracking.quiet import quiet"),
    "kernels-models": (ROOMS, "kernels/linear.py", "from attriflow.models.base import LanguageModel"),
    "kernels-facade": (ROOMS, "kernels/linear.py", "from attriflow import load_model"),
    "models-engine": (ROOMS, "models/base.py", "import attriflow.engine"),
    "views-cli-lazily": (ROOMS, "views/common.py", f"{LAZY}from attriflow.cli.console import say"),
    "types-views-for-type-checkers": (ROOMS, "types.py", f"{TYPES_ONLY}from attriflow.views.page import in_tabs"),
    "cuts-gradients": (ENGINE, "engine/cuts.py", "from attriflow.engine.gradients import Gradients"),
    "bound-engine-for-type-checkers": (ENGINE, "engine/bound.py", f"{TYPES_ONLY}from attriflow.engine import engine"),
    "dispatch-processes": (WORKERS, "workers/dispatch.py", "from attriflow.workers.processes import cores"),
    "plugin-metrics": (PLUGIN, "evaluation/scoring.py", "from attriflow_metrics.mrr import MRR"),
    "metric-views": (METRICS, "mrr.py", "from attriflow.views.html import to_html"),
    "metric-engine": (METRICS, "mrr.py", "from attriflow.engine import Engine"),
    "metric-facade-lazily": (METRICS, "mrr.py", f"{LAZY}import attriflow"),
    "demo-torch": (DEMO, "demo/grammar.py", f"{LAZY}import torch"),
    "a-room-nobody-listed": (ROOMS, "attic/__init__.py", '"""A new room."""'),
    "a-module-of-the-engine-nobody-listed": (ENGINE, "engine/gears.py", '"""A new module."""'),
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of what the guards look at."""
    folder = tmp_path_factory.mktemp("tree")
    for name in ("plugin", "metrics"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


@pytest.fixture
def write(tree):
    """Put code at the end of a module of the copy, for one test."""
    before = dict[Path, str | None]()

    def put(path, code):
        file = tree / path
        before[file] = file.read_text(encoding="utf-8") if file.exists() else None
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"{before[file] or ''}\n\n{code}\n", encoding="utf-8")

    yield put
    for file, content in before.items():
        if content is not None:
            file.write_text(content, encoding="utf-8")
        else:
            file.unlink()
            if not any(file.parent.iterdir()):
                file.parent.rmdir()


def run(tree, *command):
    """Exit code and output of a tool that sees the copy, and not the tree that is installed."""
    path = os.pathsep.join(str(tree / name) for name in ("plugin", "metrics"))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [BIN / command[0], *command[1:]], cwd=tree, env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def lint(tree):
    code, said = run(tree, "lint-imports", "--config", "pyproject.toml", "--no-cache")
    return code, [line for line in said.splitlines() if line.endswith("BROKEN") or " BROKEN " in line], said


def test_the_tree_as_it_is_passes(tree):
    code, broken, said = lint(tree)
    assert code == 0 and not broken, said
    assert run(tree, "ruff", "check", "--no-cache", "--select", "TID251", ".")[0] == 0


@pytest.mark.parametrize(("contract", "module", "code"), BREACHES.values(), ids=BREACHES)
def test_a_breach_is_reported(contract, module, code, tree, write):
    write(f"metrics/attriflow_metrics/{module}" if contract == METRICS else f"plugin/attriflow/{module}", code)
    exit_code, broken, said = lint(tree)
    assert exit_code == 1 and any(line.startswith(f"{contract} BROKEN") for line in broken), said


def test_every_contract_has_a_breach():
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    contracts = {lines[i + 1] for i, line in enumerate(lines) if line == "[[tool.importlinter.contracts]]"}
    assert contracts == {f'name = "{contract}"' for contract, _, _ in BREACHES.values()}


@pytest.mark.parametrize(
    "code",
    [
        'import importlib\nimportlib.import_module("attriflow.cli")',
        'from importlib import import_module\nimport_module("attriflow.cli")',
    ],
)
def test_rooms_are_opened_by_name_in_few_places(code, tree, write):
    write("plugin/attriflow/evaluation/scoring.py", code)
    write("plugin/attriflow/doors.py", code)  # where it is allowed
    exit_code, said = run(tree, "ruff", "check", "--no-cache", "--select", "TID251", "--output-format", "concise", ".")
    assert exit_code == 1 and "scoring.py" in said and "TID251" in said and "doors.py" not in said, said
