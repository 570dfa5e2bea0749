"""Tables that sort and figures, as the templates of the pages take them."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from typing import Any

from attriflow.views.common import as_float

_PIXELS = 1.5  # of a picture per CSS pixel: the plots are made for dense screens


def column(
    label: str, first: str = "ascending", hint: str = "", *, kind: str = "number", sorted: bool = False
) -> dict[str, Any]:
    """Head of a column; `first` is the order that a first click sorts by."""
    return {"label": label, "kind": kind, "first": first, "hint": hint, "sorted": sorted}


def cell(value: Any, form: Callable[[Any], str], note: str = "") -> dict[str, Any]:
    """A number: its text, the value that it sorts by, and a note beside it."""
    real = as_float(value)
    sort = "" if real is None else repr(real)
    return {"kind": "number", "text": form(value), "sort": sort, "best": False, "part": None, "note": note}


def figure(png: bytes, caption: str = "", alt: str = "", *, name: str = "") -> dict[str, Any]:
    """A picture with its caption and alternative text, which a name stands in for."""
    caption = caption or name.replace("_", " ")
    width, height = struct.unpack(">II", png[16:24]) if png[:8] == b"\x89PNG\r\n\x1a\n" else (0, 0)
    return {
        "caption": caption,
        "alt": alt or f"Plot: {caption}",
        "width": round(width / _PIXELS),
        "height": round(height / _PIXELS),
        "wide": width > 820 * _PIXELS,
        "source": f"data:image/png;base64,{base64.b64encode(png).decode()}",
    }
