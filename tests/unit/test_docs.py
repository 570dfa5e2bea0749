"""Every Python snippet of README and docs runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fresh import run_fresh

ROOT = Path(__file__).parents[2]
SNIPPET = re.compile(r"^```python[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
SNIPPETS = [
    pytest.param(code, id=f"{page.name}-{i}")
    for page in PAGES
    for i, code in enumerate(SNIPPET.findall(page.read_text(encoding="utf-8")))
]


@pytest.mark.slow
@pytest.mark.parametrize("code", SNIPPETS)
def test_snippet_runs(code, tmp_path):
    done = run_fresh(code, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Some runs will be skipped" not in done.stderr  # MLflow, of what is no table


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_local_links_exist(page):
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
