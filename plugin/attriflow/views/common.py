"""What the views share: readable tokens, texts and numbers."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from attriflow.errors import InputError, printable
from attriflow.types import Attribution, Provenance

if TYPE_CHECKING:
    import pandas as pd

SEGMENTS = ("source", "prompt", "generated")

_SYMBOLS = {" ": "␣", "\n": "⏎", "\t": "⇥", "\u00a0": "⍽"}


def explained(how: Provenance) -> str:
    """The function that is explained, as pages name it; logarithms (of spans, say) are called so."""
    name = printable(how.attributed_fn)
    return f"log {name}" if how.attributed_fn_args.get("logprob") is True else name


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as mappings."""
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


_FORMULA = ("=", "+", "-", "@", "\t", "\n")


def to_csv(frame: pd.DataFrame, **options: Any) -> str:
    """A table as CSV in which no text is a formula: spreadsheets show what begins with ' as it stands.

    Args:
        frame: The table. Numbers stay as they are.
        options: Of `pandas.DataFrame.to_csv`.
    """
    from pandas.api.types import is_numeric_dtype

    texts: dict[Any, Any] = {name: frame[name].map(_no_formula) for name in frame if not is_numeric_dtype(frame[name])}
    safe = frame.assign(**texts).rename(columns=_no_formula, index=_no_formula)
    return str(safe.to_csv(**options))


def _no_formula(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    cell = cell.replace("\r\n", "\n").replace("\r", "\n")  # a return alone would not be quoted, and begin a row
    return f"'{cell}" if cell.startswith(_FORMULA) and as_float(cell) is None else cell


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


def steps_are(attribution: Attribution) -> str:
    """What the steps are, in words."""
    return "generated tokens" if attribution.spans is None else "explained spans"


def foils(attribution: Attribution) -> list[str]:
    """What each step's token was compared with, as it can be seen; empty where that is the token itself.

    An empty list without a contrast, and for steps that were cut or merged since.
    """
    foil = attribution.provenance.foil
    if len(foil) != len(attribution.targets):
        return []
    return [token_text(f) if f != t.text else "" for f, t in zip(foil, attribution.targets, strict=True)]


def foil_text(attribution: Attribution) -> str:
    """The contrastive text in one line: what preceded it, where that differs, and its tokens; empty without one."""
    how = attribution.provenance
    parts = [how.foil_input, "→", *map(token_text, how.foil)] if how.foil_input else [token_text(f) for f in how.foil]
    return " ".join(" ".join(map(printable, parts)).split())


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


Wraps = int | str | Sequence[str]
"""Where lines are broken: after so many tokens, after a token, or after any of several."""


def breaks(tokens: Sequence[str], wrap_after: Wraps | None) -> set[int]:
    """Indices of the tokens after which a new line begins.

    Args:
        tokens: Token texts.
        wrap_after: A number of tokens, a token ("hi"), punctuation marks (".!?": any of them) or a list of tokens.
    """
    if wrap_after is None:
        return set()
    if isinstance(wrap_after, int) and not isinstance(wrap_after, bool) and wrap_after > 0:
        return set(range(wrap_after - 1, len(tokens), wrap_after))
    if isinstance(wrap_after, str):
        marks = not any(char.isalnum() for char in wrap_after)
        wrap_after = [wrap_after, *(wrap_after if marks else ())]
    if isinstance(wrap_after, (list, tuple, set)) and all(isinstance(token, str) for token in wrap_after):
        return {i for i, token in enumerate(tokens) if token.strip(" ") in wrap_after}
    raise InputError(f"wrap_after is a number of tokens, a token or a list of tokens, not {wrap_after!r}")
