"""Write the demo data sets that ship with the package: from fixed seeds, in seconds, without training.

Usage: ``python recipes/make_demo_data.py [--out DIR]``
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "plugin"))  # the recipe runs from a checkout, installed or not

from attriflow.demo import (  # noqa: E402
    MODELS,
    contexts,
    grammar,
)

DATASET_SIZE = 300
DRAW = {"recall": grammar.recall_example, "translate": grammar.translate_example}


def draw_examples(name: str, rng: random.Random, count: int) -> list[grammar.Example]:
    """Draw distinct held-out examples."""
    examples: dict[str, grammar.Example] = {}
    while len(examples) < count:
        example = DRAW[name](rng, training=False)
        examples.setdefault(example.input, example)
    return list(examples.values())


def shipped_examples(name: str) -> list[grammar.Example]:
    """The examples of a model that ship with the package."""
    return draw_examples(name, random.Random(f"data-{name}"), DATASET_SIZE)


def write(rows: Iterable[Any], path: Path) -> None:
    """Write data classes as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(dataclasses.asdict(row), ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Write everything."""
    parser = argparse.ArgumentParser(description="Write the demo data sets.")
    parser.add_argument("--out", type=Path, default=ROOT / "plugin" / "attriflow" / "demo")
    out = parser.parse_args().out
    for name in MODELS:
        write(shipped_examples(name), out / name / "data.jsonl")
    write((e for name in MODELS for e in contexts.draw_contexts(name)), out / "context.jsonl")


if __name__ == "__main__":
    main()
