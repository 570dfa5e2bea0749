"""Write the tables of methods, step functions, metrics and aggregators, and how many there are, from the registries.

Usage: ``python recipes/make_docs.py [--check]``. The tables stand between ``<!-- table: NAME -->`` and
``<!-- end table -->`` in README.md and docs/*.md, numbers between ``<!-- count: NAME -->`` and ``<!-- end count -->``;
``--check`` only tells whether they are up to date. The table of scaling curves is that of docs/images/scaling.json,
those of supported models and of what a device is asked for are from docs/supported-models.json and
docs/device-counts.csv, that of differences from Inseq is from tests/parity/differences.py.
"""

from __future__ import annotations

import csv
import dataclasses
import inspect
import json
import re
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attriflow.registry import PartInfo, aggregation_functions, aggregators, methods, metrics, step_functions

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end table -->)", re.DOTALL)
COUNT = re.compile(r"(<!-- count: (\w+) -->)[^<]*(<!-- end count -->)")
Column = Callable[[PartInfo], str]


def options(info: PartInfo) -> str:
    """Options with their defaults, and the other values of those that have a few by name."""
    return ", ".join(f"`{k}={_short(v)}`{_others(info.choices(k), v)}" for k, v in info.options.items()) or "-"


def _others(choices: list[Any], default: Any) -> str:
    others = [f"`{c}`" for c in choices if c != default]
    return f" ({', '.join(others)})" if 0 < len(others) < 5 else ""


def _short(value: Any) -> str:
    text = repr(value) if not isinstance(value, str) else f'"{value}"'
    return text if len(text) <= 30 and " object at " not in text else "..."


def meta(name: str) -> Column:
    """A column that shows one piece of metadata."""
    return lambda info: str(info.meta.get(name, "-"))


def direction(info: PartInfo) -> str:
    """The better direction."""
    return {True: "higher", False: "lower", None: "-"}[info.meta["higher_is_better"]]


def value_range(info: PartInfo) -> str:
    """From where to where values go."""
    low, high = info.meta["range"]
    if low is None:
        return "any number" if high is None else f"up to {high:g}"
    return f"{low:g} and up" if high is None else f"{low:g} to {high:g}"


TABLES: Mapping[str, tuple[Any, Mapping[str, Column]]] = {
    "methods": (
        methods,
        {"family": meta("family"), "cost": meta("cost"), "axes": meta("axes"), "what": lambda i: i.summary},
    ),
    "method_blind_spots": (methods, {"what its scores cannot show": meta("blind")}),
    "method_options": (methods, {"options": options, "source": meta("paper")}),
    "step_functions": (step_functions, {"unit": meta("unit"), "options": options, "what": lambda i: i.summary}),
    "step_function_meanings": (
        step_functions,
        {"unit": meta("unit"), "high means": meta("higher"), "over a span": meta("span"), "source": meta("paper")},
    ),
    "metrics": (
        metrics,
        {"family": meta("family"), "better": direction, "range": value_range, "what": lambda i: i.summary},
    ),
    "metric_costs": (
        metrics,
        {
            "default": lambda i: "yes" if i.meta["default"] else "",
            "needs": lambda i: ", ".join(i.meta["needs"]) or "-",
            "cost": meta("cost"),
            "options": options,
            "source": meta("source"),
        },
    ),
    "aggregators": (aggregators, {"what": lambda i: i.summary, "options": options}),
    "aggregation_functions": (aggregation_functions, {"what": lambda i: i.summary, "options": options}),
}


