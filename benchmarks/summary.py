"""The table at the end of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from attriflow.views.common import compact

COLUMNS = {
    "seconds": "seconds",
    "forward_pass_equivalents": "forward equiv.",
    "floor_forward_equivalents": "floor",
    "fraction_of_floor": "of floor",
    "model_flops_utilisation": "of matmul",
    "target_tokens_per_second": "tokens / s",
    "attributions_per_second": "attrib. / s",
    "peak_memory_mb": "peak MB",
    "interpreter_starts": "bare starts",
}
SHARES = ("fraction_of_floor", "model_flops_utilisation")


def cell(name: str, value: Any) -> str:
    """A number as text; shares in percent."""
    if value is None:
        return "-"
    return f"{100 * value:.0f}%" if name in SHARES else compact(float(value))


def summary(rows: Iterable[tuple[str, str, Mapping[str, Any]]]) -> str:
    """Rows (group, name, `extra_info`) as text, one block per group, with the columns that the group has."""
    blocks = []
    for group, members in groupby(sorted(rows, key=lambda r: r[0]), key=lambda r: r[0]):
        part = sorted(members, key=lambda r: r[2].get("forward_pass_equivalents", 0.0))
        columns = [c for c in COLUMNS if any(info.get(c) is not None for _, _, info in part)]
        lines = [[group, *(COLUMNS[c] for c in columns)]]
        lines += [[short(name), *(cell(c, info.get(c)) for c in columns)] for _, name, info in part]
        blocks.append(aligned(lines))
    return "\n\n".join(blocks)


def short(name: str) -> str:
    """The last part of a benchmark's name: the method of `test_method[toy-12+8x2-saliency]`."""
    inside = name.partition("[")[2].rstrip("]")
    return inside.rpartition("-")[2] or name


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns of equal width, the first one to the left."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            text.ljust(w) if i == 0 else text.rjust(w) for i, (text, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
