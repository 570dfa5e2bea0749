"""The shape of the repository: source roots, generated tables."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("folder", "package"), [("plugin", "attriflow"), ("metrics", "attriflow_metrics")])
def test_a_source_root_holds_one_package(folder, package):
    """A stray metrics/foo.py would become a global module of everyone who installs attriflow."""
    found = {p.name for p in (ROOT / folder).iterdir() if p.name not in ("__pycache__", "README.md")}
    assert found == {package}


def test_tables_are_up_to_date():
    done = subprocess.run(
        [sys.executable, str(ROOT / "recipes" / "make_docs.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_public_names_resolve():
    import attriflow

    for name in attriflow.__all__:
        assert getattr(attriflow, name) is not None
    with pytest.raises(AttributeError):
        attriflow.no_such_name  # noqa: B018


# -- dependencies -----------------------------------------------------------------------------------------------------

_DISTRIBUTIONS = packages_distributions()


def _imports() -> Iterator[tuple[str, str, bool]]:
    """Room, top-level module and whether it is imported with the room's own, for every import of others' packages."""
    for package in (ROOT / "plugin/attriflow", ROOT / "metrics/attriflow_metrics"):
        for path in sorted(package.rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and not node.level:
                    names = [node.module]
                for module in {name.partition(".")[0] for name in names}:
                    if module not in sys.stdlib_module_names and not module.startswith("attriflow"):
                        yield path.relative_to(package).parts[0], module, node in tree.body


def _providers(module: str) -> set[str]:
    """Distributions that a module may come from; its own name where it is not installed."""
    return {re.sub(r"[-_.]+", "-", name).lower() for name in _DISTRIBUTIONS.get(module, [module])}


def _names(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w.-]+", r)[0].lower() for r in requirements}


def test_what_is_imported_is_declared():
    """Others' packages are no way to get at third ones. Only rooms that are an extra may need it to be opened."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    always = _names(project["dependencies"])
    extras = {k: _names(v) for k, v in project["optional-dependencies"].items() if k not in ("dev", "docs")}
    wrong = set()
    for room, module, at_once in _imports():
        allowed = always | (extras.get(room, set()) if at_once else set().union(*extras.values()))
        if not _providers(module) & allowed:
            wrong.add((room, module))
    assert not wrong


def test_what_is_declared_is_imported():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    declared = _names(tomllib.loads(text)["project"]["dependencies"])
    excused = set(re.findall(r'^    "([\w.-]+).*", # not imported: \w+', text, re.MULTILINE))
    imported = set().union(*(_providers(module) for _, module, _ in _imports()))
    assert declared - imported == excused
