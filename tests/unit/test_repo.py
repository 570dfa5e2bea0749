"""The shape of the repository: source roots, generated tables, and what a newcomer and a release find."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def content(path: str):
    return yaml.safe_load(read(path))


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


def test_the_readme_is_short_and_says_how_to_install():
    text = read("README.md")
    assert len(text.splitlines()) <= 130
    extras = re.findall(
        r"^(.+?) = \[", read("pyproject.toml").split("[project.optional-dependencies]")[1].split("\n[")[0], re.M
    )
    named = re.findall(r"^pip install \"?attriflow(?:\[(\w+)\])?", text, re.M)
    assert named[0] == "" and set(named[1:]) <= set(extras)


def test_counts_in_the_readme_are_made():
    """The numbers of `make docs`, so that `test_tables_are_up_to_date` holds them; no other number of parts."""
    text = read("README.md")
    from attriflow import registry

    for kind in ("methods", "step_functions", "metrics", "aggregators"):
        assert f"<!-- count: {kind} -->{len(getattr(registry, kind).names())}<!-- end count -->" in text
    assert not re.search(r"\d+ (\[)?(methods|metrics|step functions|aggregators)", text)


def test_hooks_are_what_make_lint_runs():
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", read("Makefile"), re.M)[1]
    (local,) = content(".pre-commit-config.yaml")["repos"]
    assert local["repo"] == "local"
    assert [hook["entry"] for hook in local["hooks"]] == [
        line.strip().replace("$(BIN)", ".venv/bin") for line in recipe.splitlines()
    ]
    assert len({hook["id"] for hook in local["hooks"]}) == len(local["hooks"])
    assert all(hook["always_run"] and not hook["pass_filenames"] for hook in local["hooks"])


@pytest.mark.parametrize("form", ["bug", "feature"])
def test_issue_forms_ask_for_the_version(form):
    found = content(f".github/ISSUE_TEMPLATE/{form}.yml")
    assert {"name", "description", "body"} <= set(found)
    labels = [field["attributes"].get("label") for field in found["body"]]
    asked = found["body"][labels.index("attriflow --version")]
    assert asked["validations"]["required"] is True
    assert len({field["id"] for field in found["body"]}) == len(found["body"])


def test_the_release_covers_every_python():
    jobs = content(".github/workflows/release.yml")["jobs"]
    classifiers = re.findall(r"Python :: (3\.\d+)", read("pyproject.toml"))
    matrix = jobs["install"]["strategy"]["matrix"]
    assert matrix["python-version"] == classifiers and set(matrix["package"]) == {"*.whl", "*.tar.gz"}
    assert "twine check --strict dist/*" in [step.get("run") for step in jobs["build"]["steps"]]
    for job in jobs.values():  # nothing is published that was not installed
        needs = job.get("needs", [])
        assert set([needs] if isinstance(needs, str) else needs) <= set(jobs)
    publish = jobs["publish"]
    assert publish["needs"] == "install" and publish["permissions"] == {"id-token": "write"}
    assert publish["if"] == jobs["deploy"]["if"] == "github.ref_type == 'tag'"


def test_the_citation_is_of_this_version():
    import attriflow

    found = content("CITATION.cff")
    assert found["cff-version"] == "1.2.0" and {"message", "title", "authors"} <= set(found)
    assert str(found["version"]) == attriflow.__version__ and found["license"] == "Apache-2.0"
