"""What an accelerator would be paid for, counted without one: operations started, waits of the host, uploads.

Usage: ``python benchmarks/device_counts.py [METHOD ...] [--answers N ...] [--out benchmarks/baselines/counts.json]
[--csv docs/device-counts.csv] [--before CSV]``. One attribution of each method on a tiny GPT-2 that lies on a device in
ordinary memory (`tests/toys/second_device.py`), with answers of several lengths; what is found out once per model is
not counted. The numbers are exact, those of one version of torch and transformers. ``--out`` records them for
``attriflow check``, ``--csv`` as a table, with the columns ``*_before`` from another one.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import transformers

import attriflow
from attriflow.model import AttributionModel
from attriflow.registry import methods

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "toys"))

ANSWERS, PROMPT = (16, 48), 12
KINDS = ("operations", "waits", "uploads")
SAMPLES = {"lime": 32, "kernel_shap": 32, "shapley_sampling": 32, "context_cite": 32}
FIELDS = ("method", "answer", *(f"{kind}{when}" for kind in KINDS for when in ("_before", "")))

Counts = dict[tuple[str, int], tuple[int, ...]]
"""(method, tokens of the answer) -> operations, waits, uploads."""


def names() -> list[str]:
    """Methods that are counted."""
    return sorted(m.name for m in methods if not m.name.startswith("ferret"))


def model() -> AttributionModel:
    """A GPT-2 of two layers on the second device, which must be there (`second_device.present`)."""
    from words import WORDS, word_tokenizer

    torch.manual_seed(0)
    sizes = {"vocab_size": len(WORDS), "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256}
    config = transformers.GPT2Config(**sizes, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    return attriflow.load_model(transformers.GPT2LMHeadModel(config).eval().to("sim"), tokenizer=word_tokenizer())


def texts(answer: int) -> tuple[str, str]:
    """A prompt, and the same with an answer of some tokens."""
    from words import WORDS

    draw = random.Random(1)
    words = [draw.choice(WORDS[4:]) for _ in range(PROMPT + answer)]
    return " ".join(words[:PROMPT]), " ".join(words)


def measured(methods: Sequence[str] = (), answers: Sequence[int] = ANSWERS) -> Counts:
    """Counts of one call each, the second one."""
    import second_device

    found: Counts = {}
    with second_device.present() as device, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = model()
        for name in methods or names():
            options = {"n_samples": SAMPLES[name]} if name in SAMPLES else {}
            for answer in answers:
                for _ in range(2):
                    device.counts()
                    wrapped.attribute(*texts(answer), method=name, show_progress=False, **options)
                found[name, answer] = tuple(device.counts())
    return found


def plain_forward(answer: int = ANSWERS[0]) -> tuple[int, ...]:
    """Counts of one plain forward of the same text: the unit."""
    import second_device

    with second_device.present() as device:
        wrapped = model()
        examples = wrapped.encode(*texts(answer))
        for _ in range(2):
            device.counts()
            wrapped.teacher_forced(examples)
        return tuple(device.counts())


def recorded(counts: Counts) -> dict[str, object]:
    """Counts in the form of pytest-benchmark, for `attriflow check`."""
    versions = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}
    entries = [
        {"name": f"{method}, {answer} tokens: {kind}", "extra_info": {"count": n}}
        for (method, answer), row in counts.items()
        for kind, n in zip(KINDS, row, strict=True)
    ]
    return {"machine_info": versions, "benchmarks": entries}


def rows(counts: Counts, before: Mapping[tuple[str, int], Mapping[str, str]]) -> list[dict[str, str]]:
    """Rows of the table, with what was counted before."""
    out = []
    for (method, answer), row in counts.items():
        old = before.get((method, answer), {})
        line = {"method": method, "answer": str(answer)}
        for kind, n in zip(KINDS, row, strict=True):
            line |= {f"{kind}_before": old.get(kind, ""), kind: str(n)}
        out.append(line)
    return out


def read(path: Path) -> dict[tuple[str, int], dict[str, str]]:
    """A table that was written before, by method and answer."""
    with path.open(encoding="utf-8", newline="") as file:
        return {(row["method"], int(row["answer"])): row for row in csv.DictReader(file)}


def table(path: Path) -> str:
    """A table as Markdown: per kind and answer, the numbers before and now."""
    found = read(path)
    answers = sorted({answer for _, answer in found})
    lines = [["method", *(f"{kind}, {answer} tokens" for kind in KINDS for answer in answers)]]
    lines.append(["---"] * len(lines[0]))
    for method in dict.fromkeys(name for name, _ in found):
        cells = []
        for kind in KINDS:
            for answer in answers:
                row = found[method, answer]
                before = row[f"{kind}_before"]
                cells.append(f"{int(before):,} → {int(row[kind]):,}" if before else f"{int(row[kind]):,}")
        lines.append([f"`{method}`", *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Count, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", help="all when none is named")
    parser.add_argument("--answers", type=int, nargs="+", default=ANSWERS, help="tokens of answers")
    parser.add_argument("--out", type=Path, help="a file for attriflow check")
    parser.add_argument("--csv", type=Path, help="a table")
    parser.add_argument("--before", type=Path, help="a table whose numbers become those before")
    arguments = parser.parse_args()
    counts = measured(arguments.methods, arguments.answers)
    for (method, answer), row in counts.items():
        print(f"{method:34s} {answer:3d} " + " ".join(f"{n:7d}" for n in row))
    print(f"{'a plain forward':34s} {ANSWERS[0]:3d} " + " ".join(f"{n:7d}" for n in plain_forward()))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(recorded(counts), indent=1) + "\n", encoding="utf-8")
    if arguments.csv is not None:
        with arguments.csv.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows(counts, read(arguments.before) if arguments.before else {}))


if __name__ == "__main__":
    main()
