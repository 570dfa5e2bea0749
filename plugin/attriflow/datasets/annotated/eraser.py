"""Tasks of ERASER (DeYoung et al. 2020, eraserbenchmark.com): documents, labels, evidence by people.

A folder with `train.jsonl`, `val.jsonl`, `test.jsonl` and the documents: `docs/<docid>`, one sentence of
space-separated tokens per line, or `docs.jsonl` with `docid` and `document`. An annotation has `annotation_id`,
`classification`, `query` and `evidences`: groups of `{docid, start_token, end_token}`, ends not included.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

from attriflow.datasets import limits
from attriflow.datasets.annotated.common import merged, read_lines, text_field, token_spans
from attriflow.errors import InputError

SPLITS = ("train", "val", "test")


def read(path: Path, split: str | None = None, *, template: str = "{document}\n{query}") -> list[dict[str, Any]]:
    """Rows of a split: the documents and the query as the input, the label as the target.

    Args:
        path: The folder of a task.
        split: "train", "val" or "test"; None: "val".
        template: How documents and query become a prompt, for instance "{document} Question: {query} Answer:".

    Returns:
        `input`, `target`, `rationale` (one list for the whole target: the union of all groups of evidence; None without
        any) and `id`.
    """
    split = split or "val"
    if split not in SPLITS:
        raise InputError(f"there is no split {split!r}; there are {', '.join(SPLITS)}")
    fields = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    if fields.count("document") != 1 or set(fields) - {"document", "query"}:
        raise InputError(f"the template needs {{document}} once and may have {{query}}, not {template!r}")
    if not path.is_dir():
        raise InputError(f"{path} is no folder: ERASER tasks are folders with {split}.jsonl and docs")
    documents = _Documents(path)
    return [_row(where, item, documents, template) for where, item in read_lines(path / f"{split}.jsonl")]


def _row(where: str, item: dict[str, Any], documents: _Documents, template: str) -> dict[str, Any]:
    label, name = text_field(item, "classification", where), text_field(item, "annotation_id", where)
    evidence = [e for group in item.get("evidences") or () for e in group]
    ids = list(dict.fromkeys([*(item.get("docids") or ()), *(e.get("docid") for e in evidence)])) or [name]
    query = str(item.get("query") or "")
    before = template.partition("{document}")[0].format(query=query)
    text, spans, start = "", [], len(before)
    for docid in ids:
        tokens = documents.tokens(str(docid), where)
        places = token_spans(tokens, start + len(text) + (1 if text else 0))
        text += ("\n" if text else "") + " ".join(tokens)
        for found in (e for e in evidence if e.get("docid") == docid):
            first, last = found.get("start_token"), found.get("end_token")
            if not (isinstance(first, int) and isinstance(last, int) and 0 <= first < last <= len(tokens)):
                raise InputError(f"{where}: tokens {first} to {last} are not within the {len(tokens)} of '{docid}'")
            spans.append([places[first][0], places[last - 1][1]])
    whole = template.format(document=text, query=query)
    return {"input": whole, "target": label, "rationale": merged(spans, whole) or None, "id": name}


class _Documents:
    """Documents by name, each read when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known: dict[str, list[str]] = {}
        together = folder / "docs.jsonl"
        if together.is_file():
            for where, item in read_lines(together):
                self.known[text_field(item, "docid", where)] = text_field(item, "document", where).split()

    def tokens(self, docid: str, where: str) -> list[str]:
        if docid not in self.known:
            path = self.folder / "docs" / docid
            if (self.folder / "docs").resolve() not in path.resolve().parents or not path.is_file():
                raise InputError(f"{where}: there is no document '{docid}' in {self.folder / 'docs'}")
            limits.check_whole(path)
            self.known[docid] = path.read_text(encoding="utf-8").split()
        return self.known[docid]
