"""HateXplain (Mathew et al. 2021): posts, the labels of three annotators, and the words they marked.

Either the authors' `dataset.json` (post id -> post, `annotators` a list of objects; splits in `post_id_divisions.json`
beside it), or rows as on the Hugging Face hub (JSON lines, `annotators` an object of lists, labels as numbers).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from attriflow.datasets.annotated.common import merged, read_json, read_lines, token_spans
from attriflow.errors import InputError, check_choice

LABELS = ("hatespeech", "normal", "offensive")
"""By their number on the hub."""
SPLITS = ("train", "val", "test")


def read(
    path: Path,
    split: str | None = None,
    *,
    template: str = "{post}",
    marked_by: Literal["any", "majority"] = "any",
) -> list[dict[str, Any]]:
    """Rows of posts: the words joined by spaces as the input, the label of most annotators as the target.

    Posts without a label that most annotators gave are left out, as in the paper.

    Args:
        path: `dataset.json`, or a .jsonl file of rows.
        split: "train", "val" or "test", for `dataset.json`; None: all of it.
        template: How a post becomes a prompt, for instance "{post} This is".
        marked_by: Evidence is what "any" of those who marked words has marked, as ferret takes it, or their "majority".

    Returns:
        `input`, `target`, `rationale` (one list for the whole target; None for posts without marked words) and `id`.
    """
    check_choice("marked_by", marked_by, ("any", "majority"))
    if template.count("{post}") != 1:
        raise InputError(f"the template needs {{post}} once, not {template!r}")
    before, _, after = template.partition("{post}")
    rows = []
    for where, name, item in _posts(path, split):
        tokens = item.get("post_tokens")
        if not isinstance(tokens, list) or not all(isinstance(t, str) for t in tokens) or not tokens:
            raise InputError(f"{where}: expected words in 'post_tokens'")
        label = _majority(_labels(item, where))
        if label is None:
            continue
        text = f"{before}{' '.join(tokens)}{after}"
        chosen = _marked(item.get("rationales") or [], len(tokens), marked_by, where)
        places = token_spans(tokens, len(before))
        spans = merged([place for place, one in zip(places, chosen, strict=True) if one], text)
        rows.append({"input": text, "target": label, "rationale": spans or None, "id": name})
    return rows


def _posts(path: Path, split: str | None) -> Iterator[tuple[str, str, dict[str, Any]]]:
    if path.suffix == ".jsonl":
        if split is not None and split != "train":
            raise InputError(f"there is no split {split!r}: {path.name} is one split; give the file of that one")
        for where, item in read_lines(path):
            yield where, str(item.get("id") or item.get("post_id") or ""), item
        return
    posts = read_json(path)
    if not isinstance(posts, dict):
        raise InputError(f"{path}: expected an object, post id -> post")
    names: Sequence[str] = list(posts)
    if split is not None:
        if split not in SPLITS:
            raise InputError(f"there is no split {split!r}; there are {', '.join(SPLITS)}")
        names = [n for n in read_json(path.with_name("post_id_divisions.json")).get(split, ()) if n in posts]
    for name in names:
        yield f"{path}, post {name}", name, posts[name]


def _labels(item: dict[str, Any], where: str) -> list[str]:
    given = item.get("annotators")
    labels = given.get("label") if isinstance(given, dict) else [a.get("label") for a in given or ()]
    named = [LABELS[v] if isinstance(v, int) and 0 <= v < len(LABELS) else v for v in labels or ()]
    if not named or any(v not in LABELS for v in named):
        raise InputError(f"{where}: expected labels in 'annotators', of {', '.join(LABELS)}")
    return named


def _majority(labels: list[str]) -> str | None:
    (label, count), *_ = Counter(labels).most_common()
    return label if 2 * count > len(labels) else None


def _marked(rationales: list[Any], length: int, marked_by: str, where: str) -> list[bool]:
    if any(not isinstance(r, list) or len(r) != length for r in rationales):
        raise InputError(f"{where}: every rationale needs one number per word, {length}")
    needed = 1 if marked_by == "any" else len(rationales) // 2 + 1
    return [bool(rationales) and sum(bool(r[i]) for r in rationales) >= needed for i in range(length)]