def table(name: str) -> str:
    """A Markdown table of a registry, or of measured curves."""
    if name == "scaling":
        return scaling()
    if name in SUPPORTED:
        return SUPPORTED[name](json.loads((ROOT / "docs" / "supported-models.json").read_text(encoding="utf-8")))
    if name == "half_precision":
        return half_precision()
    if name == "device_counts":
        return device_counts()
    if name in INSEQ:
        return INSEQ[name]()
    registry, columns = TABLES[name]
    rows = [["name", *columns], ["---"] * (len(columns) + 1)]
    rows += [
        [f"`{info.name}`", *(column(info).replace("|", "\\|") for column in columns.values())] for info in registry
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def scaling() -> str:
    """The table of the curves in docs/images/scaling.png."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import scaling as curves

    return curves.table(curves.read(ROOT / "docs" / "images" / "scaling.json")).strip()


def supported(states: tuple[str, ...]) -> Callable[[Mapping[str, Any]], str]:
    """A table of the architectures that ended in some states; those with reasons have them."""

    def made(stored: Mapping[str, Any]) -> str:
        rows = [["model type", "architecture", "precision", "result"], ["---"] * 4]
        for name, found in stored["architectures"].items():
            if found["state"] in states:
                rows.append([f"`{name.partition(':')[2]}`", *_cells(found)])
        return "\n".join("| " + " | ".join(row) + " |" for row in rows)

    return made


def _cells(found: Mapping[str, Any]) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for method, reason in found.get("reasons", {}).items():
        by_reason.setdefault(_short_reason(reason, found), []).append(f"`{method}`")
    parts = [f"{', '.join(names)}: {reason}" for reason, names in by_reason.items()]
    parts = parts or [_short_reason(found.get("reason", ""), found)]
    what = {"exact": "exact", "exact in parts": "exact but for ", "refused": "refused: ", "not built": "not tried: "}
    result = what.get(found["state"], f"{found['state']}: ") + "; ".join(parts)
    return [f"`{found['class']}`" if "class" in found else "", found.get("dtype", ""), result.replace("|", "\\|")]


def _short_reason(reason: str, found: Mapping[str, Any]) -> str:
    """What is said of an architecture in its own row."""
    return textwrap.shorten(reason.removeprefix(f"{found.get('class')} "), 150, placeholder=" ...")


def supported_counts(stored: Mapping[str, Any]) -> str:
    """How many architectures ended how."""
    counts = Counter(found["state"] for found in stored["architectures"].values())
    packages = ", ".join(f"{name} {version}" for name, version in stored["versions"].items())
    rows = [["result", "architectures"], ["---", "---:"], *([s, str(n)] for s, n in counts.most_common())]
    rows.append(["in all", str(counts.total())])
    return f"With {packages}:\n\n" + "\n".join("| " + " | ".join(row) + " |" for row in rows)


SUPPORTED: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "supported_counts": supported_counts,
    "supported_exact": supported(("exact",)),
    "supported_in_parts": supported(("exact in parts", "refused", "wrong", "raw error")),
    "supported_not_tried": supported(("not built",)),
}


def half_precision() -> str:
    """The table of docs/half-precision.csv."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import half_precision as halves

    return halves.table(halves.read(ROOT / "docs" / "half-precision.csv"))


def device_counts() -> str:
    """The table of docs/device-counts.csv, before and after in a cell."""
    path = ROOT / "docs" / "device-counts.csv"
    if not path.exists():
        return "Not counted yet."
    kinds = ("operations", "waits", "uploads")
    rows = [["method", "answer", *kinds], ["---", "---:", "---:", "---:", "---:"]]
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            cells = (_change(row.get(f"{kind}_before"), row[kind]) for kind in kinds)
            rows.append([f"`{row['method']}`", row["answer"], *cells])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n\n[As CSV](device-counts.csv)."


def _change(before: str | None, now: str) -> str:
    return f"{int(before):,} → {int(now):,}" if before else f"{int(now):,}"


def inseq_names() -> str:
    """Every name of `attriflow.inseq` and its rooms."""
    from attriflow import inseq

    rows = [["name", "what it is here"], ["---", "---"]]
    rooms = {"": inseq, ".data": inseq.data, ".attr": inseq.attr, ".models": inseq.models}
    rooms[".commands.attribute_context"] = inseq.commands.attribute_context
    for module, room in rooms.items():
        for name in sorted(room.__all__):
            what = getattr(room, name)
            text = (inspect.getdoc(what) or "").split("\n", 1)[0] if callable(what) else "Every step function by name."
            if not any(f"`{name}`" in row[0] for row in rows):
                rows.append([f"`inseq{module}`: `{name}`" if module else f"`{name}`", _safe(text)])
    return _rows(rows)


def inseq_keywords() -> str:
    """Every keyword of the functions that Inseq's users call, from signatures and docstrings."""
    from attriflow.inseq.commands.attribute_context.attribute_context import AttributeContextArgs
    from attriflow.inseq.data.attribution import FeatureAttributionOutput, FeatureAttributionSequenceOutput
    from attriflow.inseq.models import AttributionModel, load_model

    rows = [["call", "keyword", "here"], ["---", "---", "---"]]
    one, several = FeatureAttributionSequenceOutput, FeatureAttributionOutput
    calls = {
        "load_model": load_model,
        "model.attribute": AttributionModel.attribute,
        "aggregate": one.aggregate,
        "show": one.show,
        "out.save": several.save,
        "load": several.load,
    }
    for call, function in calls.items():
        said = _arguments(inspect.getdoc(function) or "")
        for parameter in inspect.signature(function).parameters.values():
            if parameter.name != "self":
                stars = "**" if parameter.kind is parameter.VAR_KEYWORD else ""
                rows.append([f"`{call}`", f"`{stars}{parameter.name}`", _safe(said[stars + parameter.name])])
    names = ", ".join(f"`{f.name}`" for f in dataclasses.fields(AttributeContextArgs))
    rows.append(["`AttributeContextArgs`", names, "The same; nobody is asked: `manual` is `auto`."])
    return _rows(rows)


def inseq_scripts() -> str:
    """What the tests run on both: `tests/data/inseq/scripts.py` and what Inseq left."""
    folder = ROOT / "tests" / "data" / "inseq"
    left = json.loads((folder / "scripts.json").read_text(encoding="utf-8"))
    rows = [["script", "on Inseq", "on `attriflow.inseq`"], ["---", "---", "---"]]
    for name, found in left.items():
        there = f"does not run here: {found['error'].split(':')[0]}" if "error" in found else "runs"
        compared = ", ".join(f"`{key}`" for key in found.get("result", {}))
        rows.append([name, there, f"runs; equal: {compared}" if compared else "runs"])
    return _rows(rows)


def inseq_differences() -> str:
    """What differs on purpose and the tests that hold it: `tests/parity/differences.py`."""
    sys.path.insert(0, str(ROOT / "tests" / "parity"))
    from differences import DIFFERENCES

    rows = [["what", "Inseq", "attriflow", "tests"], ["---"] * 4]
    return _rows([*rows, *([_safe(cell) for cell in one.cells()] for one in DIFFERENCES)])


def _arguments(doc: str) -> dict[str, str]:
    """The section "Args" of a docstring, by parameter."""
    out: dict[str, str] = {}
    section = doc.partition("Args:\n")[2].partition("\n\n")[0]
    for entry in re.findall(r"^    (\S.*(?:\n {8}.*)*)", section, re.MULTILINE):
        names, _, text = " ".join(entry.split()).partition(": ")
        out.update(dict.fromkeys(names.split(", "), text))
    return out


def _safe(text: str) -> str:
    return text.replace("|", "\\|")


def _rows(rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


INSEQ = {
    "inseq_names": inseq_names,
    "inseq_keywords": inseq_keywords,
    "inseq_scripts": inseq_scripts,
    "inseq_differences": inseq_differences,
}


def render(text: str) -> str:
    """The text with every table and number made anew."""
    text = COUNT.sub(lambda m: f"{m[1]}{len(TABLES[m[2]][0].names())}{m[3]}", text)
    return BLOCK.sub(lambda m: f"{m[1]}\n{table(m[2])}\n\n{m[3]}", text)


def main(check: bool) -> int:
    """Write the tables, or tell which files are out of date."""
    stale = []
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = path.read_text(encoding="utf-8")
        made = render(text)
        if made != text:
            stale.append(path.relative_to(ROOT))
            if not check:
                path.write_text(made, encoding="utf-8")
    for path in stale:
        print(f"{'out of date' if check else 'written'}: {path}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
