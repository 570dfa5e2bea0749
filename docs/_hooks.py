"""What the site needs beside Markdown: formulas as MathML, registries as reference pages, links out of the folder."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

ROOT = Path(__file__).resolve().parents[1]
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
_OUTSIDE = r"\[([^\]]*)\]\((?:\.\./){%d,}(?!docs/)([^)#]+)(?:#[^)]*)?\)"
_PARTS = re.compile(r"^::: registry (\w+)$", re.MULTILINE)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links out of the documentation become paths; `::: registry methods` becomes all parts of a registry."""
    outside = re.compile(_OUTSIDE % (page.file.src_uri.count("/") + 1))
    markdown = outside.sub(lambda m: f"{m[1]} (`{m[2]}`)" if m[1].strip("`") != m[2] else f"`{m[2]}`", markdown)
    return _PARTS.sub(lambda m: _registry(m[1]), markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Formulas, so that no script has to be loaded to show them."""
    return _FORMULA.sub(_mathml, content)


def _mathml(match: re.Match[str]) -> str:
    display = "block" if match[2] == "[" else "inline"
    return str(convert(html.unescape(match[3]).strip(), display=display))


def _registry(name: str) -> str:
    from attriflow import registry

    options = "".join(f"      {name}: false\n" for name in ("show_root_heading", "show_root_toc_entry", "members"))
    parts = []
    for part in getattr(registry, name):
        where = f"{part.obj.__module__}.{part.obj.__qualname__}"
        parts.append(f"## {part.name}\n\n{_facts(part.meta)}::: {where}\n    options:\n{options}")
    return "\n".join(parts)


def _facts(meta: Any) -> str:
    """What a metric's registration says, as a table; nothing for other parts."""
    if "higher_is_better" not in meta:
        return ""
    low, high = meta["range"]
    values = {
        "family": meta["family"],
        "better": {True: "higher", False: "lower", None: "-"}[meta["higher_is_better"]],
        "range": f"{'any' if low is None else f'{low:g}'} to {'any' if high is None else f'{high:g}'}",
        "needs": ", ".join(meta["needs"]) or "-",
        "by default": "yes" if meta["default"] else "no",
        "cost": meta["cost"],
        "source": meta["source"],
    }
    rows = (f"| {' | '.join(cells)} |" for cells in (values, ["---"] * len(values), values.values()))
    return "\n".join(rows) + "\n\n"
