"""Self-contained pages from templates: everything escaped, no network, one script that the page itself vouches for."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from attriflow.views.colors import color, hexadecimal, ink
from attriflow.views.common import as_text, printable

_TEMPLATES = Path(__file__).parent / "templates"
LEVELS = 20  # steps of colour on either side of 0

# In this order: later ones use names of earlier ones.
FRAME = ("dom", "theme", "tabs")
EXPLORER = (*FRAME, "scores", "tip", "heatmap", "chart", "card", "explorer")


def render(
    template: str,
    *,
    title: str,
    scripts: Sequence[str] = EXPLORER,
    styles: Sequence[str] = ("explorer",),
    trusted: Iterable[str] = (),
    **context: Any,
) -> str:
    """A page.

    Args:
        template: File in `templates/`.
        title: Title of the page.
        scripts: Scripts, in order.
        styles: Style sheets beside the basic one.
        trusted: Hashes of further scripts that may run: those of pages in frames.
        **context: What the template needs.
    """
    parts = "\n".join(_part(f"{name}.js") for name in scripts)
    script = f'"use strict";\n(() => {{\nconst LEVELS = {LEVELS};\n{parts}}})();\n'
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment()
        .get_template(template)
        .render(
            title=title,
            script=Markup(script),
            script_hashes=Markup(" ".join([f"'sha256-{digest}'", *trusted])),
            styles=[Markup(_part(f"{name}.css")) for name in ("base", *styles)],
            light=_palette(dark=False),
            dark=_palette(dark=True),
            levels=range(LEVELS + 1),
            **context,
        )
    )


def in_tabs(title: str, pages: Mapping[str, str]) -> str:
    """Several pages as one, each in a tab of its own."""
    # A page in a frame obeys the page around it as well.
    trusted = dict.fromkeys(mark for page in pages.values() for mark in re.findall(r"'sha256-[\w+/=]+'", page))
    return render(
        "frames.html.j2",
        title=title,
        scripts=(*FRAME, "frames"),
        styles=("frames",),
        trusted=trusted,
        pages={name: Markup(html.escape(page)) for name, page in pages.items()},
    )


def framed(page: str, height: int, title: str) -> str:
    """A page in a frame of its own, for notebooks and other pages: neither's styles and scripts reach the other."""
    return (
        f'<iframe title="{html.escape(title)}" srcdoc="{html.escape(page)}" sandbox="allow-scripts" '
        f'style="width: 100%; height: {height}px; border: 0; color-scheme: normal"></iframe>'
    )


@cache
def _environment() -> Environment:
    """Templates that escape everything and drop characters that HTML cannot carry."""

    def finalize(value: Any) -> Any:
        return value if isinstance(value, Markup) else printable(as_text(value))

    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _part(name: str) -> str:
    """A file that is put into the page; with the line ends that browsers hash."""
    return "\n".join((_TEMPLATES / name).read_text(encoding="utf-8").splitlines()) + "\n"


@cache
def _palette(*, dark: bool) -> Mapping[str, str]:
    """Colours of the levels: `p3` (background) and `P3` (letters on it) for the third above 0, `n3` and `N3` below."""
    found = {}
    for level in range(LEVELS + 1):
        for name, sign in (("p", 1), ("n", -1)):
            background = color(sign * level / LEVELS, dark=dark)
            found[f"{name}{level}"] = hexadecimal(background)
            found[f"{name.upper()}{level}"] = hexadecimal(ink(background))
    return found
