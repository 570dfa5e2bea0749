"""JSON: one object with all records, or what Inseq saved."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from attriflow.datasets import limits
from attriflow.errors import InputError
from attriflow.io import inseqfiles
from attriflow.io.lines import check_record
from attriflow.io.records import Record, dumps, to_record

FORMAT = 2


def write(records: Iterable[Record], path: Path, run: str | None) -> None:
    """`{"format": 2, "run": ..., "attributions": [...]}`, a record per line."""
    with path.open("w", encoding="utf-8", newline="\n") as f:
        f.write(f'{{"format": {FORMAT}, "run": {json.dumps(run)}, "attributions": [')
        separator = "\n"
        for record in records:
            f.write(separator + dumps(record))
            separator = ",\n"
        f.write("\n]}\n")


def read(path: Path) -> Iterator[Record]:
    """Records of the file, which is read as a whole, also where it is compressed."""
    content = json.loads(limits.whole_json(path))
    if inseqfiles.is_document(content):
        yield from map(to_record, inseqfiles.attributions(content))
        return
    if isinstance(content, dict) and ("cti_scores" in content or "context" in str(content.get("format"))):
        raise InputError(f"{path} holds context attributions: attriflow.context.load reads them")
    if not isinstance(content, dict) or "attributions" not in content:
        raise InputError(f"{path} is a JSON file, but not one that attriflow wrote")
    if content.get("format") != FORMAT:
        raise InputError(f"{path} has format {content.get('format')}; this version reads format {FORMAT}")
    for index, record in enumerate(content["attributions"]):
        yield check_record(record, f"{path}, entry {index},")


def run_of(path: Path) -> str | None:
    """Mark in the head of the file, which is not read further."""
    with path.open(encoding="utf-8", errors="replace") as f:
        found = re.match(r'\{"format": \d+, "run": "(\w+)"', f.read(200))
    return found[1] if found else None
