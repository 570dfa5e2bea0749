"""Subject-verb agreement, as Linzen et al. 2016 publish it (agr_50_mostcommon_10K.tsv): the subject is the evidence.

Tab-separated values with a header (.tsv, also as .gz), or JSON lines with the same fields: `orig_sentence` (words
with spaces between them), `verb_index` and `subj_index` (the words' numbers, from 1), `verb_pos` (VBZ: singular, VBP:
plural), `n_diff_intervening` (attractors: nouns of the other number between subject and verb). A model reads the
sentence up to the verb; the head of the subject alone decides the verb's number, and is the evidence: the gold that
Arras et al. 2025 (arXiv 2502.15886) evaluate explanations by.
"""

from __future__ import annotations

import csv
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from attriflow.datasets import limits
from attriflow.datasets.annotated.common import read_lines, text_field, token_spans
from attriflow.errors import InputError, check_least

IRREGULAR: Mapping[str, str] = {"are": "is", "were": "was", "have": "has", "do": "does", "go": "goes"}
"""Plural -> singular, where no ending tells."""


def read(
    path: Path,
    split: str | None = None,
    *,
    sentence: str = "orig_sentence",
    attractors: int | None = None,
    prefix: str = "",
) -> list[dict[str, Any]]:
    """Rows of a file: the words before the verb as the input, the verb as the target.

    Args:
        path: A .tsv, .tsv.gz, .jsonl or .json file.
        split: None or "train": such a file is one split.
        sentence: The field that holds the sentence; "sentence" has parts of speech in place of rare words.
        attractors: Only rows with so many nouns of the other number between subject and verb.
        prefix: A text before every sentence, for models that need a beginning.

    Returns:
        `input`, `target`, `rationale` (the head of the subject), `contrast_target` (the verb in the other number, if it
        occurs in the file as a verb of that number or is irregular; else None), and where the file says so `attractors`
        and `distance` (in words). Rows whose verb stands before its subject are left out.
    """
    if split not in (None, "train"):
        raise InputError(f"there is no split {split!r}: {path.name} is one split; give the file of that one")
    if attractors is not None:
        check_least("attractors", attractors, 0)
    found = [_row(item, where, sentence, prefix) for where, item in _items(path)]
    forms = _forms((row["target"], row["number"]) for row in found)
    rows = []
    for row in found:
        number, subject, verb = row.pop("number"), row.pop("subject"), row.pop("verb")
        if subject >= verb or attractors not in (None, row["attractors"]):
            continue
        rows.append({**row, "contrast_target": forms.get((row["target"], number)), "distance": verb - subject})
    return rows


def _items(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if ".tsv" not in path.suffixes:
        yield from read_lines(path)
        return
    try:
        with limits.text(path, newline="") as file:
            lines = csv.DictReader(limits.lines(file, path), delimiter="\t", quoting=csv.QUOTE_NONE)
            for number, item in enumerate(lines):
                yield f"{path}, row {number}", item
    except InputError:
        raise
    except (OSError, EOFError, ValueError, csv.Error, zlib.error) as error:
        raise InputError(f"cannot read {path}: {error}") from None


def _row(item: Mapping[str, Any], where: str, sentence: str, prefix: str) -> dict[str, Any]:
    words = text_field(item, sentence, where).split()
    subject, verb = (_index(item, name, len(words), where) for name in ("subj_index", "verb_index"))
    number = item.get("verb_pos")
    if number not in ("VBZ", "VBP"):
        raise InputError(f"{where}: expected VBZ or VBP in 'verb_pos', not {number!r}")
    spans = token_spans(words, len(prefix))
    counted = item.get("n_diff_intervening")
    return {
        "input": prefix + " ".join(words[:verb]),
        "target": words[verb],
        "rationale": [spans[subject]],
        "attractors": None if counted in (None, "") else _whole(counted, "n_diff_intervening", where),
        "number": number,
        "subject": subject,
        "verb": verb,
    }


def _index(item: Mapping[str, Any], name: str, n_words: int, where: str) -> int:
    """A word's place from 0."""
    value = _whole(item.get(name), name, where)
    if not 1 <= value <= n_words:
        raise InputError(f"{where}: '{name}' is {value}, but the sentence has {n_words} words, counted from 1")
    return value - 1


def _whole(value: Any, name: str, where: str) -> int:
    try:
        return int(str(value))
    except ValueError:
        raise InputError(f"{where}: expected a whole number in '{name}', not {value!r}") from None


def _forms(verbs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """(form, number) -> the form of the other number, of the verbs of which both are known."""
    known = dict.fromkeys(verbs)
    pairs = dict(IRREGULAR)
    for plural in [form for form, number in known if number == "VBP" and form not in IRREGULAR]:
        for singular in (f"{plural}s", f"{plural}es", f"{plural[:-1]}ies"):
            if (singular, "VBZ") in known:
                pairs[plural] = singular
    out = {(plural, "VBP"): singular for plural, singular in pairs.items()}
    return out | {(singular, "VBZ"): plural for plural, singular in pairs.items()}
