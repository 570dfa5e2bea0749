"""The shape of the repository: import weight, source roots, generated tables."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "ferret", "matplotlib", "mlflow", "captum", "pandas", "seaborn", "datasets")


def loaded(code: str) -> set[str]:
    """Heavy modules in `sys.modules` after some code, in a fresh interpreter."""
    script = f"{code}\nimport sys, json\nprint('\\n' + json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(out.stdout.strip().splitlines()[-1]))


def test_import_is_light():
    assert loaded("import attriflow\nattriflow.__all__") == set()


def test_help_is_light():
    code = (
        "import sys\nsys.argv = ['attriflow', '--help']\nfrom attriflow.cli import main\n"
        "try:\n    main()\nexcept SystemExit as e:\n    assert not e.code, e.code"
    )
    assert loaded(code) == set()


def test_entry_module_is_light():
    """MLflow imports it on everyone's first `evaluate`; it may bring nothing that MLflow's own module does not."""
    mlflow = loaded("import mlflow.models.evaluation.base")
    assert loaded("import attriflow.tracking.evaluator") <= mlflow
    assert not {"torch", "transformers", "ferret", "matplotlib"} & loaded("import attriflow.tracking.evaluator")


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
