"""Local copies of published data sets with human rationales, as rows with the columns of an evaluation.

One file per format, each with a function `read(path, split, **options)` that returns rows: `input`, `target`,
`rationale` (character spans, see `attriflow.evaluation.rationale`), and `contrast_target` where the data have one.
Nothing is downloaded; the licences of the data are those of their authors.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attriflow.errors import InputError, check_choice, check_keywords

if TYPE_CHECKING:
    import pandas as pd

FORMATS = ("agreement", "eraser", "hatexplain", "scat")


def format_of(name: str) -> str | None:
    """The format that a name such as "scat:test.jsonl" begins with; None for other names."""
    head, colon, _ = name.partition(":")
    return head if colon and head in FORMATS else None


def read_rows(form: str, path: str | Path, split: str | None = None, **options: Any) -> list[dict[str, Any]]:
    """Rows of a data set in a published format, see `read_annotated`."""
    check_choice("format", form, FORMATS)
    found = Path(path)
    if not found.exists():
        raise InputError(f"no such file or folder: {path}")
    from attriflow.datasets.annotated import agreement, eraser, hatexplain, scat

    readers: dict[str, Callable[..., Any]] = {
        "agreement": agreement.read,
        "eraser": eraser.read,
        "hatexplain": hatexplain.read,
        "scat": scat.read,
    }
    read = readers[form]
    allowed = [p.name for p in inspect.signature(read).parameters.values() if p.kind is p.KEYWORD_ONLY]
    check_keywords(f"the format '{form}'", options, allowed)
    rows: list[dict[str, Any]] = read(found, split, **options)
    if not rows:
        raise InputError(f"there are no rows in {path}")
    return rows


def read_annotated(form: str, path: str | Path, split: str | None = None, **options: Any) -> pd.DataFrame:
    """A data set in a published format as a data frame that an evaluation takes as it is.

    Args:
        form: "scat" (SCAT+ and DiscEval-MT as Inseq publishes them), "eraser", "hatexplain" or "agreement"
            (subject and verb, Linzen et al. 2016).
        path: The file, or for "eraser" the folder of a task.
        split: "train", "val" or "test", for formats that have splits; None: "val" for "eraser", all of "hatexplain".
        **options: Of the format, see `read` in its module.

    Raises:
        InputError: A file is missing or is not in this format; the message names file and row.
    """
    import pandas as pd

    return pd.DataFrame(read_rows(form, path, split, **options))
