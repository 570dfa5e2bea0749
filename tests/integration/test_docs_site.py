"""The documentation builds without warnings and without the network."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_strict_build(tmp_path):
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r'(?:src|href)="https?://[^"]+\.(?:js|css|woff2?)"', text), (
            f"{page.name} loads from elsewhere"
        )
        assert 'class="arithmatex"' not in text, f"a formula of {page.name} was not converted"
    methods = (tmp_path / "site" / "reference" / "methods.html").read_text(encoding="utf-8")
    from attriflow.registry import methods as registered

    for name in registered.names():
        assert f'id="{name}"' in methods, f"the reference leaves {name} out"
