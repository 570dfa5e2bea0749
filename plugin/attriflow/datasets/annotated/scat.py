"""SCAT+ and DiscEval-MT as Inseq publishes them (inseq/scat, inseq/disc_eval_mt): ambiguous words and their context.

JSON lines with the fields `context_en`, `en`, `context_fr`, `fr`, `contrast_fr` and the same with tags under
`..._with_tags`: `<p>...</p>` around the ambiguous words, `<hon>...<hoff>` around the words that people used to choose
their translation. Sources: Yin et al. 2021 (SCAT), Sarti et al. 2024 (SCAT+), Bawden et al. 2018 (DiscEval-MT).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from attriflow.datasets.annotated.common import Span, merged, read_lines, text_field
from attriflow.errors import InputError

_TAG = re.compile(r"<(/?)(p|hon|hoff)>")


def read(
    path: Path,
    split: str | None = None,
    *,
    source: str = "en",
    target: str = "fr",
    separator: str = " ",
    supported_only: bool = False,
) -> list[dict[str, Any]]:
    """Rows of a file: context and source sentence as the input, the translation as the target.

    Args:
        path: A .jsonl or .json file.
        split: None or "train": such a file is one split.
        source, target: The languages, as the fields call them.
        separator: Between context and sentence in the input: what the model was trained with.
        supported_only: Leave out rows whose input has no tagged context.

    Returns:
        `input`, `target`, `contrast_target` (when given) and `rationale`: for the words of the target that are tagged
        as ambiguous the tagged context in the input, for the other words nothing; and `input_context`,
        `input_current`, `output_context`, which `attribute_context` takes. Context that is tagged in the target
        language only is no evidence in an input.
    """
    if split not in (None, "train"):
        raise InputError(f"there is no split {split!r}: {path.name} is one split; give the file of that one")
    rows = []
    for where, item in read_lines(path):
        context, in_context = _tagged(item, f"context_{source}", where)
        current, in_current = _tagged(item, source, where)
        output, in_output = _tagged(item, target, where)
        text = f"{context}{separator}{current}" if context else current
        offset = len(text) - len(current)
        evidence = merged([*in_context["hon"], *([a + offset, b + offset] for a, b in in_current["hon"])], text)
        if supported_only and not evidence:
            continue
        words = [m.span() for m in re.finditer(r"\S+", output)]
        asked = [any(a < end and start < b for a, b in in_output["p"]) for start, end in words]
        row = {
            "input": text,
            "target": output,
            "rationale": [evidence if chosen else [] for chosen in asked],
            "input_context": context,
            "input_current": current,
            "output_context": str(item.get(f"context_{target}") or ""),
        }
        if isinstance(item.get(f"contrast_{target}"), str):
            row["contrast_target"] = item[f"contrast_{target}"]
        rows.append(row)
    return rows


def _tagged(item: dict[str, Any], field: str, where: str) -> tuple[str, dict[str, list[Span]]]:
    """A text without its tags, and the spans that were tagged, by tag."""
    marked = text_field(item, f"{field}_with_tags", where)
    text, spans, opened, last = "", {"p": [], "hon": []}, {}, 0  # type: ignore[var-annotated]
    for match in _TAG.finditer(marked):
        text += marked[last : match.start()]
        last = match.end()
        closing = match[1] == "/" or match[2] == "hoff"
        name = "hon" if match[2] == "hoff" else match[2]
        if closing and name in opened:
            start, end = opened.pop(name), len(text)
            inner = text[start:end]
            start, end = start + len(inner) - len(inner.lstrip()), end - (len(inner) - len(inner.rstrip()))
            if start < end:
                spans[name].append([start, end])
        elif closing or name in opened:
            raise InputError(f"{where}: tags in '{field}_with_tags' do not match: {marked!r}")
        else:
            opened[name] = len(text)
    if opened:
        raise InputError(f"{where}: tags in '{field}_with_tags' do not match: {marked!r}")
    return text + marked[last:], spans
