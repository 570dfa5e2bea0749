"""Verdicts of a regression check for terminals, GitHub and whatever reads JUnit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from attriflow.regression.verdicts import MISSING, NEW, OK, REGRESSION, UNTESTED, Verdict
from attriflow.views.common import compact, number, printable

if TYPE_CHECKING:
    from rich.table import Table

_SIGNS = {OK: "✓", REGRESSION: "✗", MISSING: "✗", NEW: "+", UNTESTED: "?"}
_STYLES = {OK: "", REGRESSION: "bold red", MISSING: "bold red", NEW: "dim", UNTESTED: "yellow"}


def summary(verdicts: Sequence[Verdict]) -> str:
    """The result in one sentence."""
    counts = {name: sum(v.outcome == name for v in verdicts) for name in (REGRESSION, MISSING, NEW, UNTESTED, OK)}
    words = {REGRESSION: "worse", MISSING: "missing", NEW: "new", UNTESTED: "untested", OK: "within the limits"}
    parts = [f"{count} {words[name]}" for name, count in counts.items() if count]
    return f"{'Failed' if any(v.failed for v in verdicts) else 'Passed'}: {', '.join(parts) or 'nothing to compare'}."


def ordered(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Failures first."""
    places = (REGRESSION, MISSING, UNTESTED, NEW, OK)
    return sorted(verdicts, key=lambda v: (not v.failed, places.index(v.outcome)))


def verdict_table(verdicts: Sequence[Verdict], title: str = "") -> Table:
    """A table for the terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(printable(title), style="bold") if title else None, box=box.SIMPLE_HEAD, pad_edge=False)
    table.title_justify = "left"
    table.add_column("")
    table.add_column("what", overflow="fold", ratio=2)
    for head in ("baseline", "current"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold", ratio=3)
    for v in ordered(verdicts):
        style = _STYLES[v.outcome] if v.failed or v.outcome not in (REGRESSION, MISSING) else "yellow"
        cells = [_SIGNS[v.outcome], v.name, *_numbers(v), v.message]
        table.add_row(*(Text(printable(cell)) for cell in cells), style=style)
    return table


def _numbers(v: Verdict) -> tuple[str, str]:
    form = compact if v.kind == "speed" else number
    return form(v.baseline), form(v.current)


def markdown(verdicts: Sequence[Verdict], title: str, most: int = 100) -> str:
    """A section for the summary of a build: failures in full, the rest folded away."""
    failed = [v for v in ordered(verdicts) if v.failed]
    others = [v for v in ordered(verdicts) if not v.failed]
    lines = [f"## {title}", "", summary(verdicts), ""]
    if failed:
        lines += [*_rows(failed[:most]), ""]
    if others:
        lines += ["<details><summary>Everything else</summary>", "", *_rows(others[:most]), "", "</details>", ""]
    left = max(0, len(failed) - most) + max(0, len(others) - most)
    return "\n".join([*lines, *([f"{left} more are not shown.", ""] if left else [])])


def _rows(verdicts: Sequence[Verdict]) -> list[str]:
    def escaped(text: str) -> str:
        text = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
        return " ".join(text.split())

    lines = ["| | what | baseline | current | verdict |", "| --- | --- | ---: | ---: | --- |"]
    for v in verdicts:
        lines.append(f"| {_SIGNS[v.outcome]} | {escaped(v.name)} | {' | '.join(_numbers(v))} | {escaped(v.message)} |")
    return lines


def junit(verdicts: Sequence[Verdict], title: str) -> str:
    """JUnit XML: one case per verdict; what could not be tested is skipped, with the reason."""
    skipped = [v for v in verdicts if v.outcome == UNTESTED]
    counts = {"tests": len(verdicts), "failures": sum(v.failed for v in verdicts), "skipped": len(skipped)}
    attributes = {"name": printable(title, keep=""), "errors": "0", **{k: str(n) for k, n in counts.items()}}
    root = ElementTree.Element("testsuites", attributes)
    suite = ElementTree.SubElement(root, "testsuite", attributes)
    for v in verdicts:
        case = ElementTree.SubElement(
            suite, "testcase", {"classname": f"attriflow.{v.kind}", "name": printable(v.name, keep=""), "time": "0"}
        )
        message = printable(v.message, keep="")
        if v.failed:
            ElementTree.SubElement(case, "failure", {"type": v.outcome, "message": message}).text = message
        elif v.outcome == UNTESTED:
            ElementTree.SubElement(case, "skipped", {"message": message})
        else:
            ElementTree.SubElement(case, "system-out").text = message
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"
