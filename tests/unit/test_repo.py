"""The shape of the repository: source roots, generated tables."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
