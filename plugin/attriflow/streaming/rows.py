"""One window of rows: explained together, the rows that cannot be apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from attriflow.datasets import Row
from attriflow.errors import (
    AttriflowError,
    MissingExtraError,
    OptionError,
    UnknownNameError,
    UnsupportedModelError,
    printable,
)
from attriflow.io.records import Record, to_record
from attriflow.streaming.fields import Fields
from attriflow.types import Attribution

Explain = Callable[..., Sequence[Attribution]]
"""`AttributionModel.attribute` with its options bound: takes the texts of several rows by keyword (`Fields.texts`)."""

Result = list[Attribution] | Exception
"""What one row gave."""

# Nothing to do with a row: every other row would fail, too.
FATAL = (UnknownNameError, OptionError, UnsupportedModelError, MissingExtraError, *(
    (torch.AcceleratorError,) if hasattr(torch, "AcceleratorError") else ()
))  # fmt: skip


def explain_window(window: Sequence[Row], fields: Fields, explain: Explain) -> list[Result]:
    """One result per row of the window."""
    results: list[Any] = [None] * len(window)
    good: list[int] = []
    texts: list[dict[str, Any]] = []
    for i, row in enumerate(window):
        try:
            texts.append(fields.texts(row))
            good.append(i)
        except AttriflowError as error:
            results[i] = error
    for i, result in zip(good, _explain(texts, explain), strict=True):
        results[i] = result
    return results


def _explain(texts: list[dict[str, Any]], explain: Explain) -> list[Result]:
    """All together; where that fails, each half for itself, down to the rows that fail alone."""
    if not texts:
        return []
    try:
        found = list(explain(**{key: [row[key] for row in texts] for key in texts[0]}))
        each = len(found) // len(texts)  # several sequences per text, where generation gives them
        parts: list[Result] = [found[i * each : (i + 1) * each] for i in range(len(texts))]
        for i in range(len(texts)):
            # a row without steps among others says why it has none when it is alone
            if len(texts) > 1 and not any(a.targets for a in found[i * each : (i + 1) * each]):
                parts[i] = _explain(texts[i : i + 1], explain)[0]
        return parts
    except FATAL:
        raise
    except Exception as error:
        if len(texts) == 1:
            return [error]
    half = len(texts) // 2
    return _explain(texts[:half], explain) + _explain(texts[half:], explain)


def reason(error: Exception) -> str:
    """One line."""
    text = " ".join(printable(str(error)).split())
    return text if isinstance(error, AttriflowError) and text else f"{type(error).__name__}: {text}"


def records(first: int, results: Sequence[Result]) -> Iterator[Record]:
    """Records of a window that begins at row `first`. Seconds are left out: they differ from run to run."""
    for row, result in enumerate(results, first):
        if isinstance(result, Exception):
            yield {"row": row, "error": reason(result)}
            continue
        for sequence, attribution in enumerate(result):
            timeless = dataclasses.replace(attribution.provenance, seconds=0.0)
            marks = {"row": row} if len(result) == 1 else {"row": row, "sequence": sequence}
            yield {**marks, **to_record(attribution.replace(provenance=timeless))}
