"""What the views share: readable token texts, the colour scale of scores, and the reading of leaderboards."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attriflow.types import Attribution

if TYPE_CHECKING:
    import pandas as pd

RGB = tuple[int, int, int]

# ColorBrewer's RdBu from 0 outwards: readable with the common colour vision deficiencies and ordered in grey.
ZERO: RGB = (247, 247, 247)
POSITIVE: tuple[RGB, ...] = (ZERO, (253, 219, 199), (244, 165, 130), (214, 96, 77), (178, 24, 43))
NEGATIVE: tuple[RGB, ...] = (ZERO, (209, 229, 240), (146, 197, 222), (67, 147, 195), (33, 102, 172))

SEGMENTS = ("source", "prompt", "generated")

_SYMBOLS = {" ": "␣", "\n": "⏎", "\t": "⇥", "\u00a0": "⍽"}
# Characters that would reorder the text around them.
_BIDI = {0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}


def printable(text: str, keep: str = "\n\t") -> str:
    """Replace what a page or a terminal must not receive: control characters, bidi controls, lone surrogates."""
    return "".join(char if char in keep else _printable(char) for char in text)


def _printable(char: str) -> str:
    code = ord(char)
    if 0xD800 <= code <= 0xDFFF or code in (0xFFFE, 0xFFFF):
        return "\ufffd"
    if code in _BIDI or code in (0x2028, 0x2029) or unicodedata.category(char) == "Cc":
        return f"<U+{code:04X}>"
    return char


def token_text(text: str) -> str:
    """A token as it can be seen: symbols for line breaks and tabs, and for spaces when there is nothing else."""
    if not text:
        return "∅"
    if not text.strip(" "):
        return _SYMBOLS[" "] * len(text)
    text = text.strip(" ")
    if all(unicodedata.category(char) in ("Cf", "Mn", "Zs", "Zl", "Zp") for char in text):
        return "".join(_SYMBOLS.get(char, f"<U+{ord(char):04X}>") for char in text)
    return "".join(char if char == " " else _SYMBOLS.get(char, char) for char in printable(text))


def shorten(text: str, length: int) -> str:
    """Cut the middle out of a text that is too long."""
    if len(text) <= length:
        return text
    head = (length - 1) * 2 // 3
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"


def shown_inputs(attribution: Attribution) -> list[int]:
    """Indices of the inputs worth showing: generated tokens only where some step can see them."""
    seen = attribution.visible.any(0).tolist()
    return [i for i, token in enumerate(attribution.inputs) if seen[i] or token.segment != "generated"]


def largest(scores: Tensor) -> float:
    """The largest finite magnitude, 0 when there is none."""
    finite = scores[torch.isfinite(scores)]
    return float(finite.abs().max()) if finite.numel() else 0.0


def is_signed(scores: Tensor) -> bool:
    """Whether any score is negative."""
    return bool((scores < 0).any())


def color(value: float) -> RGB:
    """Colour of a score in [-1, 1]: blue below 0, nearly white at 0, red above."""
    anchors = POSITIVE if value >= 0 else NEGATIVE
    position = min(abs(value), 1.0) * (len(anchors) - 1)
    low = min(int(position), len(anchors) - 2)
    part = position - low
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(anchors[low], anchors[low + 1], strict=True))
    return red, green, blue


def ink(background: RGB) -> RGB:
    """Black or white, whichever is easier to read on a background (WCAG relative luminance)."""
    channels = [c / 255 for c in background]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)


def as_float(value: Any) -> float | None:
    """A finite float, or None for None, NaN, infinities and everything that is not a number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def as_text(value: Any) -> str:
    """A cell's text; empty for None and NaN."""
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


def number(value: Any, digits: int = 3) -> str:
    """A number for a table cell: fixed digits where they say something, else scientific; "–" for a missing one."""
    real = as_float(value)
    if real is None:
        return "–"
    if real and not 10**-digits <= abs(real) < 1e5:
        return f"{real:.1e}"
    return f"{real:,.0f}" if abs(real) >= 1000 else f"{real:.{digits}f}"


def compact(value: Any) -> str:
    """A number with few significant digits and no trailing zeros: ranks, seconds, passes; "–" for a missing one."""
    real = as_float(value)
    if real is None:
        return "–"
    if abs(real) >= 1000:
        return f"{real:,.0f}" if abs(real) < 1e6 else f"{real:.2g}"
    return f"{real:.3g}"


def metric_names(table: pd.DataFrame, directions: Mapping[str, bool]) -> list[str]:
    """The metrics of `directions` that a table has a column for."""
    return [name for name in directions if name in table.columns]


def arrow(higher_is_better: bool) -> str:
    """Which way is better."""
    return "↑" if higher_is_better else "↓"


def records(leaderboard: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a leaderboard with `failed` added: best rank first, then unranked, then failed ones."""
    rows = [{str(key): value for key, value in row.items()} for row in leaderboard.to_dict("records")]
    for row in rows:
        row["failed"] = as_text(row.get("status")) == "failed"

    def position(row: dict[str, Any]) -> tuple[bool, float]:
        rank = as_float(row.get("rank"))
        return row["failed"], math.inf if rank is None else rank

    return sorted(rows, key=position)


def goodness(values: Iterable[Any], higher_is_better: bool) -> list[float | None]:
    """Where each value lies between the worst (0) and the best (1) of its column; 0.5 when all are equal."""
    numbers = [as_float(value) for value in values]
    known = [value for value in numbers if value is not None]
    if not known:
        return numbers
    low, high = min(known), max(known)

    def place(value: float) -> float:
        share = (value - low) / (high - low) if high > low else 0.5
        return share if higher_is_better else 1 - share

    return [None if value is None else place(value) for value in numbers]


def best(values: Sequence[Any], higher_is_better: bool) -> float | None:
    """The best value of a column; None when there is nothing to compare."""
    known = [value for value in map(as_float, values) if value is not None]
    if len(known) < 2:
        return None
    return max(known) if higher_is_better else min(known)
